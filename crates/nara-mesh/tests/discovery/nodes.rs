use nara_mesh::client::MeshClient;
use nara_mesh::discovery::Found;
use nara_mesh::transport::Candidate;

use crate::support::{World, ip, name_of, nara, node};

#[tokio::test(start_paused = true)]
async fn a_node_without_address_is_asked_when_it_gets_one() {
    let world = World::new();
    let mut found = world.run();
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![node("bob", &[])]);
    assert!(matches!(found.next().await, Found::Skipped(_)));
    world.set(vec![node("bob", &["100.64.0.2"])]);
    assert!(matches!(found.next().await, Found::Left(_)));
    assert_eq!(name_of(&found.next().await), "bob");
}

#[tokio::test(start_paused = true)]
async fn a_node_with_ipv6_alone_is_found() {
    let world = World::new();
    let mut found = world.run();
    let _bob = world.start(&nara("bob"), "[fd7a:115c:a1e0::2]:9632").await;
    world.set(vec![node("bob", &["fd7a:115c:a1e0::2"])]);
    assert_eq!(name_of(&found.next().await), "bob");
    assert_eq!(
        world.known("bob").unwrap().address,
        "[fd7a:115c:a1e0::2]:9632".parse().ok()
    );
}

#[tokio::test(start_paused = true)]
async fn ipv4_is_tried_before_ipv6_and_9632_before_7433() {
    let both = ["fd7a:115c:a1e0::2", "100.64.0.2"];
    let mut places = vec![
        "100.64.0.2:9632",
        "100.64.0.2:7433",
        "[fd7a:115c:a1e0::2]:9632",
        "[fd7a:115c:a1e0::2]:7433",
    ];
    while !places.is_empty() {
        let world = World::new();
        for place in &places {
            world.start(&nara("bob"), place).await;
        }
        world.set(vec![node("bob", &both)]);
        let found = world.discovery().run_once().await.unwrap();
        assert_eq!(name_of(&found[0]), "bob");
        assert_eq!(world.known("bob").unwrap().address, places[0].parse().ok());
        places.remove(0);
    }
}

#[tokio::test(start_paused = true)]
async fn tools_and_nodes_without_a_host_name_are_not_asked() {
    let world = World::new();
    let bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    for host_name in ["nara-backup-12345", "printer-1", ""] {
        world.set(vec![node(host_name, &["100.64.0.2"])]);
        let discovery = world.discovery().skip_prefix("printer-");
        let found = discovery.run_once().await.unwrap();
        assert!(matches!(found[..], [Found::Skipped(_)]), "{found:?}");
    }
    assert_eq!(bob.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_with_unknown_state_may_be_online() {
    let world = World::new();
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![Candidate::new("bob", vec![ip("100.64.0.2")])]);
    let found = world.discovery().run_once().await.unwrap();
    assert_eq!(name_of(&found[0]), "bob");
}

#[tokio::test(start_paused = true)]
async fn the_confirmed_owner_of_an_address_is_who_answers_there_under_its_own_name() {
    let world = World::new();
    let discovery = world.discovery();
    let peers = discovery.confirmed_peers();
    let mut found = world.run_as(discovery);
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    let _carol = world.start(&nara("carol"), "100.64.0.3:9632").await;
    // Other naras may share carol's machine.
    world.set(vec![
        node("bob-x7q2", &["100.64.0.2", "fd7a:115c:a1e0::2"]),
        node("raspberry", &["100.64.0.3"]),
    ]);
    found.next().await;
    found.next().await;
    for address in ["100.64.0.2", "fd7a:115c:a1e0::2", "::ffff:100.64.0.2"] {
        let owner = peers.owner_of(ip(address)).await;
        assert_eq!(owner.as_ref().map(|name| name.as_str()), Some("bob"), "{address}");
    }
    for address in ["100.64.0.3", "100.64.0.4"] {
        assert_eq!(peers.owner_of(ip(address)).await, None, "{address}");
    }
    world.set(Vec::new());
    found.next().await;
    found.next().await;
    assert_eq!(peers.owner_of(ip("100.64.0.2")).await, None);
}

#[tokio::test(start_paused = true)]
async fn an_impostor_of_this_nara_is_not_registered() {
    let world = World::new();
    let _copy = world.start(&nara("alice"), "100.64.0.2:9632").await;
    let _other = world
        .start(&crate::support::nara_with_seed("alice", 9), "100.64.0.3:9632")
        .await;
    world.set(vec![
        node("alice", &["100.64.0.2"]),
        node("alice", &["100.64.0.3"]),
    ]);
    let found = world.discovery().run_once().await.unwrap();
    assert!(matches!(
        found[..],
        [
            Found::Namesake { same_key: true, .. },
            Found::Namesake { same_key: false, .. }
        ]
    ));
    let client: &MeshClient = &world.client;
    assert!(client.registry().is_empty());
}
