//! Attacks by a configured peer on this nara and on other configured peers.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::statements::stated;
use super::*;

crate::ledger::tests::on_every_ledger! {
    super::policy(), super::Naras;
    a_configured_peer_that_floods_takes_nothing_from_the_others,
    what_a_configured_peer_keeps_leaves_room_for_what_the_others_keep,
    what_this_nara_says_takes_what_peers_have_only_up_to_half_of_the_room,
    of_many_configured_peers_the_largest_lose_first,
    a_statement_about_a_key_is_stored_and_stays_whatever_a_configured_peer_keeps,
    one_nara_has_a_bounded_number_of_statements,
    a_statement_beyond_the_bound_is_charged_to_its_nara_once_that_tells_it,
    a_checkpoint_with_more_voters_takes_the_place_of_one_with_fewer,
}

/// One event of each kind that can fill a ledger.
fn flood_of(emitter: &str, n: i64) -> SyncEvent {
    let subject = format!("met-{n}");
    by(
        emitter,
        match n % 5 {
            0 => social(n, emitter, "me"),
            1 => hey_there(n, emitter),
            2 => observation(n, emitter, &subject, "restart"),
            3 => observation(n, emitter, &subject, "first-seen"),
            _ => seen(n, emitter, "me"),
        },
    )
}

async fn say(ledger: &dyn Ledger, times: std::ops::Range<i64>) {
    let own = times.map(|ts| tease(ts, "me")).collect();
    ledger.insert_verified(own).await.unwrap();
}

fn restart(ts: i64, emitter: &str, subject: &str) -> SyncEvent {
    by(emitter, observation(ts, emitter, subject, "restart"))
}

async fn a_configured_peer_that_floods_takes_nothing_from_the_others(ledger: &dyn Ledger) {
    // The lowest rank against all, and older.
    let alice = (10..19).map(|ts| by("conf-alice", seen(ts, "conf-alice", "me")));
    sign(ledger, "conf-alice", alice).await;
    // More than an eighth, within half.
    say(ledger, 20..50).await;
    for kind in 0..5 {
        let flood = (0..100).map(|n| flood_of("conf-eve", 1_000 * (kind + 1) + 5 * n + kind));
        sign(ledger, "conf-eve", flood).await;
        assert_eq!(count_of(ledger, &["conf-alice"]).await, 9);
        assert_eq!(count_of(ledger, &["me"]).await, 30);
        assert!(count_of(ledger, &["conf-eve"]).await >= 10);
        assert!(ledger.count().await.unwrap() <= 81);
    }
    // Later events are stored as well.
    say(ledger, 10_000..10_001).await;
    assert_eq!(
        sign(ledger, "conf-alice", [tease(10_001, "conf-alice")]).await,
        [Insertion::Stored]
    );
    assert_eq!(count_of(ledger, &["conf-alice", "me"]).await, 41);
}

async fn what_a_configured_peer_keeps_leaves_room_for_what_the_others_keep(ledger: &dyn Ledger) {
    for n in 0..200 {
        sign(ledger, "conf-eve", [restart(n, "conf-eve", &format!("met-{n}"))]).await;
    }
    for emitter in ["conf-alice", "me", "met-1"] {
        for (n, kind) in (0..).zip(["restart", "first-seen"]) {
            let kept = by(emitter, observation(n, emitter, emitter, kind));
            assert_eq!(
                sign(ledger, emitter, [kept]).await,
                [Insertion::Stored],
                "{emitter}"
            );
        }
    }
    for n in 200..400 {
        sign(ledger, "conf-eve", [restart(n, "conf-eve", &format!("met-{n}"))]).await;
    }
    for emitter in ["conf-alice", "me", "met-1"] {
        assert_eq!(count_of(ledger, &[emitter]).await, 2, "{emitter}");
    }
    assert!(ledger.count().await.unwrap() <= 81);
}

async fn what_this_nara_says_takes_what_peers_have_only_up_to_half_of_the_room(ledger: &dyn Ledger) {
    for (peer, from) in [("conf-alice", 0), ("conf-bob", 10)] {
        sign(ledger, peer, (from..from + 10).map(|ts| tease(ts, peer))).await;
    }
    say(ledger, 1_000..1_200).await;
    assert_eq!(count_of(ledger, &["conf-alice"]).await, 10);
    assert_eq!(count_of(ledger, &["conf-bob"]).await, 10);
    let kept = all(ledger).await;
    assert!(kept.iter().any(|event| event.ts.get() == 1_199));
    assert!((40..=61).contains(&count_of(ledger, &["me"]).await));
}

async fn of_many_configured_peers_the_largest_lose_first(ledger: &dyn Ledger) {
    sign(ledger, "conf-alice", (0..2).map(|ts| tease(ts, "conf-alice"))).await;
    say(ledger, 10..30).await;
    for round in 0..10 {
        for n in 0..9 {
            let peer = format!("conf-eve-{n}");
            sign(ledger, &peer, [tease(1_000 + 10 * round + n, &peer)]).await;
        }
    }
    assert_eq!(count_of(ledger, &["conf-alice"]).await, 2);
    assert_eq!(count_of(ledger, &["me"]).await, 20);
    assert!(ledger.count().await.unwrap() <= 81);
}

async fn a_statement_about_a_key_is_stored_and_stays_whatever_a_configured_peer_keeps(ledger: &dyn Ledger) {
    let flood = async |from: i64| {
        for n in from..from + 200 {
            sign(ledger, "conf-eve", [restart(n, "conf-eve", &format!("met-{n}"))]).await;
        }
    };
    flood(1_000).await;
    let statements = [stated(1, "met-dora", 1), stated(2, "conf-ed", 1)];
    for statement in &statements {
        let told = sign(ledger, statement.actor(), [statement.clone()]).await;
        assert_eq!(told, [Insertion::Stored]);
    }
    flood(2_000).await;
    for dora in ["met-dora", "conf-ed"] {
        sign(
            ledger,
            dora,
            (0..100).map(|n| restart(3_000 + n, dora, &format!("met-{n}"))),
        )
        .await;
    }
    let kept = all(ledger).await;
    assert!(statements.iter().all(|statement| kept.contains(statement)));
    assert!(kept.len() <= 81);
}

async fn one_nara_has_a_bounded_number_of_statements(ledger: &dyn Ledger) {
    sign(ledger, "conf-1", (0..10).map(|ts| tease(ts, "conf-1"))).await;
    say(ledger, 20..30).await;
    for dora in ["met-dora", "conf-dora"] {
        sign(ledger, dora, (0..300).map(|n| stated(1_000 + n, dora, n))).await;
    }
    assert_eq!(count_of(ledger, &["conf-1"]).await, 10);
    assert_eq!(count_of(ledger, &["me"]).await, 10);
    assert!(ledger.count().await.unwrap() <= 81);
}

async fn a_statement_beyond_the_bound_is_charged_to_its_nara_once_that_tells_it(ledger: &dyn Ledger) {
    sign(ledger, "met-dora", (0..16).map(|n| stated(n, "met-dora", n))).await;
    // One more has the same rank regardless of its sender.
    let more = stated(20, "met-dora", 20);
    for (teller, outcome) in [
        ("met-eve", Insertion::Stored),
        ("met-dora", Insertion::Stored),
        ("met-dora", Insertion::Duplicate),
        ("met-eve", Insertion::Duplicate),
    ] {
        assert_eq!(sign(ledger, teller, [more.clone()]).await, [outcome], "{teller}");
    }
}

fn with_voters(voters: &[&str]) -> SyncEvent {
    let mut event = checkpoint(1, "met-1", 5);
    if let Some(payload) = &mut event.checkpoint {
        payload.voter_ids = Some(voters.iter().map(|voter| (*voter).to_owned()).collect());
    }
    event
}

async fn a_checkpoint_with_more_voters_takes_the_place_of_one_with_fewer(ledger: &dyn Ledger) {
    let [two, three] = [with_voters(&["a", "b"]), with_voters(&["a", "b", "c"])];
    assert_eq!(two.id, three.id);
    assert_eq!(sign(ledger, "met-1", [two.clone()]).await, [Insertion::Stored]);
    assert_eq!(
        sign(ledger, "met-eve", [three.clone()]).await,
        [Insertion::Stored]
    );
    let fewer = [two, three.clone()];
    assert_eq!(sign(ledger, "met-2", fewer).await, [Insertion::Duplicate; 2]);
    // It is not evicted with the events of its last sender.
    let flood = (0..300).map(|n| checkpoint(1_000 + n, "met-2", 10 + n));
    sign(ledger, "met-eve", flood).await;
    assert!(all(ledger).await.contains(&three));
}

/// Knows every nara except these.
#[derive(Debug, Default)]
struct Forgetful(Mutex<BTreeSet<String>>);

impl KnownNames for Forgetful {
    fn standing(&self, name: &str) -> Standing {
        match self.0.lock().unwrap().contains(name) {
            true => Standing::Stranger,
            false => Standing::Met,
        }
    }
}

#[tokio::test]
async fn statements_about_forgotten_naras_leave_their_room_to_others() {
    let known = Arc::new(Forgetful::default());
    let memory = MemoryLedger::new()
        .with_retention(policy())
        .with_known_names(known.clone());
    let sqlite = SqliteLedger::open_in_memory()
        .unwrap()
        .with_retention(policy())
        .with_known_names(known.clone());
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        for n in 0..10 {
            *known.0.lock().unwrap() = (0..n.min(9)).map(|n| format!("met-dora-{n}")).collect();
            let dora = format!("met-dora-{n}");
            sign(ledger, &dora, [stated(n, &dora, 1)]).await;
        }
        // There was room for all so far.
        assert!(all(ledger).await.contains(&stated(0, "met-dora-0", 1)));
        let ed = stated(20, "met-ed", 1);
        sign(ledger, "met-ed", [ed.clone()]).await;
        // No account is over its quota, so only never-pruned events stay.
        let flood = (0..50).map(|n| restart(1_000 + n, "met-ed", &format!("met-{n}")));
        sign(ledger, "met-ed", flood).await;
        let kept = all(ledger).await;
        assert!(kept.contains(&ed) && kept.contains(&stated(9, "met-dora-9", 1)));
        assert!(!kept.contains(&stated(0, "met-dora-0", 1)));
    }
}
