//! Tests of every ledger; each runs against both implementations.

mod agreement;
mod arrival;
mod hostile;
mod retention;
mod vectors;

use std::sync::Arc;

use nara_proto::event::{
    CheckpointPayload, HeyTherePayload, ObservationPayload, Payload, PingPayload, SeenPayload, SocialPayload,
    SyncEvent,
};
use nara_proto::identity::{KeyPair, NaraName, PublicKey, Soul};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};

use super::checked::without_trust;
use super::{
    ArrivalLog as _, EventStore as _, Insertion, KnownNames, Ledger, MemoryLedger, ReadLimit,
    RetentionPolicy, Sample, Slice, SqliteLedger,
};
use crate::registry::{KeySource, PeerChange, PeerChangeError, PeerProtocol, PeerRecord, PinnedKey};

/// Generates one test per kind of ledger from functions that take an empty one.
macro_rules! on_every_ledger {
    ($policy:expr, $known:expr; $($fact:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test]
                async fn $fact() {
                    let ledger = crate::ledger::MemoryLedger::new()
                        .with_retention($policy)
                        .with_known_names(std::sync::Arc::new($known));
                    super::$fact(&ledger).await;
                }
            )*
        }
        mod sqlite {
            $(
                #[tokio::test]
                async fn $fact() {
                    let folder = tempfile::tempdir().unwrap();
                    let ledger = crate::ledger::SqliteLedger::open(folder.path().join("ledger.db"))
                        .unwrap()
                        .with_retention($policy)
                        .with_known_names(std::sync::Arc::new($known));
                    super::$fact(&ledger).await;
                }
            )*
        }
    };
}
pub(super) use on_every_ledger;

on_every_ledger! {
    super::RetentionPolicy::UNLIMITED, crate::ledger::retention::EveryoneKnown;
    an_event_is_stored_once,
    an_event_without_an_id_gets_its_own,
    pages_lose_nothing_on_equal_timestamps,
    a_page_with_a_v1_cursor_begins_after_its_time,
    recent_is_newest_first,
    filters_mean_services_and_actors_or_targets,
    a_filter_of_very_many_names_finds_the_same,
    slicing_comes_before_the_limit,
    a_slice_may_begin_at_a_time,
    a_sample_has_all_critical_events_and_is_repeatable,
    a_sample_of_many_critical_events_has_the_oldest,
    since_gives_the_last_arrivals_in_order,
    checkpoints_come_in_order_of_arrival,
    a_limit_of_zero_returns_nothing,
    peer_records_are_read_back,
    a_cursor_of_a_peer_is_remembered,
}

fn seen(ts: i64, observer: &str, subject: &str) -> SyncEvent {
    let payload = SeenPayload {
        observer: observer.to_owned(),
        subject: subject.to_owned(),
        via: "mesh".to_owned(),
        ..SeenPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Seen(payload))
}

fn social(ts: i64, actor: &str, target: &str) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: actor.to_owned(),
        target: target.to_owned(),
        ..SocialPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Social(payload))
}

fn ping(ts: i64, observer: &str, target: &str) -> SyncEvent {
    let payload = PingPayload {
        observer: observer.to_owned(),
        target: target.to_owned(),
        rtt: 1.5,
        ..PingPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Ping(payload))
}

fn observation(ts: i64, observer: &str, subject: &str, kind: &str) -> SyncEvent {
    let payload = ObservationPayload {
        observer: observer.to_owned(),
        subject: subject.to_owned(),
        kind: kind.to_owned(),
        importance: if kind == "status-change" { 2 } else { 3 },
        start_time: UnixSeconds::new(1),
        online_state: "ONLINE".to_owned(),
        ..ObservationPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Observation(payload))
}

fn hey_there(ts: i64, from: &str) -> SyncEvent {
    let payload = HeyTherePayload {
        from: from.to_owned(),
        public_key: "key".to_owned(),
        ..HeyTherePayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::HeyThere(payload))
}

fn checkpoint(ts: i64, subject: &str, as_of: i64) -> SyncEvent {
    let payload = CheckpointPayload {
        subject: subject.to_owned(),
        as_of_time: UnixSeconds::new(as_of),
        ..CheckpointPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Checkpoint(payload))
}

fn ids(events: &[SyncEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

fn times(events: &[SyncEvent]) -> Vec<i64> {
    events.iter().map(|event| event.ts.get()).collect()
}

fn services(services: &[&str]) -> EventFilter {
    EventFilter {
        services: services.iter().map(|&service| service.to_owned()).collect(),
        ..EventFilter::default()
    }
}

fn subjects(subjects: &[&str]) -> EventFilter {
    EventFilter {
        subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        ..EventFilter::default()
    }
}

/// Like [`EventStore::page`], without the trust.
async fn page(ledger: &dyn Ledger, filter: EventFilter, after: Cursor, limit: ReadLimit) -> Vec<SyncEvent> {
    without_trust(ledger.page(filter, after, limit).await.unwrap())
}

/// Like [`EventStore::recent`], without the trust.
async fn recent(ledger: &dyn Ledger, filter: EventFilter, limit: ReadLimit) -> Vec<SyncEvent> {
    without_trust(ledger.recent(filter, limit).await.unwrap())
}

async fn all(ledger: &dyn Ledger) -> Vec<SyncEvent> {
    let everything = ReadLimit::events(usize::MAX);
    page(ledger, EventFilter::default(), Cursor::START, everything).await
}

/// Stores events that must all be new.
async fn store(ledger: &dyn Ledger, events: Vec<SyncEvent>) {
    let expected = vec![Insertion::Stored; events.len()];
    assert_eq!(ledger.insert_verified(events).await.unwrap(), expected);
}

async fn an_event_is_stored_once(ledger: &dyn Ledger) {
    let event = seen(-5, "alice", "bob");
    let outcomes = ledger
        .insert_verified(vec![event.clone(), event.clone()])
        .await
        .unwrap();
    assert_eq!(outcomes, [Insertion::Stored, Insertion::Duplicate]);
    assert_eq!(
        ledger.insert_verified(vec![event.clone()]).await.unwrap(),
        [Insertion::Duplicate]
    );
    assert_eq!(ledger.count().await.unwrap(), 1);
    assert_eq!(all(ledger).await, [event]);
}

async fn an_event_without_an_id_gets_its_own(ledger: &dyn Ledger) {
    let event = seen(5, "alice", "bob");
    let mut nameless = event.clone();
    nameless.id.clear();
    store(ledger, vec![nameless]).await;
    assert_eq!(all(ledger).await, [event]);
}

async fn pages_lose_nothing_on_equal_timestamps(ledger: &dyn Ledger) {
    let mut events: Vec<_> = (0..50)
        .map(|n| seen(n % 3, "alice", &format!("nara-{n}")))
        .collect();
    store(ledger, events.clone()).await;
    events.sort_by_key(Cursor::behind);
    let (mut paged, mut after) = (Vec::new(), Cursor::START);
    loop {
        let page = page(ledger, EventFilter::default(), after, ReadLimit::events(7)).await;
        let Some(last) = page.last() else { break };
        after = Cursor::behind(last);
        paged.extend(page);
    }
    assert_eq!(ids(&paged), ids(&events));
}

async fn a_page_with_a_v1_cursor_begins_after_its_time(ledger: &dyn Ledger) {
    store(
        ledger,
        [-5, 0, 1, 1, 2, i64::MAX]
            .iter()
            .zip('a'..)
            .map(|(&ts, name)| seen(ts, "alice", &name.to_string()))
            .collect(),
    )
    .await;
    for (cursor, expected) in [
        (-6, &[-5, 0, 1, 1, 2, i64::MAX][..]),
        (0, &[1, 1, 2, i64::MAX]),
        (1, &[2, i64::MAX]),
        (i64::MAX, &[]),
    ] {
        let after = Cursor::after_time(UnixNanos::new(cursor));
        let page = page(ledger, EventFilter::default(), after, ReadLimit::events(10)).await;
        assert_eq!(times(&page), expected, "after {cursor}");
    }
}

async fn recent_is_newest_first(ledger: &dyn Ledger) {
    store(
        ledger,
        [3, 1, 2].iter().map(|&ts| seen(ts, "alice", "bob")).collect(),
    )
    .await;
    store(ledger, vec![social(4, "alice", "bob")]).await;
    let newest = recent(ledger, EventFilter::default(), ReadLimit::events(3)).await;
    assert_eq!(times(&newest), [4, 3, 2]);
    let newest = recent(ledger, services(&["seen"]), ReadLimit::events(2)).await;
    assert_eq!(times(&newest), [3, 2]);
}

async fn filters_mean_services_and_actors_or_targets(ledger: &dyn Ledger) {
    store(
        ledger,
        vec![
            seen(1, "alice", "bob"),
            social(2, "bob", "carla"),
            hey_there(3, "bob"),
            ping(4, "carla", "dora"),
            checkpoint(5, "dora", 1),
        ],
    )
    .await;
    let both = EventFilter {
        subjects: vec!["bob".to_owned(), "carla".to_owned()],
        services: vec!["social".to_owned(), "ping".to_owned()],
    };
    for (filter, expected) in [
        (services(&["ping", "seen", "nope", "seen"]), &[1, 4][..]),
        (services(&["nope"]), &[]),
        (subjects(&["bob"]), &[1, 2, 3]),
        (subjects(&["dora", "alice", "dora"]), &[1, 4, 5]),
        (subjects(&[""]), &[5]),
        (subjects(&["nobody"]), &[]),
        (both, &[2, 4]),
    ] {
        let found = page(ledger, filter.clone(), Cursor::START, ReadLimit::events(10)).await;
        assert_eq!(times(&found), expected, "{filter:?}");
        let mut newest = recent(ledger, filter.clone(), ReadLimit::events(10)).await;
        newest.reverse();
        assert_eq!(times(&newest), expected, "{filter:?}");
        let first = page(ledger, filter.clone(), Cursor::START, ReadLimit::events(1)).await;
        assert_eq!(times(&first), &expected[..expected.len().min(1)], "{filter:?}");
    }
}

async fn a_filter_of_very_many_names_finds_the_same(ledger: &dyn Ledger) {
    let name = |n: i64| format!("nara-{n}");
    store(ledger, (0..40).map(|n| seen(n, &name(n), &name(n + 1))).collect()).await;
    let many: Vec<_> = (30..5_000).map(name).collect();
    let filter = EventFilter {
        subjects: many,
        ..EventFilter::default()
    };
    let found = page(ledger, filter.clone(), Cursor::START, ReadLimit::events(4)).await;
    assert_eq!(times(&found), [29, 30, 31, 32]);
    let newest = recent(ledger, filter, ReadLimit::events(2)).await;
    assert_eq!(times(&newest), [39, 38]);
}

async fn slicing_comes_before_the_limit(ledger: &dyn Ledger) {
    store(ledger, (0..10).rev().map(|ts| seen(ts, "alice", "bob")).collect()).await;
    store(ledger, vec![social(100, "alice", "bob")]).await;
    let slice = Slice {
        since: UnixNanos::new(0),
        slice_index: 2,
        slice_total: 3,
        limit: ReadLimit::events(2),
    };
    let sliced = ledger.slice(services(&["seen"]), slice).await.unwrap();
    assert_eq!(times(&sliced), [5, 8]);
}

async fn a_slice_may_begin_at_a_time(ledger: &dyn Ledger) {
    store(ledger, (-3..7).map(|ts| seen(ts, "alice", "bob")).collect()).await;
    let slice = |since, slice_total, limit| Slice {
        since: UnixNanos::new(since),
        slice_index: 0,
        slice_total,
        limit: ReadLimit::events(limit),
    };
    for (slice, expected) in [
        (slice(3, 1, 9), &[4, 5, 6][..]),
        (slice(3, 2, 9), &[4, 6]),
        (slice(0, 1, 99), &[-3, -2, -1, 0, 1, 2, 3, 4, 5, 6]),
        (slice(-1, 5, 99), &[-3, 2]),
        (slice(1, 1, 2), &[5, 6]),
    ] {
        let sliced = ledger.slice(EventFilter::default(), slice).await.unwrap();
        assert_eq!(times(&sliced), expected, "{slice:?}");
    }
}

async fn a_sample_has_all_critical_events_and_is_repeatable(ledger: &dyn Ledger) {
    store(ledger, (0..50).map(|ts| seen(ts, "alice", "bob")).collect()).await;
    store(ledger, vec![hey_there(60, "bob"), checkpoint(-9, "bob", 1)]).await;
    let sample = |seed| {
        ledger.sample(
            EventFilter::default(),
            Sample {
                size: 10,
                bytes: usize::MAX,
                responder: "bob".to_owned(),
                now: UnixNanos::new(100),
                seed,
            },
        )
    };
    let drawn = sample(1).await.unwrap();
    assert_eq!(drawn.len(), 10);
    assert_eq!(drawn[0].ts.get(), -9);
    assert_eq!(drawn[9].ts.get(), 60);
    assert!(drawn.is_sorted_by_key(|event| event.ts));
    assert_eq!(ids(&sample(1).await.unwrap()), ids(&drawn));
    assert_ne!(ids(&sample(2).await.unwrap()), ids(&drawn));
}

async fn a_sample_of_many_critical_events_has_the_oldest(ledger: &dyn Ledger) {
    store(ledger, (0..20).rev().map(|ts| hey_there(ts, "bob")).collect()).await;
    store(ledger, vec![seen(-1, "alice", "bob")]).await;
    let sample = Sample {
        size: 3,
        bytes: usize::MAX,
        responder: "bob".to_owned(),
        now: UnixNanos::new(100),
        seed: 1,
    };
    let drawn = ledger.sample(EventFilter::default(), sample).await.unwrap();
    assert_eq!(times(&drawn), [0, 1, 2]);
}

async fn since_gives_the_last_arrivals_in_order(ledger: &dyn Ledger) {
    store(
        ledger,
        [7, 1, 5, 9, 6]
            .iter()
            .map(|&ts| seen(ts, "alice", "bob"))
            .collect(),
    )
    .await;
    let since = |ts, limit| ledger.since(UnixNanos::new(ts), ReadLimit::events(limit));
    assert_eq!(times(&since(5, 99).await.unwrap()), [7, 5, 9, 6]);
    assert_eq!(times(&since(5, 2).await.unwrap()), [9, 6]);
    assert_eq!(times(&since(10, 2).await.unwrap()), [0; 0]);
}

async fn checkpoints_come_in_order_of_arrival(ledger: &dyn Ledger) {
    assert_eq!(
        ledger.checkpoints(ReadLimit::events(10), 0).await.unwrap(),
        (vec![], 0)
    );
    let checkpoints = [
        checkpoint(3, "a", 1),
        checkpoint(1, "b", 1),
        checkpoint(2, "c", 1),
    ];
    for checkpoint in &checkpoints {
        store(
            ledger,
            vec![checkpoint.clone(), seen(checkpoint.ts.get(), "x", "y")],
        )
        .await;
    }
    let (page, total) = ledger.checkpoints(ReadLimit::events(2), 0).await.unwrap();
    assert_eq!((times(&page), total), (vec![3, 1], 3));
    let (page, total) = ledger.checkpoints(ReadLimit::events(2), 2).await.unwrap();
    assert_eq!((times(&page), total), (vec![2], 3));
    assert_eq!(
        ledger.checkpoints(ReadLimit::events(2), 3).await.unwrap(),
        (vec![], 3)
    );
}

async fn a_limit_of_zero_returns_nothing(ledger: &dyn Ledger) {
    store(ledger, vec![hey_there(1, "bob"), seen(2, "alice", "bob")]).await;
    let none: Vec<SyncEvent> = Vec::new();
    let filters = [EventFilter::default(), services(&["seen"]), subjects(&["bob"])];
    for filter in filters {
        let found = page(ledger, filter.clone(), Cursor::START, ReadLimit::events(0)).await;
        assert_eq!(found, none);
        let newest = recent(ledger, filter.clone(), ReadLimit::events(0)).await;
        assert_eq!(newest, none);
        let sample = Sample {
            size: 0,
            bytes: usize::MAX,
            responder: String::new(),
            now: UnixNanos::new(3),
            seed: 0,
        };
        assert_eq!(ledger.sample(filter, sample).await.unwrap(), none);
    }
    assert_eq!(
        ledger
            .since(UnixNanos::new(0), ReadLimit::events(0))
            .await
            .unwrap(),
        none
    );
    assert_eq!(ledger.insert_verified(vec![]).await.unwrap(), []);
}

fn public_key(seed: u8) -> PublicKey {
    let soul = Soul::bond([seed; Soul::SEED_LEN], "any");
    KeyPair::from_soul(&soul).public_key()
}

async fn peer_records_are_read_back(ledger: &dyn Ledger) {
    let record = |name: &str, seed: u8, source, v2| {
        let name = NaraName::new(name).unwrap();
        PeerRecord {
            key: Some(PinnedKey {
                name: name.clone(),
                id: None,
                key: public_key(seed),
                source,
                learned_at: UnixMillis::new(i64::from(seed)),
            }),
            protocol: PeerProtocol {
                v2,
                tls: seed.is_multiple_of(2),
                raw_public_key: !v2,
            },
            ..PeerRecord::new(name)
        }
    };
    let bob = NaraName::new("bob").unwrap();
    let learned = [
        record("alice", 2, KeySource::HeyThere { told_by: None }, true),
        record("bob", 3, KeySource::Ping("[::1]:9632".parse().unwrap()), false),
        record("carla", 4, KeySource::PeerQuery(bob.clone()), true),
        record("dora", 5, KeySource::Configured, false),
    ];
    ledger
        .learn_peers(learned.iter().rev().cloned().collect())
        .await
        .unwrap();
    // A different key is not learned.
    ledger
        .learn_peers(vec![record(
            "bob",
            9,
            KeySource::HeyThere { told_by: None },
            true,
        )])
        .await
        .unwrap();
    assert_eq!(ledger.peers().await.unwrap(), learned);

    let at = UnixMillis::new(20);
    let change = |name: &NaraName, change| ledger.change_peer(name.clone(), change);
    let untrusted = change(&bob, PeerChange::Untrust { at }).await.unwrap().unwrap();
    assert!(untrusted.key.is_some());
    let other = Some(public_key(9));
    let trust = |replace| PeerChange::Trust {
        key: other,
        replace,
        at,
    };
    let refused = change(&bob, trust(false)).await.unwrap();
    assert!(matches!(refused, Err(PeerChangeError::KeyConflict(_))));
    assert_eq!(ledger.peers().await.unwrap()[1], untrusted);
    let trusted = change(&bob, trust(true)).await.unwrap().unwrap();
    assert!(trusted.protocol.is_empty());
    let erik = NaraName::new("erik").unwrap();
    let forgotten = change(&erik, PeerChange::Forget { at }).await.unwrap().unwrap();
    let records = ledger.peers().await.unwrap();
    assert_eq!((&records[1], &records[4]), (&trusted, &forgotten));
}

async fn a_cursor_of_a_peer_is_remembered(ledger: &dyn Ledger) {
    assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap(), None);
    for ts in [1, -2] {
        let cursor = Cursor::new(UnixNanos::new(ts), "id");
        ledger
            .store_cursor("bob".to_owned(), cursor.clone())
            .await
            .unwrap();
        assert_eq!(ledger.cursor("bob".to_owned()).await.unwrap(), Some(cursor));
    }
    assert_eq!(ledger.cursor("alice".to_owned()).await.unwrap(), None);
}
