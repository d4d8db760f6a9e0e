//! Which gossiped events are accepted.

use nara_mesh::identity::LocalNara;
use nara_mesh::registry::PeerEvent;
use nara_proto::event::{HeyTherePayload, ObservationPayload, Payload, SyncEvent};
use nara_proto::go_json;
use nara_proto::time::UnixNanos;
use nara_proto::zine::Zine;

use crate::support::{NOW, Target, nara, nara_with_seed, seen};

/// The maximum number of naras at one address from hearsay.
const HEARSAY_PER_ADDRESS: usize = 64;

fn introduction(nara: &LocalNara, ts: UnixNanos) -> SyncEvent {
    let payload = HeyTherePayload {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        mesh_ip: "100.64.0.33".to_owned(),
        ..HeyTherePayload::default()
    };
    SyncEvent::signed(
        ts,
        Payload::HeyThere(payload),
        nara.name().as_str(),
        nara.keypair(),
    )
}

/// Sends a zine of alice with these events and returns the ids of the answer.
fn gossip(target: &Target, events: Vec<SyncEvent>) -> Vec<String> {
    let alice = nara("alice");
    let zine = Zine::signed("alice", NOW.to_seconds(), events, alice.keypair());
    let answer = target.post_json(&alice, "/gossip/zine", &zine);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let zine: Zine = go_json::from_slice(&answer.body).unwrap();
    assert!(zine.verify(&target.local.public_key()).is_ok());
    zine.events().iter().map(|event| event.id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_of_a_zine_are_refused_and_good_ones_kept() {
    let target = Target::start().await;
    let (alice, bob, carol) = (nara("alice"), nara("bob"), nara("carol"));
    let now = NOW.to_nanos();
    let good = seen(&alice, "bob", "mesh", now);
    let of_a_stranger = seen(&carol, "bob", "mesh", now);

    let mut unsigned = seen(&bob, "alice", "zine", now);
    unsigned.sig.clear();
    let mut tampered = seen(&bob, "alice", "ping", now);
    tampered.seen.as_mut().unwrap().via = "sync".to_owned();
    tampered.id = tampered.compute_id();
    let mut shadowing = seen(&bob, "carol", "mesh", now);
    shadowing.id.clone_from(&of_a_stranger.id);
    shadowing.sign("bob", bob.keypair());
    let mut huge = seen(&bob, "dave", "mesh", now);
    huge.emitter_id = "x".repeat(70_000);
    let mut in_our_name = seen(&bob, "erin", "mesh", now);
    in_our_name.sign("target", bob.keypair());

    let observation = ObservationPayload {
        observer: "bob".to_owned(),
        subject: "alice".to_owned(),
        kind: "status-change".to_owned(),
        importance: 1,
        online_state: "ONLINE".to_owned(),
        ..ObservationPayload::default()
    };
    let unsigned_observation = SyncEvent::new(now, Payload::Observation(observation));

    // Bob's key is known: events in his name must be signed.
    let kept = [&good, &of_a_stranger].map(|event| event.id.clone());
    let events = vec![
        shadowing,
        good,
        unsigned,
        tampered,
        of_a_stranger,
        huge,
        in_our_name,
        unsigned_observation,
    ];
    assert_eq!(gossip(&target, events), kept);
    assert_eq!(target.count().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_zine_is_verified_like_a_small_one() {
    let target = Target::start().await;
    let bob = nara("bob");
    let mut events: Vec<_> = (0..200)
        .map(|index| {
            seen(
                &bob,
                "alice",
                "mesh",
                UnixNanos::new(NOW.to_nanos().get() - index),
            )
        })
        .collect();
    events[150].sig = events[149].sig.clone();
    assert_eq!(gossip(&target, events).len(), 199);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_signed_introduction_is_believed() {
    let target = Target::start().await;
    let (carol, dave) = (nara("carol"), nara("dave"));
    let mut unsigned = introduction(&dave, NOW.to_nanos());
    unsigned.sig.clear();
    // Mallory introduces dave with her own key.
    let mallory = nara("mallory");
    let mut hearsay = introduction(&dave, NOW.to_nanos());
    hearsay.hey_there.as_mut().unwrap().public_key = mallory.public_key().to_base64();
    hearsay.id = hearsay.compute_id();
    hearsay.sign("mallory", mallory.keypair());
    gossip(
        &target,
        vec![unsigned, hearsay, introduction(&carol, NOW.to_nanos())],
    );

    let peer = target.registry.by_name("carol").unwrap();
    assert_eq!(peer.key(), Some(carol.public_key()));
    assert_eq!(peer.info().address.unwrap().to_string(), "100.64.0.33:9632");
    assert!(target.registry.by_name("dave").is_none());
    // From now on carol is known.
    let answer = target.post(&carol, "/events/sync", br#"{"from":"carol"}"#);
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_introduction_with_another_key_is_reported_and_changes_nothing() {
    let target = Target::start().await;
    let mut watch = target.registry.subscribe();
    let impostor = nara_with_seed("bob", 200);
    assert!(gossip(&target, vec![introduction(&impostor, NOW.to_nanos())]).is_empty());
    let PeerEvent::KeyConflict(conflict) = watch.try_recv().unwrap() else {
        panic!("another event");
    };
    assert_eq!(conflict.offered, impostor.public_key());
    let bob = target.registry.by_name("bob").unwrap();
    assert_eq!(bob.key(), Some(nara("bob").public_key()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_zine_cannot_fill_the_registry() {
    let target = Target::start().await;
    let before = target.registry.len();
    let crowd =
        (0..100).map(|index| introduction(&nara_with_seed(&format!("n{index}"), index), NOW.to_nanos()));
    gossip(&target, crowd.collect());
    assert_eq!(target.registry.len(), before + 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_gets_more_than_so_many_naras_by_hearsay() {
    let target = Target::start().await;
    for batch in 0..2 {
        let crowd = (0..60).map(|index| {
            let name = format!("n{batch}-{index}");
            introduction(&nara_with_seed(&name, index), NOW.to_nanos())
        });
        gossip(&target, crowd.collect());
    }
    let crowded = "100.64.0.33".parse().unwrap();
    assert_eq!(target.registry.by_ip(crowded).len(), HEARSAY_PER_ADDRESS);
    let beyond = target.registry.by_name("n1-59").unwrap().info();
    assert!(beyond.key.is_some(), "its key is believed all the same");
    assert_eq!(beyond.address, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_cursor_pages_losslessly_through_equal_times() {
    let target = Target::start().await;
    let bob = nara("bob");
    let events: Vec<_> = (0..10)
        .map(|index| seen(&bob, &format!("n{index}"), "mesh", NOW.to_nanos()))
        .collect();
    gossip(&target, events);
    let mut pager = nara_proto::sync::Pager::new(nara_proto::sync::EventFilter::default(), 3);
    let mut got = std::collections::BTreeSet::new();
    while let Some(mut request) = pager.next_request() {
        request.from = "bob".to_owned();
        let answer = target.post_json(&bob, "/events/sync", &request);
        let response = go_json::from_slice(&answer.body).unwrap();
        for event in pager.accept(response).unwrap() {
            assert!(got.insert(event.id), "each event once");
        }
    }
    assert_eq!(got.len(), 10);
}
