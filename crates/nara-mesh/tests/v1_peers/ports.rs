//! V1 peers listen on 7433 and call 7433, contrary to the specification; and strangers on other ports.

use std::net::SocketAddr;

use http::StatusCode;
use nara_mesh::defaults::{LEGACY_MESH_PORT, MESH_PORT};
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::registry::KeySource;
use nara_mesh::transport::Transport as _;

use crate::support::{GRACE, Mesh, configured, ip, nara, tease};

#[tokio::test(start_paused = true)]
async fn strangers_of_v1_and_ours_meet_where_ours_listens_on_both_ports() {
    let mesh = Mesh::new();
    let alice = mesh.alice().start().await.unwrap();
    assert_eq!(alice.address().unwrap().port(), MESH_PORT);
    assert_eq!(alice.other_address().unwrap().port(), LEGACY_MESH_PORT);
    let greta = mesh.v1("greta", 2).await;

    // Alice asks greta for her key, at greta's only port.
    let (status, _) = greta.send_zine(ip(1), vec![greta.hey_there()]).await;
    assert_eq!(status, StatusCode::OK);
    let known = alice.registry().by_name("greta").unwrap().info();
    assert_eq!(known.address, Some(greta.address()));
    // Greta asks alice for hers, at the same port.
    let news = tease(&nara("alice"), "greta", mesh.now().get());
    alice
        .peer("greta")
        .exchange_zine(vec![news.clone()])
        .await
        .unwrap();
    assert!(greta.has(&news.id));
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_of_which_only_the_address_is_known_is_reached() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.alice().know(configured(&greta)).start().await.unwrap();
    let report = alice.peer("greta").ping().await.unwrap();
    assert_eq!(report.key_matches, Some(true));
    assert_eq!(alice.peer(ip(2)).ping().await.unwrap().response.from, "greta");
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_that_is_known_from_a_hey_there_is_reached() {
    let mesh = Mesh::new();
    let alice = mesh.alice().start().await.unwrap();
    let greta = mesh.v1("greta", 2).await;
    let hans = mesh.v1("hans", 3).await;
    // Hans forwards greta's event.
    hans.send_zine(ip(1), vec![greta.hey_there()]).await;
    let report = alice.peer("greta").ping().await.unwrap();
    assert_eq!(report.key_matches, Some(true));
    // A ping proves nothing, so only a signed answer settles the port.
    let of_greta = alice.peer("greta");
    of_greta.fetch_sync_events(SyncRequest::recent(1)).await.unwrap();
    let known = alice.registry().by_name("greta").unwrap().info();
    assert_eq!(known.address, Some(greta.address()));
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_nara_runs_without_the_second_port_if_that_is_taken() {
    let mesh = Mesh::new();
    let taken = SocketAddr::new(ip(1), LEGACY_MESH_PORT);
    let _other = mesh.network.host(ip(1)).listen(taken).await.unwrap();
    let alice = mesh.alice().start().await.unwrap();
    assert_eq!(alice.other_address(), None);
    let bob = mesh
        .nara("bob", 2, MESH_PORT)
        .know(alice.as_peer())
        .start()
        .await
        .unwrap();
    bob.peer("alice").ping().await.unwrap();
    alice.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn two_of_ours_on_ports_of_their_own_meet_though_one_does_not_know_the_other() {
    let mesh = Mesh::new();
    let alice = mesh
        .nara("alice", 1, 9700)
        .without_gossip()
        .start()
        .await
        .unwrap();
    let bob = mesh.nara("bob", 2, 9701).without_gossip();
    let bob = bob.know(alice.as_peer()).start().await.unwrap();
    let news = tease(&nara("bob"), "alice", mesh.now().get());
    bob.peer("alice").send_dm(news).await.unwrap();
    let known = alice.registry().by_name("bob").unwrap().info();
    let address = bob.address().unwrap();
    assert_eq!(known.address, Some(address));
    assert_eq!(known.key.unwrap().source, KeySource::Ping(address));
    alice.peer("bob").ping().await.unwrap();
    alice.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}

/// On one machine, over real sockets.
#[tokio::test]
async fn two_of_ours_on_one_machine_meet_on_unconfigured_ports() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let start = |name: &str| {
        nara_mesh::Nara::builder(nara(name))
            .without_gossip()
            .catch_up(false)
            .listen(anywhere)
            .loopback_for_tests()
    };
    let alice = start("alice").start().await.unwrap();
    let bob = start("bob").know(alice.as_peer()).start().await.unwrap();
    let recent = SyncRequest::recent(1);
    bob.peer("alice").fetch_sync_events(recent).await.unwrap();
    let known = alice.registry().by_name("bob").unwrap().info();
    assert_eq!(known.address, bob.address());
    alice.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_nara_that_is_known_without_its_port_is_called_where_it_says_that_it_listens() {
    let mesh = Mesh::new();
    let bob = nara("bob").as_peer(None).at_ip(ip(2));
    let alice = mesh.nara("alice", 1, MESH_PORT).without_gossip().know(bob);
    let alice = alice.start().await.unwrap();
    let bob = mesh.nara("bob", 2, 9701).without_gossip();
    let bob = bob.know(alice.as_peer()).start().await.unwrap();
    let refused = alice.peer("bob").ping().await.unwrap_err();
    assert!(refused.is_unreachable(), "{refused}");
    let recent = SyncRequest::recent(1);
    bob.peer("alice").fetch_sync_events(recent).await.unwrap();
    assert_eq!(
        alice.registry().by_name("bob").unwrap().info().address,
        bob.address()
    );
    alice.peer("bob").ping().await.unwrap();
    alice.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}
