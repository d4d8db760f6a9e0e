//! Claimed addresses of naras.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::Nara;
use nara_mesh::client::MeshClient;
use nara_mesh::gossip::GossipConfig;
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::{KeySource, PeerEvent, PeerInfo, PeerRegistry, PinnedKey};
use nara_mesh::transport::MemoryNetwork;
use nara_proto::sync::SyncRequest;

use crate::naras::{nara, pinned};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_elsewhere_proves_nothing_about_the_address_that_a_nara_claims() {
    let (ghost, caller) = (nara("ghost-7"), nara("alice"));
    let attacker = Nara::builder(ghost.clone())
        .listen("127.0.0.1:0".parse().unwrap())
        .know(caller.as_peer(None))
        .without_gossip()
        .catch_up(false)
        .start()
        .await
        .unwrap();
    let alice = MeshClient::builder(caller).build();
    let at = |address: SocketAddr| PeerInfo {
        name: Some(ghost.name().clone()),
        address: Some(address),
        ..PeerInfo::default()
    };
    // The address of a victim.
    let introduced = introduced(&ghost, "eve", ([127, 0, 0, 9], 9632).into());
    let known = alice.registry().register(introduced).unwrap();
    alice.registry().sign_of_life(&known);
    let mut proofs = proofs(alice.registry());

    // The attacker answers in the name of the ghost, at its own address.
    let address = attacker.address().unwrap();
    let answer = alice.fetch_sync_events(address, SyncRequest::recent(1)).await;
    assert_eq!(answer.unwrap().verification().key, Some(ghost.public_key()));
    assert_eq!(proofs(), 0);
    // At the claimed address, an answer counts.
    alice.registry().register(at(address)).unwrap();
    let answer = alice
        .fetch_sync_events(ghost.name(), SyncRequest::recent(1))
        .await;
    assert_eq!(answer.unwrap().verification().key, Some(ghost.public_key()));
    assert_eq!(proofs(), 1);
    attacker.shutdown(Duration::from_secs(5)).await;
}

/// Counts the events that an introduced nara has proven itself.
fn proofs(registry: &PeerRegistry) -> impl FnMut() -> usize + use<> {
    let mut changes = registry.subscribe();
    move || {
        let told = std::iter::from_fn(|| changes.try_recv().ok());
        told.filter(|change| matches!(change, PeerEvent::Seen(_))).count()
    }
}

fn introduced(ghost: &LocalNara, teller: &str, address: SocketAddr) -> PeerInfo {
    let source = KeySource::HeyThere {
        told_by: Some(teller.parse().unwrap()),
    };
    PeerInfo {
        name: Some(ghost.name().clone()),
        address: Some(address),
        key: Some(PinnedKey {
            id: None,
            source,
            ..pinned(ghost)
        }),
        ..PeerInfo::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_elsewhere_proves_nothing_about_the_address_that_a_nara_claims() {
    let ghost = nara("ghost-7");
    let bob = Nara::builder(nara("bob"))
        .listen("127.0.0.1:0".parse().unwrap())
        .without_gossip()
        .catch_up(false)
        .start()
        .await
        .unwrap();
    let victim = ([127, 0, 0, 9], 9632).into();
    bob.registry()
        .register(introduced(&ghost, "eve", victim))
        .unwrap();
    let mut proofs = proofs(bob.registry());
    let client = MeshClient::builder(ghost.clone()).build();
    client.registry().register(bob.as_peer()).unwrap();
    let call = async || {
        let answer = client.fetch_sync_events(bob.name(), SyncRequest::recent(1)).await;
        answer.unwrap();
    };
    // Possession of its key is proven once; calls from 127.0.0.1 prove nothing more.
    call().await;
    assert_eq!(proofs(), 1);
    call().await;
    assert_eq!(proofs(), 0);
    let own = PeerInfo {
        key: None,
        ..introduced(&ghost, "eve", ([127, 0, 0, 1], 9).into())
    };
    bob.registry().register(own).unwrap();
    call().await;
    assert_eq!(proofs(), 1);
    bob.shutdown(Duration::from_secs(5)).await;
}

/// On loopback many naras share an address, so this needs an in-memory network.
#[tokio::test(start_paused = true)]
async fn naras_that_call_from_one_address_have_a_bounded_share_of_gossip() {
    let network = MemoryNetwork::new();
    let (here, theirs) = ([100, 64, 0, 1].into(), [100, 64, 0, 9].into());
    let puppets: Vec<_> = (0..40).map(|number| nara(&format!("puppet-{number}"))).collect();
    let known = (9_000..)
        .zip(&puppets)
        .map(|(port, puppet)| introduced(puppet, &format!("eve-{port}"), SocketAddr::new(theirs, port)));
    let bob = Nara::builder(nara("bob"))
        .transport(Arc::new(network.host(here)))
        .listen(SocketAddr::new(here, 9632))
        .know_all(known)
        .gossip(GossipConfig::with_degree(20))
        .catch_up(false)
        .start()
        .await
        .unwrap();
    for puppet in &puppets {
        let client = MeshClient::builder(puppet.clone())
            .transport(Arc::new(network.host(theirs)))
            .build();
        client.registry().register(bob.as_peer()).unwrap();
        let answer = client.fetch_sync_events(bob.name(), SyncRequest::recent(1)).await;
        answer.unwrap();
    }
    let mut status = bob.gossip_status().unwrap();
    let mut most = 0;
    for _ in 0..60 {
        most = most.max(status.borrow_and_update().peers.len());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(most, 4);
    bob.shutdown(Duration::from_secs(5)).await;
}
