use std::sync::{Arc, Mutex};
use std::time::Duration;

use nara_mesh::discovery::Found;
use nara_mesh::registry::{PeerEvent, RegisterError};
use nara_proto::breaker::BreakerState;

use crate::support::{FakePeer, World, name_of, nara, nara_with_seed, node, pong};

#[tokio::test(start_paused = true)]
async fn another_key_for_a_known_name_is_refused_and_said() {
    let world = World::new();
    let mut events = world.client.registry().subscribe();
    let mut found = world.run();
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    let _mallory = world.start(&nara_with_seed("bob", 66), "100.64.0.3:9632").await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    assert_eq!(name_of(&found.next().await), "bob");
    // Bob's node is offline, so that only the key distinguishes them.
    world.change(|nodes| nodes[0].online = Some(false));
    found.next().await;
    world.change(|nodes| nodes.push(node("bob-x7q2", &["100.64.0.3"])));
    let refused = found.next().await;
    assert!(
        matches!(
            &refused,
            Found::Refused {
                error: RegisterError::KeyConflict(_),
                ..
            }
        ),
        "{refused:?}"
    );
    assert_eq!(
        world.known("bob").unwrap().key.unwrap().key,
        nara("bob").public_key()
    );
    assert_eq!(
        world.known("bob").unwrap().address,
        "100.64.0.2:9632".parse().ok()
    );
    let mut conflict = false;
    while let Ok(event) = events.try_recv() {
        conflict |= matches!(event, PeerEvent::KeyConflict(_));
    }
    assert!(conflict);
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_that_claim_one_nara_the_first_keeps_it_until_it_goes() {
    let world = World::new();
    let mut found = world.run();
    // A ping is unsigned: any nara can return bob's key.
    let _first = world.start(&nara("bob"), "100.64.0.2:9632").await;
    let _second = world.start(&nara("bob"), "100.64.0.3:9632").await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    found.next().await;
    world.change(|nodes| nodes.push(node("bob-1", &["100.64.0.3"])));
    let contested = found.next().await;
    let Found::Contested { name, holder, .. } = &contested else {
        panic!("{contested:?}");
    };
    assert_eq!(
        (name.as_str(), holder.to_string()),
        ("bob", "100.64.0.2:9632".to_owned())
    );
    assert_eq!(
        world.known("bob").unwrap().address,
        "100.64.0.2:9632".parse().ok()
    );

    world.change(|nodes| {
        nodes.remove(0);
    });
    assert!(matches!(found.next().await, Found::Left(_)));
    let moved = found.within(Duration::from_secs(75)).await;
    assert_eq!(name_of(&moved), "bob");
    assert_eq!(
        world.known("bob").unwrap().address,
        "100.64.0.3:9632".parse().ok()
    );
    assert_eq!(world.breaker("bob"), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_called_like_the_nara_is_believed_more_than_one_that_is_not() {
    let world = World::new();
    let mut found = world.run();
    let _mallory = world.start(&nara("bob"), "100.64.0.3:9632").await;
    let _bob = world.start(&nara("bob"), "100.64.0.2:9632").await;
    world.set(vec![node("mallory", &["100.64.0.3"])]);
    found.next().await;
    world.change(|nodes| nodes.push(node("bob", &["100.64.0.2"])));
    assert_eq!(name_of(&found.next().await), "bob");
    assert_eq!(
        world.known("bob").unwrap().address,
        "100.64.0.2:9632".parse().ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_to_another_address_is_followed() {
    let world = World::new();
    let mut found = world.run();
    let _old = world.start(&nara("bob"), "100.64.0.2:9632").await;
    let _new = world.start(&nara("bob"), "100.64.0.9:9632").await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    found.next().await;
    world.set(vec![node("bob", &["100.64.0.9"])]);
    assert!(matches!(found.next().await, Found::Left(_)));
    assert_eq!(name_of(&found.next().await), "bob");
    assert_eq!(
        world.known("bob").unwrap().address,
        "100.64.0.9:9632".parse().ok()
    );
    assert_eq!(world.breaker("bob"), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_node_where_another_nara_runs_now_is_that_nara() {
    let world = World::new();
    let mut found = world.run();
    let current = Arc::new(Mutex::new(nara("bob")));
    let answering = current.clone();
    let _peer = FakePeer::start(
        world.network.host("100.64.0.2".parse().unwrap()),
        "100.64.0.2:9632".parse().unwrap(),
        move |_| pong(&answering.lock().unwrap()),
    )
    .await;
    world.set(vec![node("bob", &["100.64.0.2"])]);
    found.next().await;
    *current.lock().unwrap() = nara("carol");
    // The network does not report it.
    let renamed = found.within(Duration::from_secs(160)).await;
    assert_eq!(name_of(&renamed), "carol");
    assert_eq!(
        world.known("carol").unwrap().address,
        "100.64.0.2:9632".parse().ok()
    );
    assert_eq!(world.breaker("bob"), BreakerState::Open);
    // Or the host name shows it.
    *current.lock().unwrap() = nara("dave");
    world.set(vec![node("dave", &["100.64.0.2"])]);
    assert_eq!(name_of(&found.within(Duration::from_secs(2)).await), "dave");
}
