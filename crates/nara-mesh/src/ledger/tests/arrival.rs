//! The order of arrival, and followers.

use std::sync::Arc;

use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};

use super::*;
use crate::ledger::{CheckedEvent, Followed, Follower};

on_every_ledger! {
    super::RetentionPolicy::UNLIMITED, crate::ledger::retention::EveryoneKnown;
    late_events_come_behind_what_arrived_before_them,
    a_look_with_a_filter_says_how_far_it_went,
    a_time_becomes_the_place_before_its_first_arrival,
    an_arrival_cursor_is_remembered,
    an_arrival_knows_who_told_it,
}

fn seqs(arrivals: &crate::ledger::Arrivals) -> Vec<i64> {
    arrivals
        .events
        .iter()
        .map(|arrival| arrival.event.ts.get())
        .collect()
}

async fn late_events_come_behind_what_arrived_before_them(ledger: &dyn Ledger) {
    assert_eq!(ledger.position().await.unwrap(), 0);
    for ts in [30, 10, 20] {
        ledger
            .insert_verified(vec![seen(ts, "alice", "bob")])
            .await
            .unwrap();
    }
    let all = ledger
        .arrived_after(EventFilter::default(), 0, ReadLimit::events(10))
        .await
        .unwrap();
    assert_eq!(seqs(&all), [30, 10, 20]);
    assert!(all.is_newest);
    let first = ledger
        .arrived_after(EventFilter::default(), 0, ReadLimit::events(1))
        .await
        .unwrap();
    assert!(!first.is_newest);
    let rest = ledger
        .arrived_after(EventFilter::default(), first.end, ReadLimit::events(10))
        .await
        .unwrap();
    assert_eq!(seqs(&rest), [10, 20]);
    assert_eq!(rest.end, ledger.position().await.unwrap());
}

async fn a_look_with_a_filter_says_how_far_it_went(ledger: &dyn Ledger) {
    let events = (0..20).map(|ts| seen(ts, "alice", "bob")).collect();
    ledger.insert_verified(events).await.unwrap();
    ledger
        .insert_verified(vec![social(5, "carol", "bob")])
        .await
        .unwrap();
    ledger
        .insert_verified(vec![seen(50, "alice", "bob")])
        .await
        .unwrap();
    let filter = EventFilter {
        subjects: vec!["carol".to_owned()],
        ..EventFilter::default()
    };
    let found = ledger
        .arrived_after(filter, 0, ReadLimit::events(10))
        .await
        .unwrap();
    assert_eq!(seqs(&found), [5]);
    assert_eq!(found.end, ledger.position().await.unwrap());
}

async fn a_time_becomes_the_place_before_its_first_arrival(ledger: &dyn Ledger) {
    for ts in [10, 40, 20, 50] {
        ledger
            .insert_verified(vec![seen(ts, "alice", "bob")])
            .await
            .unwrap();
    }
    for (since, expected) in [(0, vec![10, 40, 20, 50]), (30, vec![40, 20, 50]), (51, vec![])] {
        let before = ledger.position_before(UnixNanos::new(since)).await.unwrap();
        let found = ledger
            .arrived_after(EventFilter::default(), before, ReadLimit::events(10))
            .await
            .unwrap();
        assert_eq!(seqs(&found), expected, "since {since}");
    }
}

async fn an_arrival_cursor_is_remembered(ledger: &dyn Ledger) {
    let peer = || "bob".to_owned();
    assert_eq!(ledger.arrival_cursor(peer()).await.unwrap(), None);
    for seq in [1, 7] {
        let cursor = ArrivalCursor::new(LedgerEpoch::new(u64::MAX), seq);
        ledger.store_arrival_cursor(peer(), cursor).await.unwrap();
        assert_eq!(ledger.arrival_cursor(peer()).await.unwrap(), Some(cursor));
    }
}

async fn an_arrival_knows_who_told_it(ledger: &dyn Ledger) {
    let carol: NaraName = "carol".parse().unwrap();
    ledger
        .insert_verified(vec![seen(1, "alice", "bob")])
        .await
        .unwrap();
    ledger
        .insert(
            vec![CheckedEvent::verified(seen(2, "alice", "bob"))],
            Some(carol.clone()),
        )
        .await
        .unwrap();
    let found = ledger
        .arrived_after(EventFilter::default(), 0, ReadLimit::events(10))
        .await
        .unwrap();
    let origins: Vec<_> = found
        .events
        .iter()
        .map(|arrival| arrival.origin.clone())
        .collect();
    assert_eq!(origins, [None, Some(carol)]);
}

fn every_kind() -> Vec<Arc<dyn Ledger>> {
    vec![
        Arc::new(MemoryLedger::new().with_retention(RetentionPolicy::UNLIMITED)),
        Arc::new(
            SqliteLedger::open_in_memory()
                .unwrap()
                .with_retention(RetentionPolicy::UNLIMITED),
        ),
    ]
}

/// Returns what a follower yields until it has `count` events.
async fn take(follower: &mut Follower, count: usize) -> Vec<i64> {
    let mut taken = Vec::new();
    while taken.len() < count {
        if let Followed::Events(events) = follower.next().await.unwrap() {
            taken.extend(events.iter().map(|arrival| arrival.event.ts.get()));
        }
    }
    taken
}

#[tokio::test]
async fn a_follower_gets_what_was_there_and_what_comes_each_once() {
    for ledger in every_kind() {
        let events = (0..100).map(|ts| seen(ts, "alice", "bob")).collect();
        ledger.insert_verified(events).await.unwrap();
        let mut follower = Follower::new(ledger.clone(), 0, EventFilter::default());
        // Arrives before the follower has read anything, so it is both in the ledger and in the feed.
        ledger
            .insert_verified(vec![seen(-1, "alice", "bob")])
            .await
            .unwrap();
        let mut expected: Vec<i64> = (0..100).collect();
        expected.push(-1);
        assert_eq!(take(&mut follower, 101).await, expected);
        assert!(matches!(follower.next().await, Ok(Followed::CaughtUp)));
        ledger
            .insert_verified(vec![seen(-2, "alice", "bob")])
            .await
            .unwrap();
        ledger
            .insert_verified(vec![seen(-2, "alice", "bob")])
            .await
            .unwrap();
        ledger
            .insert_verified(vec![seen(-3, "alice", "bob")])
            .await
            .unwrap();
        assert_eq!(take(&mut follower, 2).await, [-2, -3]);
        assert_eq!(follower.cursor().seq, ledger.position().await.unwrap());
    }
}

#[tokio::test]
async fn a_follower_that_is_too_slow_reads_from_the_ledger_and_misses_nothing() {
    for ledger in every_kind() {
        let mut follower = Follower::new(ledger.clone(), 0, EventFilter::default());
        assert!(matches!(follower.next().await, Ok(Followed::CaughtUp)));
        for ts in 0..500 {
            ledger
                .insert_verified(vec![seen(ts, "alice", "bob")])
                .await
                .unwrap();
        }
        assert!(matches!(follower.next().await, Ok(Followed::Lagged)));
        let expected: Vec<i64> = (0..500).collect();
        assert_eq!(take(&mut follower, 500).await, expected);
        assert!(matches!(follower.next().await, Ok(Followed::CaughtUp)));
        ledger
            .insert_verified(vec![seen(500, "alice", "bob")])
            .await
            .unwrap();
        assert_eq!(take(&mut follower, 1).await, [500]);
    }
}

#[tokio::test]
async fn a_large_insertion_comes_through_in_order() {
    for ledger in every_kind() {
        let mut follower = Follower::new(ledger.clone(), 0, EventFilter::default());
        assert!(matches!(follower.next().await, Ok(Followed::CaughtUp)));
        let events = (0..1000).map(|ts| seen(ts, "alice", "bob")).collect();
        ledger.insert_verified(events).await.unwrap();
        let expected: Vec<i64> = (0..1000).collect();
        assert_eq!(take(&mut follower, 1000).await, expected);
    }
}

#[tokio::test]
async fn a_follower_leaves_out_what_its_peer_told() {
    for ledger in every_kind() {
        let carol: NaraName = "carol".parse().unwrap();
        let follow =
            |after| Follower::new(ledger.clone(), after, EventFilter::default()).except(carol.clone(), 0);
        let mut live = follow(0);
        assert!(matches!(live.next().await, Ok(Followed::CaughtUp)));
        ledger
            .insert(
                vec![CheckedEvent::verified(seen(1, "alice", "bob"))],
                Some(carol.clone()),
            )
            .await
            .unwrap();
        ledger
            .insert_verified(vec![seen(2, "alice", "bob")])
            .await
            .unwrap();
        assert_eq!(take(&mut live, 1).await, [2]);
        assert_eq!(take(&mut follow(0), 1).await, [2], "from the ledger, too");
    }
}

#[tokio::test]
async fn an_event_larger_than_the_feed_takes_comes_from_the_ledger() {
    for ledger in every_kind() {
        let mut follower = Follower::new(ledger.clone(), 0, EventFilter::default());
        assert!(matches!(follower.next().await, Ok(Followed::CaughtUp)));
        let large = seen(2, "alice", &"x".repeat(300 << 10));
        let events = vec![seen(1, "alice", "bob"), large, seen(3, "alice", "bob")];
        ledger.insert_verified(events).await.unwrap();
        assert_eq!(take(&mut follower, 3).await, [1, 2, 3]);
    }
}

#[tokio::test]
async fn places_are_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let policy = RetentionPolicy::UNLIMITED.max_events(1);
    let mut last = (None, 0);
    for ts in 0..5 {
        let ledger = SqliteLedger::open(&path).unwrap().with_retention(policy);
        // The newest event is pruned at once, since the older one has a higher rank.
        ledger
            .insert_verified(vec![hey_there(ts, "alice")])
            .await
            .unwrap();
        ledger
            .insert_verified(vec![ping(100 + ts, "alice", "bob")])
            .await
            .unwrap();
        let position = ledger.position().await.unwrap();
        assert!(position > last.1, "{position} after {last:?}");
        let epoch = ledger.feed().epoch();
        assert!(
            last.0.is_none_or(|last| last == epoch),
            "a ledger keeps its epoch"
        );
        last = (Some(epoch), position);
    }
    let other = SqliteLedger::open(folder.path().join("other.db")).unwrap();
    assert_ne!(Some(other.feed().epoch()), last.0);
    assert_ne!(
        MemoryLedger::new().feed().epoch(),
        MemoryLedger::new().feed().epoch()
    );
}
