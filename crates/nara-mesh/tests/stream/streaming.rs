//! Stored events, new events, and the transition between them.

use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{StreamError, StreamState, SubscribeOptions};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{ArrivalLog as _, CheckedEvent, EventStore as _, Insertion, TransferStore as _};
use nara_mesh::proto::event::EventTrust;
use nara_mesh::proto::sync::EventFilter;
use nara_mesh::registry::{KeySource, PeerChange, PeerInfo, PeerRegistry};
use nara_mesh::server::Shutdown;

use crate::support::{
    Mesh, address, crash, event, ids, is_waiting, ledger, nara, next, next_ts, number, time, until,
};

#[tokio::test(start_paused = true)]
async fn stored_events_come_first_and_then_new_ones() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let old = (0..300).map(|ts| event(&mesh.bob, ts)).collect();
    bobs.insert_verified(old).await.unwrap();
    let client = mesh.client();
    let mut events = client
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default().oldest());
    for ts in 0..300 {
        let verified = next(&mut events).await.unwrap();
        assert_eq!(number(&verified), ts);
        assert_eq!(verified.trust, EventTrust::Verified);
    }
    until(&events, |state| *state == StreamState::Live).await;
    // It arrives late, but its time is before the others.
    bobs.insert_verified(vec![event(&mesh.bob, -1)]).await.unwrap();
    assert_eq!(next_ts(&mut events).await, -1);
}

#[tokio::test(start_paused = true)]
async fn without_since_only_new_events_come() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    bobs.insert_verified(vec![event(&mesh.bob, 1)]).await.unwrap();
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&events, |state| *state == StreamState::Live).await;
    bobs.insert_verified(vec![event(&mesh.bob, 2)]).await.unwrap();
    assert_eq!(next_ts(&mut events).await, 2);
}

#[tokio::test(start_paused = true)]
async fn since_begins_with_the_first_arrival_of_that_time() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    for ts in [10, 40, 20] {
        bobs.insert_verified(vec![event(&mesh.bob, ts)]).await.unwrap();
    }
    let options = SubscribeOptions::default().since(time(30));
    let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options);
    assert_eq!(next_ts(&mut events).await, 40);
    assert_eq!(next_ts(&mut events).await, 20);
}

#[tokio::test(start_paused = true)]
async fn only_matching_events_come_and_the_cursor_passes_the_others() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let filter = EventFilter {
        services: vec!["social".to_owned()],
        subjects: vec!["carol".to_owned(), "a,b&c".to_owned()],
    };
    let alices = ledger();
    let options = SubscribeOptions::default()
        .oldest()
        .filter(filter)
        .into_ledger(alices.clone());
    let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options);
    bobs.insert_verified(vec![event(&mesh.bob, 1), event(&mesh.carol, 2)])
        .await
        .unwrap();
    assert_eq!(next_ts(&mut events).await, 2);
    bobs.insert_verified(vec![event(&mesh.bob, 3)]).await.unwrap();
    // Two keep-alives later the position behind the unwanted event is known and stored.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let place = r#"bob ["social"] ["carol", "a,b&c"]"#.to_owned();
    let cursor = alices.arrival_cursor(place).await.unwrap().unwrap();
    assert_eq!(cursor.seq, bobs.position().await.unwrap());
    assert_eq!(cursor.epoch, bobs.feed().epoch());
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_mended_without_gap_or_duplicate() {
    let mesh = Mesh::new();
    mesh.network.set_latency(Duration::from_millis(20));
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default().oldest());
    for round in 0..20 {
        for n in 0..5 {
            bobs.insert_verified(vec![event(&mesh.bob, round * 6 + n)])
                .await
                .unwrap();
        }
        mesh.network.cut(address(2).ip());
        bobs.insert_verified(vec![event(&mesh.bob, round * 6 + 5)])
            .await
            .unwrap();
        for n in 0..6 {
            assert_eq!(next_ts(&mut events).await, round * 6 + n);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_goodbye_within_its_deadline_and_the_stream_resumes_after_it() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let server = mesh.serve(bobs.clone()).await;
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&events, |state| *state == StreamState::Live).await;
    bobs.insert_verified(vec![event(&mesh.bob, 1)]).await.unwrap();
    assert_eq!(next_ts(&mut events).await, 1);
    let began = tokio::time::Instant::now();
    assert_eq!(server.shutdown(Duration::from_secs(5)).await, Shutdown::Graceful);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let state = until(&events, is_waiting).await;
    assert!(
        state
            .to_string()
            .contains("ended the stream: the server is shutting down"),
        "{state}"
    );
    bobs.insert_verified(vec![event(&mesh.bob, 2)]).await.unwrap();
    let _server = mesh.serve(bobs.clone()).await;
    assert_eq!(next_ts(&mut events).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_down_is_tried_again_after_growing_pauses_and_at_once_when_it_shows_itself() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let events = client.peer(mesh.bob.id()).subscribe(SubscribeOptions::default());
    let mut state = events.state();
    let mut pauses = Vec::new();
    while pauses.len() < 8 {
        state.changed().await.unwrap();
        if let StreamState::Waiting { retry_in, .. } = &*state.borrow_and_update() {
            pauses.push(*retry_in);
        }
    }
    assert!(pauses[0] >= Duration::from_millis(200), "{pauses:?}");
    assert!(pauses[7] > Duration::from_secs(5), "{pauses:?}");
    assert!(
        pauses.iter().all(|pause| *pause <= Duration::from_secs(30)),
        "{pauses:?}"
    );

    let _server = mesh.serve(ledger()).await;
    let shown = tokio::time::Instant::now();
    let peer = client.peer(mesh.bob.id()).known().unwrap();
    client.registry().sign_of_life(&peer);
    until(&events, |state| *state == StreamState::Live).await;
    assert!(shown.elapsed() < Duration::from_secs(1), "{:?}", shown.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_ledger_remembers_how_far_a_stream_was_read() {
    let mesh = Mesh::new();
    let (bobs, alices) = (ledger(), ledger());
    let _server = mesh.serve(bobs.clone()).await;
    let options = || SubscribeOptions::default().oldest().into_ledger(alices.clone());
    let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options());
    bobs.insert_verified((0..10).map(|ts| event(&mesh.bob, ts)).collect())
        .await
        .unwrap();
    for ts in 0..10 {
        let verified = next(&mut events).await.unwrap();
        assert_eq!(number(&verified), ts);
        assert_eq!(verified.insertion, Some(Insertion::Stored));
    }
    // The position is stored a second after the events at the latest.
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(events);
    bobs.insert_verified(vec![event(&mesh.bob, 10)]).await.unwrap();
    let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options());
    assert_eq!(next_ts(&mut events).await, 10);
    assert_eq!(ids(&*alices).await, ids(&*bobs).await);
}

#[tokio::test(start_paused = true)]
async fn an_event_repeated_after_a_crash_is_recognised_by_its_id() {
    let mesh = Mesh::new();
    let (bobs, alices) = (ledger(), ledger());
    let _server = mesh.serve(bobs.clone()).await;
    bobs.insert_verified(vec![event(&mesh.bob, 1)]).await.unwrap();
    let options = || SubscribeOptions::default().oldest().into_ledger(alices.clone());
    for expected in [Insertion::Stored, Insertion::Duplicate] {
        // Dropped before the position was stored; the next client signs at another time.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options());
        assert_eq!(next(&mut events).await.unwrap().insertion, Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_not_sent_back_to_its_sender() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&events, |state| *state == StreamState::Live).await;
    let alice = Some(mesh.alice.name().clone());
    bobs.insert(vec![CheckedEvent::verified(event(&mesh.carol, 1))], alice)
        .await
        .unwrap();
    bobs.insert_verified(vec![event(&mesh.carol, 2)]).await.unwrap();
    assert_eq!(next_ts(&mut events).await, 2);
}

#[tokio::test(start_paused = true)]
async fn another_ledger_is_noticed_and_its_stream_starts_over() {
    let mesh = Mesh::new();
    let first = ledger();
    let server = mesh.serve(first.clone()).await;
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&events, |state| *state == StreamState::Live).await;
    first.insert_verified(vec![event(&mesh.bob, 1)]).await.unwrap();
    assert_eq!(next_ts(&mut events).await, 1);
    crash(server).await;
    let second = ledger();
    second.insert_verified(vec![event(&mesh.bob, 7)]).await.unwrap();
    let _server = mesh.serve(second.clone()).await;
    let notice = next(&mut events).await.unwrap_err();
    assert!(matches!(notice, StreamError::LedgerReplaced { .. }), "{notice}");
    assert!(!notice.is_final());
    assert_eq!(
        next_ts(&mut events).await,
        7,
        "with the oldest event of the new one"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_with_a_bad_signature_is_named_and_the_stream_goes_on() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let alices = ledger();
    let options = SubscribeOptions::default().oldest().into_ledger(alices.clone());
    let mut events = mesh.client().peer(mesh.bob.id()).subscribe(options);
    let mut forged = event(&mesh.carol, 1);
    forged.sign("carol", mesh.bob.keypair());
    let mut other_id = event(&mesh.carol, 3);
    other_id.id = "0".repeat(32);
    bobs.insert_verified(vec![forged.clone(), event(&mesh.carol, 2), other_id])
        .await
        .unwrap();
    let StreamError::Refused { peer, event: refused } = next(&mut events).await.unwrap_err() else {
        panic!("a refused event");
    };
    assert_eq!((peer.as_str(), &refused.id), ("bob", &forged.id));
    assert_eq!(next_ts(&mut events).await, 2);
    assert!(next(&mut events).await.unwrap_err().refused().is_some());
    assert_eq!(events.refused(), 2);
    assert_eq!(ids(&*alices).await, [event(&mesh.carol, 2).id]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_peer_ends_the_subscription_at_once() {
    let mesh = Mesh::new();
    let stranger = nara("stranger");
    let mut events = mesh
        .client()
        .peer(stranger.id())
        .subscribe(SubscribeOptions::default());
    let error = next(&mut events).await.unwrap_err();
    assert!(error.is_final(), "{error}");
    assert!(events.next().await.is_none());
    assert_eq!(*events.state().borrow(), StreamState::Ended);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_know_us_is_reported_and_tried_again() {
    let mesh = Mesh::new();
    let server = nara_mesh::server::MeshServer::builder(mesh.bob.clone(), ledger())
        .transport(std::sync::Arc::new(mesh.network.host(address(2).ip())))
        .clock(std::sync::Arc::new(mesh.clock))
        .registry(PeerRegistry::default())
        .serve(address(2))
        .await
        .unwrap();
    let mut events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    let error = next(&mut events).await.unwrap_err();
    assert!(matches!(error, StreamError::Unauthenticated(_)), "{error}");
    crash(server).await;
    let _server = mesh.serve(ledger()).await;
    until(&events, |state| *state == StreamState::Live).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_subscription_closes_its_stream() {
    let mesh = Mesh::new();
    let mut limits = nara_mesh::server::ServerLimits::default();
    limits.streams_per_peer = 1;
    let _server = mesh.serve_with(ledger(), limits).await;
    let client = mesh.client();
    for _ in 0..10 {
        let events = client.peer(mesh.bob.id()).subscribe(SubscribeOptions::default());
        until(&events, |state| *state == StreamState::Live).await;
        drop(events);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_key_on_which_it_was_opened() {
    type Change = fn(&PeerRegistry, &LocalNara);
    let changes: [Change; 4] = [
        // Like a peers file with another key after a reload.
        |registry, bob| {
            let other = nara("mallory").public_key();
            let info = PeerInfo::configured(bob.name().clone(), other);
            registry.reconfigure(info).unwrap();
        },
        // Like `peers reset`.
        |registry, bob| {
            let peer = registry.by_id(bob.id()).unwrap();
            let mut record = peer.info().into_record().unwrap();
            let at = record.key.as_ref().unwrap().learned_at;
            record.apply(PeerChange::Forget { at }).unwrap();
            registry.restore(record).unwrap();
        },
        // Like `peers untrust`.
        |registry, bob| {
            let peer = registry.by_id(bob.id()).unwrap();
            let mut record = peer.info().into_record().unwrap();
            let at = record.key.as_ref().unwrap().learned_at;
            record.apply(PeerChange::Untrust { at }).unwrap();
            registry.restore(record).unwrap();
        },
        |registry, bob| assert!(registry.unregister(bob.id())),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mesh = Mesh::new();
        let _server = mesh.serve(ledger()).await;
        let client = mesh.client();
        if index == 1 {
            // A reset forgets a key that is not configured.
            let bob = client.registry().by_id(mesh.bob.id()).unwrap();
            client.registry().remove(&bob);
            let mut learned = bob.info();
            learned.key.as_mut().unwrap().source = KeySource::Operator;
            client.registry().register(learned).unwrap();
        }
        let events = client.peer(mesh.bob.id()).subscribe(SubscribeOptions::default());
        until(&events, |state| *state == StreamState::Live).await;
        change(client.registry(), &mesh.bob);
        until(&events, |state| *state != StreamState::Live).await;
    }
}
