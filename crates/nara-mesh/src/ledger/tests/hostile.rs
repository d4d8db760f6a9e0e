//! Attacks by a hostile peer on a ledger.

mod accounts;
mod configured;
mod property;
mod rivals;
mod statements;

use std::time::Duration;

use nara_proto::event::EventTrust;
use nara_proto::reconcile::Scope;

use super::*;
use crate::clock::ManualClock;
use crate::ledger::{CheckedEvent, ReadLimit, Standing};

/// `me` is this nara; `conf…` are configured, `met…` were met, `intro…` were introduced by others.
#[derive(Debug)]
struct Naras;

impl KnownNames for Naras {
    fn standing(&self, name: &str) -> Standing {
        match name {
            "me" => Standing::Own,
            name if name.starts_with("conf") => Standing::Configured,
            name if name.starts_with("met") => Standing::Met,
            name if name.starts_with("intro") => Standing::Introduced,
            _ => Standing::Stranger,
        }
    }
}

/// Returns an eighth of the room is 10 events; unverified events have room for 8, one per sender and claimed
/// emitter.
fn policy() -> RetentionPolicy {
    RetentionPolicy::default()
        .max_events(80)
        .unverified_for(Duration::from_secs(100))
}

/// Returns an empty ledger of each kind with this clock.
fn both_by(policy: RetentionPolicy, clock: &Arc<ManualClock>) -> (MemoryLedger, SqliteLedger) {
    let memory = MemoryLedger::new()
        .with_retention(policy)
        .with_clock(clock.clone());
    let sqlite = SqliteLedger::open_in_memory()
        .unwrap()
        .with_retention(policy)
        .with_clock(clock.clone());
    (memory, sqlite)
}

super::on_every_ledger! {
    super::policy(), super::Naras;
    a_verified_event_takes_the_place_of_an_unverified_copy,
    an_unverified_copy_never_takes_the_place_of_a_verified_event,
    an_unverified_event_is_not_in_a_reconciliation,
    an_arrival_says_how_far_it_can_be_trusted,
    unverified_events_never_push_out_verified_ones,
    unverified_checkpoints_and_restarts_are_not_kept,
    what_nobody_could_verify_later_is_not_stored,
    hearsay_does_not_take_the_place_of_what_a_configured_peer_tells,
    one_teller_cannot_take_the_room_of_another,
    one_claimed_emitter_cannot_take_the_room_of_another,
    what_a_configured_peer_told_does_not_go_for_what_a_stranger_tells,
    an_event_of_the_far_future_is_refused,
    an_event_that_is_too_large_is_refused,
    own_events_and_those_of_configured_peers_are_the_last_to_go,
    a_sample_does_not_prefer_unverified_events,
}

fn by(emitter: &str, mut event: SyncEvent) -> SyncEvent {
    event.emitter = emitter.to_owned();
    event.sig = "c2ln".to_owned();
    event
}

fn tease(ts: i64, emitter: &str) -> SyncEvent {
    by(emitter, social(ts, emitter, "me"))
}

fn name(name: &str) -> Option<NaraName> {
    Some(name.parse().unwrap())
}

fn unverified(event: SyncEvent) -> CheckedEvent {
    CheckedEvent::new(event, EventTrust::UnknownKey)
}

async fn tell(ledger: &dyn Ledger, teller: &str, events: Vec<CheckedEvent>) -> Vec<Insertion> {
    ledger.insert(events, name(teller)).await.unwrap()
}

/// Inserts verified events from a peer.
async fn sign(
    ledger: &dyn Ledger,
    teller: &str,
    events: impl IntoIterator<Item = SyncEvent>,
) -> Vec<Insertion> {
    let events = events.into_iter().map(CheckedEvent::verified).collect();
    tell(ledger, teller, events).await
}

async fn lie(
    ledger: &dyn Ledger,
    teller: &str,
    events: impl IntoIterator<Item = SyncEvent>,
) -> Vec<Insertion> {
    tell(ledger, teller, events.into_iter().map(unverified).collect()).await
}

/// Returns the number of stored events of these emitters.
async fn count_of(ledger: &dyn Ledger, emitters: &[&str]) -> usize {
    let events = all(ledger).await;
    events
        .iter()
        .filter(|event| emitters.contains(&event.emitter.as_str()))
        .count()
}

async fn a_verified_event_takes_the_place_of_an_unverified_copy(ledger: &dyn Ledger) {
    let genuine = tease(1, "met");
    let mut stripped = genuine.clone();
    stripped.sig.clear();
    stripped.emitter.clear();
    let squatted = by("eve", social(1, "met", "me"));
    for copy in [stripped, squatted] {
        lie(ledger, "eve", [copy]).await;
    }
    let before = ledger.position().await.unwrap();
    assert_eq!(sign(ledger, "met", [genuine.clone()]).await, [Insertion::Stored]);
    assert_eq!(all(ledger).await, std::slice::from_ref(&genuine));
    // It arrives again, so that followers and subscribers get it.
    let limit = ReadLimit::events(9);
    let arrived = ledger
        .arrived_after(EventFilter::default(), before, limit)
        .await
        .unwrap();
    assert_eq!(arrived.events.len(), 1);
    assert_eq!(arrived.events[0].event, genuine);
}

async fn an_unverified_copy_never_takes_the_place_of_a_verified_event(ledger: &dyn Ledger) {
    let genuine = tease(1, "met");
    sign(ledger, "met", [genuine.clone()]).await;
    let copy = by("conf", social(1, "met", "me"));
    assert_eq!(lie(ledger, "conf", [copy]).await, [Insertion::Duplicate]);
    assert_eq!(all(ledger).await, [genuine]);
}

async fn an_unverified_event_is_not_in_a_reconciliation(ledger: &dyn Ledger) {
    let items = async || ledger.items(Scope::all()).await.unwrap().len();
    lie(ledger, "eve", [tease(1, "met")]).await;
    // Holds for the set that is loaded and for the one that is kept up to date.
    assert_eq!(items().await, 0);
    lie(ledger, "mallory", [tease(2, "met2")]).await;
    assert_eq!(items().await, 0);
    sign(ledger, "met", [tease(1, "met")]).await;
    assert_eq!(items().await, 1);
}

async fn an_arrival_says_how_far_it_can_be_trusted(ledger: &dyn Ledger) {
    let unsigned = observation(3, "met", "me", "status-change");
    sign(ledger, "met", [tease(1, "met")]).await;
    lie(ledger, "eve", [tease(2, "eve")]).await;
    lie(ledger, "mallory", [unsigned]).await;
    let limit = ReadLimit::events(9);
    let arrivals = ledger
        .arrived_after(EventFilter::default(), 0, limit)
        .await
        .unwrap();
    let trust: Vec<_> = arrivals.events.iter().map(|arrival| arrival.trust).collect();
    let expected = [EventTrust::Verified, EventTrust::UnknownKey, EventTrust::Unsigned];
    assert_eq!(trust, expected);
    let page = ledger.page(EventFilter::default(), Cursor::START, limit).await;
    let mut newest = ledger.recent(EventFilter::default(), limit).await.unwrap();
    newest.reverse();
    for read in [page.unwrap(), newest] {
        let trust: Vec<_> = read.iter().map(|checked| checked.trust).collect();
        assert_eq!(trust, expected);
    }
    let unverified = ledger.unverified_by("eve".to_owned()).await.unwrap();
    let [arrival] = &unverified[..] else {
        panic!("{unverified:?}")
    };
    assert_eq!(
        (&arrival.event, &arrival.origin),
        (&tease(2, "eve"), &name("eve"))
    );
    assert_eq!((arrival.seq, arrival.trust), (2, EventTrust::UnknownKey));
    let unverified = ledger.unverified_by("met".to_owned()).await.unwrap();
    let trust: Vec<_> = unverified.iter().map(|arrival| arrival.trust).collect();
    assert_eq!(
        trust,
        [EventTrust::Unsigned],
        "it names no emitter, and met acts in it"
    );
}

async fn unverified_events_never_push_out_verified_ones(ledger: &dyn Ledger) {
    sign(ledger, "met", (0..80).map(|ts| tease(ts, "met"))).await;
    for n in 0..200 {
        lie(
            ledger,
            &format!("eve-{n}"),
            [tease(1_000 + n, &format!("ghost-{n}"))],
        )
        .await;
    }
    assert_eq!(count_of(ledger, &["met"]).await, 80);
    assert_eq!(ledger.count().await.unwrap(), 88, "a tenth in addition");
}

async fn unverified_checkpoints_and_restarts_are_not_kept(ledger: &dyn Ledger) {
    for n in 0..200 {
        let teller = format!("eve-{n}");
        let told = lie(ledger, &teller, [checkpoint(n, "me", 1 + n)]).await;
        assert_eq!(told, [Insertion::NotRetained]);
        let restart = by(&teller, observation(n, &teller, "me", "restart"));
        let told = lie(ledger, &teller, [restart]).await;
        assert_eq!(told, [Insertion::Stored]);
    }
    assert_eq!(ledger.count().await.unwrap(), 8);
    assert_eq!(
        ledger.checkpoints(ReadLimit::events(9), 0).await.unwrap(),
        (vec![], 0)
    );
    // The room for verified events is untouched.
    let signed = sign(ledger, "met", (0..80).map(|ts| checkpoint(ts, "me", 5_000 + ts))).await;
    assert_eq!(signed, [Insertion::Stored; 80]);
}

async fn what_nobody_could_verify_later_is_not_stored(ledger: &dyn Ledger) {
    let unsigned = |mut event: SyncEvent| {
        event.sig.clear();
        event
    };
    // Independent of the peer that sends it.
    for teller in ["me", "conf", "met", "intro", "eve"] {
        for event in [
            checkpoint(1, "me", 1),
            by(teller, checkpoint(2, "me", 2)),
            unsigned(by(teller, hey_there(3, teller))),
            unsigned(by(teller, seen(4, teller, "me"))),
            unsigned(by(teller, ping(5, teller, "me"))),
        ] {
            assert_eq!(lie(ledger, teller, [event]).await, [Insertion::NotRetained]);
        }
    }
    assert_eq!(ledger.count().await.unwrap(), 0);
    // Signed events may be verified once the key is learned; old ledgers hold the others.
    for (teller, event) in [
        ("eve-1", by("eve-1", hey_there(6, "eve-1"))),
        ("eve-2", by("eve-2", ping(7, "eve-2", "me"))),
        ("eve-3", unsigned(tease(8, "eve-3"))),
        ("eve-4", observation(9, "eve-4", "me", "status-change")),
    ] {
        assert_eq!(lie(ledger, teller, [event]).await, [Insertion::Stored]);
    }
}

async fn hearsay_does_not_take_the_place_of_what_a_configured_peer_tells(ledger: &dyn Ledger) {
    // Under the same id, before and after.
    let genuine = tease(1, "carol");
    let squatted = by("ghost", social(1, "carol", "me"));
    lie(ledger, "eve", [squatted.clone()]).await;
    assert_eq!(lie(ledger, "conf", [genuine.clone()]).await, [Insertion::Stored]);
    for teller in ["eve", "conf"] {
        assert_eq!(
            lie(ledger, teller, [squatted.clone()]).await,
            [Insertion::Duplicate]
        );
    }
    lie(ledger, "eve", (0..9).map(|n| tease(100 + n, "ghost"))).await;
    assert!(all(ledger).await.contains(&genuine));
}

async fn one_teller_cannot_take_the_room_of_another(ledger: &dyn Ledger) {
    lie(ledger, "honest", [tease(1, "somebody")]).await;
    for n in 0..50 {
        lie(ledger, "eve", [tease(100 + n, &format!("ghost-{n}"))]).await;
    }
    assert_eq!(count_of(ledger, &["somebody"]).await, 1);
    assert_eq!(ledger.count().await.unwrap(), 2);
    assert_eq!(
        count_of(ledger, &["ghost-49"]).await,
        1,
        "the newest of a sender stays"
    );
}

async fn one_claimed_emitter_cannot_take_the_room_of_another(ledger: &dyn Ledger) {
    lie(ledger, "honest", [tease(1, "somebody")]).await;
    for n in 0..50 {
        lie(ledger, &format!("eve-{n}"), [tease(100 + n, "ghost")]).await;
    }
    assert_eq!(count_of(ledger, &["somebody"]).await, 1);
    assert_eq!(count_of(ledger, &["ghost"]).await, 1);
}

async fn what_a_configured_peer_told_does_not_go_for_what_a_stranger_tells(ledger: &dyn Ledger) {
    for n in 0..8 {
        lie(ledger, &format!("conf-{n}"), [tease(n, &format!("carol-{n}"))]).await;
    }
    assert_eq!(ledger.count().await.unwrap(), 8);
    for n in 0..20 {
        let told = lie(
            ledger,
            &format!("eve-{n}"),
            [tease(100 + n, &format!("ghost-{n}"))],
        )
        .await;
        assert_eq!(told, [Insertion::NotRetained]);
        // Nor by claiming the same emitter.
        let told = lie(ledger, "eve", [tease(100 + n, "carol-1")]).await;
        assert_eq!(told, [Insertion::NotRetained]);
    }
    assert_eq!(times(&all(ledger).await), (0..8).collect::<Vec<_>>());
}

async fn an_event_of_the_far_future_is_refused(ledger: &dyn Ledger) {
    let far = tease(i64::MAX - 1, "conf");
    assert_eq!(
        sign(ledger, "conf", [far.clone()]).await,
        [Insertion::NotRetained]
    );
    assert_eq!(lie(ledger, "conf", [far]).await, [Insertion::NotRetained]);
}

async fn an_event_that_is_too_large_is_refused(ledger: &dyn Ledger) {
    let large = by("conf", social(1, "conf", &"x".repeat(70 << 10)));
    assert_eq!(
        sign(ledger, "conf", [large.clone()]).await,
        [Insertion::NotRetained]
    );
    assert_eq!(lie(ledger, "conf", [large]).await, [Insertion::NotRetained]);
}

async fn own_events_and_those_of_configured_peers_are_the_last_to_go(ledger: &dyn Ledger) {
    sign(
        ledger,
        "conf",
        (0..30).map(|ts| by("conf", seen(ts, "conf", "stranger"))),
    )
    .await;
    let own = (0..30).map(|ts| by("me", ping(100 + ts, "me", &format!("met-{ts}"))));
    ledger.insert_verified(own.collect()).await.unwrap();
    for n in 0..40 {
        let emitter = format!("met-{n}");
        sign(
            ledger,
            &emitter,
            (0..10).map(|ts| by(&emitter, hey_there(1_000 + ts, &emitter))),
        )
        .await;
    }
    assert_eq!(count_of(ledger, &["conf", "me"]).await, 60);
    // They evict each other, oldest first.
    sign(
        ledger,
        "conf",
        (0..100).map(|ts| by("conf", seen(5_000 + ts, "conf", "me"))),
    )
    .await;
    assert!(ledger.count().await.unwrap() <= 81);
    assert!(count_of(ledger, &["conf", "me"]).await >= 80);
}

async fn a_sample_does_not_prefer_unverified_events(ledger: &dyn Ledger) {
    sign(ledger, "met", [checkpoint(1, "me", 1)]).await;
    for n in 0..8 {
        let (eve, ts) = (format!("eve-{n}"), n - 100);
        let restart = by(&eve, observation(ts, &eve, "me", "restart"));
        assert_eq!(lie(ledger, &eve, [restart]).await, [Insertion::Stored]);
    }
    let sample = Sample {
        size: 1,
        bytes: usize::MAX,
        responder: "me".to_owned(),
        now: UnixNanos::new(100),
        seed: 1,
    };
    let drawn = ledger.sample(EventFilter::default(), sample).await.unwrap();
    assert_eq!(times(&drawn), [1]);
}

#[tokio::test]
async fn an_unverified_event_larger_than_its_quota_pushes_nothing_out() {
    // The quota of a sender is an eightieth of this: a thousand bytes.
    let policy = policy().max_bytes(80_000);
    let memory = MemoryLedger::new().with_retention(policy);
    let sqlite = SqliteLedger::open_in_memory().unwrap().with_retention(policy);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        let large = social(2, "eve", &"x".repeat(1_000));
        assert_eq!(lie(ledger, "eve", [tease(1, "eve")]).await, [Insertion::Stored]);
        assert_eq!(
            lie(ledger, "eve", [by("eve", large)]).await,
            [Insertion::NotRetained]
        );
        assert_eq!(all(ledger).await, [tease(1, "eve")]);
    }
}

#[tokio::test]
async fn unverified_events_expire() {
    let start = UnixNanos::new(1_000_000_000_000);
    let clock = Arc::new(ManualClock::new(start));
    let (memory, sqlite) = both_by(policy(), &clock);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        clock.set(start);
        sign(ledger, "met", [tease(1, "met")]).await;
        lie(ledger, "eve", [tease(2, "eve")]).await;
        clock.advance(Duration::from_secs(60));
        lie(ledger, "mallory", [tease(3, "mallory")]).await;
        clock.advance(Duration::from_secs(60));
        sign(ledger, "met", [tease(4, "met")]).await;
        assert_eq!(times(&all(ledger).await), [1, 3, 4]);
    }
}

#[tokio::test]
async fn times_a_little_ahead_of_our_clock_are_kept() {
    let clock = Arc::new(ManualClock::new(UnixNanos::new(0)));
    let policy = policy().max_ahead(Duration::from_nanos(5));
    let (memory, sqlite) = both_by(policy, &clock);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        let outcomes = sign(ledger, "met", [tease(5, "met"), tease(6, "met")]).await;
        assert_eq!(outcomes, [Insertion::Stored, Insertion::NotRetained]);
    }
}

#[tokio::test]
async fn a_ledger_is_bounded_in_bytes_as_well() {
    let policy = policy().max_bytes(40_000);
    let memory = MemoryLedger::new()
        .with_retention(policy)
        .with_known_names(Arc::new(Naras));
    let sqlite = SqliteLedger::open_in_memory()
        .unwrap()
        .with_retention(policy)
        .with_known_names(Arc::new(Naras));
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        sign(ledger, "met-1", (0..10).map(|ts| tease(ts, "met-1"))).await;
        for n in 0..60 {
            let large = by("met-eve", social(100 + n, "met-eve", &"x".repeat(3_000)));
            sign(ledger, "met-eve", [large]).await;
        }
        assert!(bytes_of(&all(ledger).await) <= 40_400);
        assert_eq!(count_of(ledger, &["met-1"]).await, 10);
        // Events that are evicted last are bounded, too.
        let large = |n: i64| by("conf", social(200 + n, "conf", &"x".repeat(3_000)));
        sign(ledger, "conf", (0..20).map(large)).await;
        assert!(bytes_of(&all(ledger).await) <= 40_400);
    }
}

fn bytes_of(events: &[SyncEvent]) -> usize {
    let lengths = events
        .iter()
        .map(|event| nara_proto::go_json::to_vec(event).len());
    lengths.sum()
}

#[tokio::test]
async fn the_largest_event_is_kept_and_one_with_a_byte_more_is_not() {
    let policy = policy().max_event_bytes(bytes_of(&[tease(1, "met")]));
    let memory = MemoryLedger::new().with_retention(policy);
    let sqlite = SqliteLedger::open_in_memory().unwrap().with_retention(policy);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        let outcomes = sign(ledger, "met", [tease(1, "met"), tease(10, "met")]).await;
        assert_eq!(outcomes, [Insertion::Stored, Insertion::NotRetained]);
    }
}

#[tokio::test]
async fn more_unverified_events_than_are_looked_up_at_once_expire_together() {
    let start = UnixNanos::new(1_000_000_000_000);
    let clock = Arc::new(ManualClock::new(start));
    let policy = RetentionPolicy::default().unverified_for(Duration::from_secs(100));
    let (memory, sqlite) = both_by(policy, &clock);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        clock.set(start);
        for eve in ["eve-1", "eve-2"] {
            lie(ledger, eve, (0..600).map(|ts| tease(ts, eve))).await;
        }
        assert_eq!(ledger.count().await.unwrap(), 1_200);
        clock.advance(Duration::from_secs(101));
        sign(ledger, "met", [tease(1_000, "met")]).await;
        assert_eq!(times(&all(ledger).await), [1_000]);
    }
}

#[tokio::test]
async fn reading_stops_at_a_limit_of_bytes() {
    let memory = MemoryLedger::new();
    let sqlite = SqliteLedger::open_in_memory().unwrap();
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        sign(ledger, "met", (0..10).map(|ts| tease(ts, "met"))).await;
        let one = nara_proto::go_json::to_vec(&tease(1, "met")).len();
        let limit = ReadLimit::events(9).bytes(3 * one);
        let everything = EventFilter::default;
        let found = page(ledger, everything(), Cursor::START, limit).await;
        assert_eq!(times(&found), [0, 1, 2]);
        let newest = recent(ledger, everything(), limit).await;
        assert_eq!(times(&newest), [9, 8, 7]);
        assert_eq!(
            times(&ledger.since(UnixNanos::new(0), limit).await.unwrap()),
            [7, 8, 9]
        );
        for slice_total in [1, 2] {
            let slice = Slice {
                since: UnixNanos::new(0),
                slice_index: 0,
                slice_total,
                limit,
            };
            let sliced = ledger.slice(everything(), slice).await.unwrap();
            assert_eq!(sliced.len(), 3);
            assert_eq!(
                sliced.last().unwrap().ts.get(),
                if slice_total == 1 { 9 } else { 8 }
            );
        }
        let sample = Sample {
            size: 9,
            bytes: 3 * one,
            responder: "me".to_owned(),
            now: UnixNanos::new(100),
            seed: 1,
        };
        assert_eq!(ledger.sample(everything(), sample).await.unwrap().len(), 3);
        let items = ledger.items(Scope::all()).await.unwrap().ids().collect();
        assert_eq!(ledger.by_ids(items, 3 * one).await.unwrap().len(), 3);
        let arrived = ledger.arrived_after(everything(), 0, limit).await.unwrap();
        assert_eq!(
            (arrived.events.len(), arrived.end, arrived.is_newest),
            (3, 3, false)
        );
        // However small the limit is, a reader makes progress.
        let tiny = ReadLimit::events(9).bytes(1);
        assert_eq!(
            ledger
                .page(everything(), Cursor::START, tiny)
                .await
                .unwrap()
                .len(),
            1
        );
        assert_eq!(
            ledger
                .arrived_after(everything(), 3, tiny)
                .await
                .unwrap()
                .events
                .len(),
            1
        );
    }
}
