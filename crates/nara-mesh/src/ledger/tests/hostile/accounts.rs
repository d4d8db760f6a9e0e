//! Accounts of verified events, and eviction by account.

use std::ops::Range;

use super::*;

crate::ledger::tests::on_every_ledger! {
    super::policy(), super::Naras;
    accounts_over_their_quota_go_first,
    an_account_over_its_quota_is_pruned_down_to_it_and_no_further,
    what_introduced_naras_sign_is_charged_to_the_teller,
    a_checkpoint_is_charged_to_its_teller_and_not_to_its_envelope,
    a_nara_that_restarts_without_end_does_not_keep_others_out,
    eight_accounts_that_fill_the_ledger_within_their_quotas_leave_others_theirs,
    eight_accounts_that_fill_the_room_of_what_is_kept_do_not_keep_others_out,
    what_eight_accounts_keep_goes_before_the_little_that_others_have,
    what_is_kept_of_others_leaves_half_of_the_room_to_configured_peers,
    what_is_kept_of_others_in_their_half_stays_when_configured_peers_want_more,
}

async fn accounts_over_their_quota_go_first(ledger: &dyn Ledger) {
    // The common kind with the highest rank against the lowest.
    sign(
        ledger,
        "met-1",
        (0..10).map(|ts| by("met-1", seen(ts, "met-1", "me"))),
    )
    .await;
    for n in 0..300 {
        sign(
            ledger,
            "met-eve",
            [by("met-eve", hey_there(1_000 + n, "met-eve"))],
        )
        .await;
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 10);
    assert!(ledger.count().await.unwrap() <= 81);
}

async fn an_account_over_its_quota_is_pruned_down_to_it_and_no_further(ledger: &dyn Ledger) {
    let of = |emitter: String, from: i64, count: i64| {
        (0..count).map(move |n| by(&emitter, seen(from + n, &emitter, "me")))
    };
    let others = (2..10).flat_map(|n| of(format!("met-{n}"), 100 * n, 10));
    // One more than its quota, and the newest.
    let events = others.chain(of("met-1".to_owned(), 10_000, 11));
    sign(ledger, "met-2", events).await;
    assert_eq!(all(ledger).await.len(), 80);
    assert_eq!(count_of(ledger, &["met-1"]).await, 10);
}

async fn what_introduced_naras_sign_is_charged_to_the_teller(ledger: &dyn Ledger) {
    sign(ledger, "met-1", (0..10).map(|ts| tease(ts, "met-1"))).await;
    sign(ledger, "met-2", (0..10).map(|ts| tease(100 + ts, "intro-honest"))).await;
    for n in 0..300 {
        let puppet = format!("intro-{n}");
        sign(ledger, "met-eve", [by(&puppet, hey_there(1_000 + n, &puppet))]).await;
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 10);
    assert_eq!(count_of(ledger, &["intro-honest"]).await, 10);
}

async fn a_checkpoint_is_charged_to_its_teller_and_not_to_its_envelope(ledger: &dyn Ledger) {
    let honest = (0..9).map(|n| checkpoint(n, &format!("met-{n}"), 1 + n));
    sign(ledger, "met-1", honest).await;
    let of_eve = (0..200).map(|n| by("conf-1", checkpoint(1_000 + n, "met-2", 1 + n)));
    sign(ledger, "met-eve", of_eve).await;
    let kept = all(ledger).await;
    assert_eq!(kept.iter().filter(|event| event.ts.get() < 1_000).count(), 9);
}

async fn a_nara_that_restarts_without_end_does_not_keep_others_out(ledger: &dyn Ledger) {
    for n in 0..200 {
        let subject = format!("met-{n}");
        let restart = by("met-eve", observation(n, "met-eve", &subject, "restart"));
        sign(ledger, "met-eve", [restart]).await;
    }
    let honest = by("met-1", observation(1, "met-1", "me", "restart"));
    assert_eq!(sign(ledger, "met-1", [honest]).await, [Insertion::Stored]);
    for n in 200..400 {
        let restart = by(
            "met-eve",
            observation(n, "met-eve", &format!("met-{n}"), "restart"),
        );
        sign(ledger, "met-eve", [restart]).await;
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 1);
    assert!(ledger.count().await.unwrap() <= 81);
}

/// Eight quotas are the whole ledger.
fn eight() -> impl Iterator<Item = String> {
    (0..8).map(|n| format!("met-eve-{n}"))
}

async fn eight_accounts_that_fill_the_ledger_within_their_quotas_leave_others_theirs(ledger: &dyn Ledger) {
    // The lowest rank against a higher one, older than everything else.
    let honest = (0..4).map(|ts| by("met-1", seen(ts, "met-1", "me")));
    sign(ledger, "met-1", honest).await;
    for round in 0..30 {
        for eve in eight() {
            let event = by(&eve, hey_there(1_000 + round, &eve));
            sign(ledger, &eve, [event]).await;
        }
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 4);
    // Later events stay as well.
    let honest = (4..5).map(|ts| by("met-1", seen(ts, "met-1", "me")));
    sign(ledger, "met-1", honest).await;
    for eve in eight() {
        sign(ledger, &eve, [by(&eve, hey_there(2_000, &eve))]).await;
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 5);
    assert!(ledger.count().await.unwrap() <= 81);
}

/// Each account reports one restart per round. The id of a restart does not cover its observer, so each reports
/// its own.
async fn restart_of_eight(ledger: &dyn Ledger, rounds: Range<i64>) {
    for round in rounds {
        for eve in eight() {
            let restart = by(&eve, observation(round, &eve, &eve, "restart"));
            assert_eq!(sign(ledger, &eve, [restart]).await, [Insertion::Stored]);
        }
    }
}

async fn eight_accounts_that_fill_the_room_of_what_is_kept_do_not_keep_others_out(ledger: &dyn Ledger) {
    restart_of_eight(ledger, 0..30).await;
    let honest = by("met-1", observation(1, "met-1", "me", "restart"));
    assert_eq!(sign(ledger, "met-1", [honest]).await, [Insertion::Stored]);
    restart_of_eight(ledger, 30..60).await;
    assert_eq!(count_of(ledger, &["met-1"]).await, 1);
    assert!(ledger.count().await.unwrap() <= 81);
}

async fn what_eight_accounts_keep_goes_before_the_little_that_others_have(ledger: &dyn Ledger) {
    // The lowest rank against protected events: a sixty-fourth of the ledger for each, and one more.
    let honest = ["met-1", "met-2", "met-3"];
    for (nara, from) in honest.into_iter().zip([0, 10, 20]) {
        let events = (from..from + 3).map(|ts| by(nara, hey_there(ts, nara)));
        sign(ledger, nara, events).await;
    }
    restart_of_eight(ledger, 0..30).await;
    for nara in honest {
        assert_eq!(count_of(ledger, &[nara]).await, 2, "{nara}");
    }
    // Later events stay as well.
    sign(ledger, "met-4", [by("met-4", hey_there(30, "met-4"))]).await;
    restart_of_eight(ledger, 100..101).await;
    assert_eq!(count_of(ledger, &["met-4"]).await, 1);
    assert!(ledger.count().await.unwrap() <= 81);
}

/// Each of `naras` naras reports one restart, so that no account has more than another.
async fn restart_once(ledger: &dyn Ledger, naras: i64) {
    for n in 0..naras {
        let met = format!("met-{n}");
        let restart = by(&met, observation(n, &met, &met, "restart"));
        assert_eq!(sign(ledger, &met, [restart]).await, [Insertion::Stored]);
    }
}

async fn what_is_kept_of_others_leaves_half_of_the_room_to_configured_peers(ledger: &dyn Ledger) {
    sign(
        ledger,
        "conf-1",
        (0..40).map(|ts| by("conf-1", seen(ts, "conf-1", "me"))),
    )
    .await;
    // First as many as the quotas of eight accounts allow, then one each of many accounts.
    restart_of_eight(ledger, 0..10).await;
    assert_eq!(count_of(ledger, &["conf-1"]).await, 40);
    restart_once(ledger, 60).await;
    assert_eq!(count_of(ledger, &["conf-1"]).await, 40);
    assert_eq!(ledger.count().await.unwrap(), 80);
}

async fn what_is_kept_of_others_in_their_half_stays_when_configured_peers_want_more(ledger: &dyn Ledger) {
    let restart = |n| by("conf-1", observation(n, "conf-1", &format!("met-{n}"), "restart"));
    sign(ledger, "conf-1", (100..130).map(restart)).await;
    restart_once(ledger, 30).await;
    sign(
        ledger,
        "conf-1",
        (0..40).map(|ts| by("conf-1", seen(ts, "conf-1", "me"))),
    )
    .await;
    assert_eq!(count_of(ledger, &["conf-1"]).await, 50);
    assert_eq!(ledger.count().await.unwrap(), 80);
}

/// The account has more events than one batch of pruning.
#[tokio::test]
async fn a_large_account_over_its_quota_loses_a_twentieth_of_the_ledger_at_once_and_no_more() {
    let policy = policy().max_events(2_000);
    let memory = MemoryLedger::new().with_retention(policy);
    let sqlite = SqliteLedger::open_in_memory().unwrap().with_retention(policy);
    for ledger in [&memory as &dyn Ledger, &sqlite] {
        let events = (0..2_021).map(|ts| by("met-1", seen(ts, "met-1", "me")));
        sign(ledger, "met-1", events).await;
        assert_eq!(times(&all(ledger).await), (100..2_021).collect::<Vec<_>>());
    }
}
