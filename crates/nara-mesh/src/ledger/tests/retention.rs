use std::sync::Mutex;

use super::*;
use crate::defaults;
use crate::ledger::Standing;
use crate::ledger::retention::Size;
use crate::registry::{PeerInfo, PeerRegistry};

/// Knows the names it was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl KnownNames for Told {
    fn standing(&self, name: &str) -> Standing {
        if name == "alice" || self.0.lock().unwrap().iter().any(|told| told == name) {
            Standing::Met
        } else {
            Standing::Stranger
        }
    }
}

/// Small limits, so that every rule applies; names that begin with "stranger" are unknown.
fn policy() -> RetentionPolicy {
    RetentionPolicy::default()
        .max_events(12)
        .pings_per_target(5)
        .observations_per_pair(4)
}

#[derive(Debug)]
pub(super) struct NoStrangers;

/// Returns an empty ledger of each kind that knows every name except those that begin with "stranger".
pub(super) fn without_strangers(policy: RetentionPolicy) -> (MemoryLedger, SqliteLedger) {
    let memory = MemoryLedger::new()
        .with_retention(policy)
        .with_known_names(Arc::new(NoStrangers));
    let sqlite = SqliteLedger::open_in_memory()
        .unwrap()
        .with_retention(policy)
        .with_known_names(Arc::new(NoStrangers));
    (memory, sqlite)
}

impl KnownNames for NoStrangers {
    fn standing(&self, name: &str) -> Standing {
        if !name.starts_with("stranger") {
            Standing::Met
        } else {
            Standing::Stranger
        }
    }
}

super::on_every_ledger! {
    super::policy(), super::NoStrangers;
    the_oldest_ping_of_a_target_goes_for_a_newer_one,
    a_ping_older_than_all_is_not_retained,
    the_oldest_observation_goes_before_any_restart,
    an_old_observation_does_not_push_out_a_newer_one,
    restarts_stay_until_there_is_a_checkpoint,
    old_checkpoints_of_r2d2_are_forgotten,
    events_about_strangers_go_first,
    the_lowest_priority_and_the_oldest_go_next,
    checkpoints_restarts_and_first_sightings_are_never_pruned,
    events_that_are_never_pruned_cannot_exceed_the_size,
    what_does_not_outlive_the_call_is_not_retained,
    a_restart_that_goes_makes_room_within_the_call,
}

async fn the_oldest_ping_of_a_target_goes_for_a_newer_one(ledger: &dyn Ledger) {
    store(
        ledger,
        (1..=5).map(|ts| ping(ts, &format!("nara-{ts}"), "bob")).collect(),
    )
    .await;
    store(ledger, vec![ping(9, "alice", "bob"), ping(1, "bob", "alice")]).await;
    let of_bob = page(ledger, subjects(&["bob"]), Cursor::START, ReadLimit::events(10)).await;
    assert_eq!(times(&of_bob), [1, 2, 3, 4, 5, 9]);
    assert_eq!(of_bob[0].target(), "alice");
}

async fn a_ping_older_than_all_is_not_retained(ledger: &dyn Ledger) {
    store(ledger, (2..=6).map(|ts| ping(ts, "alice", "bob")).collect()).await;
    let outcomes = ledger
        .insert_verified(vec![ping(1, "alice", "bob")])
        .await
        .unwrap();
    assert_eq!(outcomes, [Insertion::NotRetained]);
    assert_eq!(times(&all(ledger).await), [2, 3, 4, 5, 6]);
}

async fn the_oldest_observation_goes_before_any_restart(ledger: &dyn Ledger) {
    store(
        ledger,
        vec![
            observation(1, "alice", "bob", "restart"),
            observation(2, "alice", "bob", "first-seen"),
            observation(3, "alice", "bob", "status-change"),
            observation(4, "alice", "bob", "restart"),
            observation(1, "bob", "alice", "status-change"),
        ],
    )
    .await;
    store(ledger, vec![observation(5, "alice", "bob", "status-change")]).await;
    store(ledger, vec![observation(6, "alice", "bob", "restart")]).await;
    assert_eq!(times(&all(ledger).await), [1, 1, 4, 5, 6]);
}

async fn an_old_observation_does_not_push_out_a_newer_one(ledger: &dyn Ledger) {
    store(
        ledger,
        (2..=5)
            .map(|ts| observation(ts, "alice", "bob", "status-change"))
            .collect(),
    )
    .await;
    let outcomes = ledger
        .insert_verified(vec![observation(1, "alice", "bob", "status-change")])
        .await
        .unwrap();
    assert_eq!(outcomes, [Insertion::NotRetained]);
    assert_eq!(times(&all(ledger).await), [2, 3, 4, 5]);
}

async fn restarts_stay_until_there_is_a_checkpoint(ledger: &dyn Ledger) {
    let restart = |ts| observation(ts, "alice", "bob", "restart");
    store(ledger, (1..=6).map(restart).collect()).await;
    let outcomes = ledger
        .insert_verified(vec![observation(9, "alice", "bob", "status-change")])
        .await
        .unwrap();
    assert_eq!(outcomes, [Insertion::NotRetained]);
    store(ledger, vec![checkpoint(10, "bob", 1), restart(7)]).await;
    assert_eq!(times(&all(ledger).await), [4, 5, 6, 7, 10]);
}

async fn old_checkpoints_of_r2d2_are_forgotten(ledger: &dyn Ledger) {
    let outcomes = ledger
        .insert_verified(vec![
            checkpoint(1, "r2d2", 1_768_774_453),
            checkpoint(2, "r2d2", 1_768_774_454),
            checkpoint(3, "bob", 1_768_774_453),
        ])
        .await
        .unwrap();
    assert_eq!(
        outcomes,
        [Insertion::Forgotten, Insertion::Stored, Insertion::Stored]
    );
}

async fn events_about_strangers_go_first(ledger: &dyn Ledger) {
    store(
        ledger,
        vec![
            // A hey-there is how a stranger becomes known, and a restart is protected: neither is evicted, even
            // if oldest.
            hey_there(18, "stranger"),
            observation(19, "stranger", "alice", "restart"),
            social(20, "alice", "stranger"),
            social(21, "stranger", "alice"),
        ],
    )
    .await;
    store(ledger, (1..=8).map(|ts| seen(ts, "alice", "bob")).collect()).await;
    store(ledger, vec![seen(9, "alice", "bob"), seen(10, "alice", "bob")]).await;
    assert_eq!(times(&all(ledger).await), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 18, 19]);
}

async fn the_lowest_priority_and_the_oldest_go_next(ledger: &dyn Ledger) {
    store(
        ledger,
        vec![
            ping(51, "alice", "bob"),
            ping(50, "alice", "bob"),
            seen(40, "alice", "bob"),
            social(30, "alice", "bob"),
            hey_there(20, "bob"),
            observation(21, "alice", "bob", "status-change"),
        ],
    )
    .await;
    for (n, gone) in [50, 51, 40, 30, 20, 21].into_iter().enumerate() {
        while ledger.count().await.unwrap() < 12 {
            let ts = 100 + ledger.count().await.unwrap() as i64;
            store(ledger, vec![checkpoint(ts, "bob", 1)]).await;
        }
        assert!(times(&all(ledger).await).contains(&gone));
        store(ledger, vec![checkpoint(200 + n as i64, "bob", 1)]).await;
        assert!(
            !times(&all(ledger).await).contains(&gone),
            "{gone} should have gone"
        );
        assert_eq!(ledger.count().await.unwrap(), 12);
    }
}

async fn checkpoints_restarts_and_first_sightings_are_never_pruned(ledger: &dyn Ledger) {
    store(
        ledger,
        vec![
            checkpoint(1, "bob", 1),
            observation(2, "alice", "bob", "restart"),
            observation(3, "alice", "bob", "first-seen"),
        ],
    )
    .await;
    store(ledger, (10..50).map(|ts| hey_there(ts, "bob")).take(9).collect()).await;
    for ts in 50..90 {
        ledger.insert_verified(vec![hey_there(ts, "bob")]).await.unwrap();
    }
    let times = times(&all(ledger).await);
    assert_eq!(times[..3], [1, 2, 3]);
    assert_eq!(times[3..], [81, 82, 83, 84, 85, 86, 87, 88, 89]);
}

async fn events_that_are_never_pruned_cannot_exceed_the_size(ledger: &dyn Ledger) {
    store(ledger, (1..=12).map(|ts| checkpoint(ts, "bob", 1)).collect()).await;
    let outcomes = ledger
        .insert_verified(vec![checkpoint(13, "bob", 1), seen(14, "alice", "bob")])
        .await
        .unwrap();
    assert_eq!(outcomes, [Insertion::NotRetained; 2]);
    assert_eq!(ledger.count().await.unwrap(), 12);
}

async fn what_does_not_outlive_the_call_is_not_retained(ledger: &dyn Ledger) {
    let outcomes = ledger
        .insert_verified((1..=13).map(|ts| seen(ts, "alice", "bob")).collect())
        .await
        .unwrap();
    assert_eq!(outcomes[0], Insertion::NotRetained);
    assert_eq!(outcomes[1..], [Insertion::Stored; 12]);
    let outcomes = ledger
        .insert_verified((1..=6).map(|ts| ping(ts, "alice", "carla")).collect())
        .await
        .unwrap();
    // Five more than fit; pings are evicted first.
    assert_eq!(outcomes, [Insertion::NotRetained; 6]);
}

async fn a_restart_that_goes_makes_room_within_the_call(ledger: &dyn Ledger) {
    store(ledger, vec![checkpoint(-1, "bob", 1)]).await;
    let restarts = (1..=30).map(|ts| observation(ts, "alice", "bob", "restart"));
    ledger.insert_verified(restarts.collect()).await.unwrap();
    assert_eq!(times(&all(ledger).await), [-1, 27, 28, 29, 30]);
}

#[tokio::test]
async fn events_about_strangers_go_first_where_only_bytes_are_too_many() {
    let (memory, sqlite) = without_strangers(policy().max_events(1_000).max_bytes(20_000));
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        store(ledger, (1..=5).map(|ts| seen(ts, "alice", "bob")).collect()).await;
        for ts in 10..20 {
            let large = social(ts, "alice", &format!("stranger-{}", "x".repeat(3_000)));
            ledger.insert_verified(vec![large]).await.unwrap();
        }
        assert_eq!(times(&all(ledger).await), [1, 2, 3, 4, 5, 14, 15, 16, 17, 18, 19]);
    }
}

mod learning {
    use super::*;

    async fn a_stranger_that_became_known_is_spared(ledger: &dyn Ledger, told: &Told) {
        store(
            ledger,
            vec![social(1, "alice", "bob"), social(2, "alice", "carla")],
        )
        .await;
        store(ledger, (10..20).map(|ts| social(ts, "alice", "alice")).collect()).await;
        told.0.lock().unwrap().push("bob".to_owned());
        store(ledger, vec![social(30, "alice", "alice")]).await;
        let times = times(&all(ledger).await);
        assert_eq!(times[..2], [1, 10], "the one about carla went");
        told.0.lock().unwrap().clear();
    }

    #[tokio::test]
    async fn in_memory() {
        let told = Arc::new(Told::default());
        let ledger = MemoryLedger::new()
            .with_retention(policy())
            .with_known_names(told.clone());
        a_stranger_that_became_known_is_spared(&ledger, &told).await;
    }

    #[tokio::test]
    async fn in_sqlite() {
        let told = Arc::new(Told::default());
        let ledger = SqliteLedger::open_in_memory()
            .unwrap()
            .with_retention(policy())
            .with_known_names(told.clone());
        a_stranger_that_became_known_is_spared(&ledger, &told).await;
    }
}

#[test]
fn a_nara_without_a_pinned_key_is_a_stranger_but_oneself_is_not() {
    let registry = PeerRegistry::default();
    let name = |name: &str| NaraName::new(name).unwrap();
    let named = PeerInfo {
        name: Some(name("carla")),
        address: Some("127.0.0.1:1".parse().unwrap()),
        ..PeerInfo::default()
    };
    registry.register(named).unwrap();
    let pinned = PinnedKey {
        name: name("bob"),
        id: None,
        key: public_key(1),
        source: KeySource::HeyThere { told_by: None },
        learned_at: UnixMillis::new(1),
    };
    registry.pin(pinned).unwrap();
    let known = registry.known_names(name("alice"));
    assert_eq!(known.standing("alice"), Standing::Own);
    assert_eq!(known.standing("bob"), Standing::Introduced);
    assert_eq!(known.standing("carla"), Standing::Stranger);
    assert_eq!(known.standing("nobody"), Standing::Stranger);
}

#[test]
fn the_sizes_of_v1_peers_are_the_defaults() {
    let policy = RetentionPolicy::SHORT;
    assert_eq!(
        (
            policy.max_events,
            policy.pings_per_target,
            policy.observations_per_pair
        ),
        (20_000, 5, 20)
    );
    assert_eq!(policy.max_bytes, 20_000 * defaults::EVENT_BYTES);
    assert_eq!(RetentionPolicy::default().max_events, 80_000);
    assert_eq!(RetentionPolicy::HOG.max_events, 320_000);
}

#[test]
fn a_ledger_is_pruned_when_it_is_one_per_cent_too_large() {
    let policy = RetentionPolicy::default().max_events(1_000);
    let events = |events| size(events, 0);
    assert_eq!(policy.excess(events(1_010)), Size::default());
    assert_eq!(policy.excess(events(1_011)), events(11));
    assert_eq!(
        RetentionPolicy::UNLIMITED.excess(events(usize::MAX)),
        Size::default()
    );
    let policy = policy.max_bytes(2_000);
    assert_eq!(policy.excess(size(1_000, 2_020)), Size::default());
    assert_eq!(policy.excess(size(1_000, 2_021)), size(0, 21));
}

const fn size(events: usize, bytes: usize) -> Size {
    Size { events, bytes }
}

#[test]
fn a_size_exceeds_a_limit_in_events_or_in_bytes() {
    let limit = size(3, 300);
    assert!(!limit.exceeds(limit));
    assert!(size(4, 0).exceeds(limit) && size(0, 301).exceeds(limit));
    assert_eq!(size(5, 100).min(limit), size(3, 100));
    assert_eq!(size(1, 500).min(limit), size(1, 300));
}

#[test]
fn what_is_too_much_is_rounded_up_to_a_part_of_the_ledger_but_nothing_stays_nothing() {
    let room = size(100, 8_000);
    assert_eq!(size(1, 0).at_least(room, 20), size(5, 0));
    assert_eq!(size(0, 1).at_least(room, 20), size(0, 400));
    assert_eq!(size(7, 500).at_least(room, 20), size(7, 500));
}
