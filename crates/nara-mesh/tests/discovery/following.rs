use std::collections::BTreeSet;
use std::time::Duration;

use nara_mesh::discovery::Found;
use nara_proto::breaker::BreakerState;
use tokio::time::Instant;

use crate::support::{World, name_of, nara, node};

/// The greatest delay until a change is known (issue: discovery).
const SOON: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn a_nara_that_joins_is_known_within_two_seconds() {
    let world = World::new();
    let mut found = world.run();
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![node("bob-x7q2", &["100.64.0.2"])]);
    let outcome = found.within(SOON).await;
    assert!(
        matches!(
            outcome,
            Found::Nara {
                host_name_fits: true,
                ..
            }
        ),
        "{outcome:?}"
    );
    let bob = world.known("bob").unwrap();
    assert_eq!(bob.address, "100.64.0.2:9632".parse().ok());
    assert_eq!(bob.key.unwrap().key, nara("bob").public_key());
}

#[tokio::test(start_paused = true)]
async fn a_nara_that_goes_offline_is_not_called_and_one_that_comes_back_is() {
    let world = World::new();
    let mut found = world.run();
    let bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    found.within(SOON).await;
    let asked = bob.connections();

    world.change(|nodes| nodes[0].online = Some(false));
    assert!(matches!(found.within(SOON).await, Found::Offline(_)));
    assert_eq!(world.breaker("bob"), BreakerState::Open);
    let error = world
        .client
        .ping("bob".parse::<nara_mesh::client::PeerRef>().unwrap())
        .await
        .unwrap_err();
    assert!(error.is_circuit_open(), "{error}");
    assert_eq!(bob.connections(), asked);

    world.change(|nodes| nodes[0].online = Some(true));
    assert_eq!(name_of(&found.within(SOON).await), "bob");
    assert_eq!(world.breaker("bob"), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_nara_whose_node_leaves_is_not_called_but_its_key_stays_pinned() {
    let world = World::new();
    let mut found = world.run();
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    found.within(SOON).await;
    world.set(Vec::new());
    assert!(matches!(found.within(SOON).await, Found::Left(_)));
    assert_eq!(world.breaker("bob"), BreakerState::Open);
    assert!(world.known("bob").unwrap().key.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_nara_starts_later_is_asked_again() {
    let world = World::new();
    let mut found = world.run();
    world.set(vec![node("bob", &["100.64.0.2"])]);
    assert!(matches!(found.within(SOON).await, Found::NoAnswer { .. }));
    assert!(matches!(found.within(2 * SOON).await, Found::NoAnswer { .. }));
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    assert_eq!(name_of(&found.within(4 * SOON).await), "bob");
}

#[tokio::test(start_paused = true)]
async fn pauses_between_questions_grow_to_a_minute() {
    let world = World::new();
    let mut found = world.run();
    world.set(vec![node("no-nara", &["100.64.0.2"])]);
    let mut last = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        found.next().await;
        pauses.push(last.elapsed().as_secs_f64());
        last = Instant::now();
    }
    // Each is spread by a quarter.
    assert!(
        pauses[1] <= 2.5 && pauses[11] >= 45.0 && pauses[11] <= 75.0,
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn silent_nodes_do_not_hold_up_one_that_joins() {
    let world = World::new();
    let mut found = world.run();
    let silent: Vec<_> = (0..100)
        .map(|number| node("silent", &[&format!("100.64.1.{number}")]))
        .collect();
    for candidate in &silent {
        world.network.silence(candidate.addresses[0]);
    }
    world.set(silent.clone());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.change(|nodes| nodes.push(node("bob", &["100.64.0.2"])));
    assert_eq!(name_of(&found.within(SOON).await), "bob");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_nodes_that_join_at_once_are_all_found() {
    const NODES: usize = 1000;
    let world = World::new();
    let mut found = world.run();
    let address = |number: usize| format!("100.64.{}.{}", 1 + number / 250, 1 + number % 250);
    let mut peers = Vec::new();
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let name = format!("nara{number}");
        nodes.push(node(&name, &[&address(number)]));
        // Every tenth node is a silent machine.
        if number % 10 == 0 {
            world.network.silence(nodes[number].addresses[0]);
        } else {
            let address = format!("{}:9632", address(number));
            peers.push(world.start(&nara(&name), &address).await);
        }
    }
    let begun = Instant::now();
    world.set(nodes);
    let (mut naras, mut silent) = (BTreeSet::new(), BTreeSet::new());
    while naras.len() + silent.len() < NODES {
        match found.next().await {
            Found::Nara { peer, .. } => {
                naras.insert(peer.name.unwrap());
            }
            Found::NoAnswer { candidate, .. } => {
                silent.insert(candidate.host_name);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((naras.len(), silent.len()), (900, 100));
    assert_eq!(world.client.registry().len(), 900);
    // Silent nodes take the time limit of a ping each, but concurrently.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
