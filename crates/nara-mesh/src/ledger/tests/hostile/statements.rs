//! Statements about keys, and notes that this nara writes because of others.

use nara_proto::event::SuccessionPayload;

use super::*;

crate::ledger::tests::on_every_ledger! {
    super::policy(), super::Naras;
    a_statement_that_this_nara_goes_by_does_not_leave_with_its_first_teller,
    a_statement_of_a_configured_peer_that_this_nara_goes_by_is_among_the_last_to_go,
    a_statement_is_kept_as_a_restart_is,
    any_number_of_statements_with_a_replaced_key_is_charged_to_who_tells_them,
    a_statement_that_nobody_told_is_not_charged_to_the_nara_that_it_is_about,
    statements_about_keys_are_no_checkpoints,
    what_this_nara_notes_of_postcards_pushes_nothing_out,
    notes_of_postcards_go_before_what_their_emitter_says_itself,
}

/// States that key `n` succeeds the first one.
pub(super) fn stated(ts: i64, name: &str, n: i64) -> SyncEvent {
    let payload = SuccessionPayload {
        name: name.to_owned(),
        old_key: "first".to_owned(),
        new_key: format!("key-{n}"),
        reason: "rotation".to_owned(),
        ..SuccessionPayload::default()
    };
    SyncEvent::new(UnixNanos::new(ts), Payload::Succession(payload))
}

/// Notes that a postcard of this originator passed.
pub(super) fn note(ts: i64, emitter: &str, originator: &str, reason: &str) -> SyncEvent {
    let mut event = social(ts, emitter, originator);
    if let Some(payload) = &mut event.social {
        "observation".clone_into(&mut payload.kind);
        reason.clone_into(&mut payload.reason);
    }
    event.id = event.compute_id();
    by(emitter, event)
}

/// Sends more protected events than there is room for.
async fn flood(ledger: &dyn Ledger, teller: &str) {
    for n in 0..200 {
        let subject = format!("met-{n}");
        let restart = by(teller, observation(1_000 + n, teller, &subject, "restart"));
        sign(ledger, teller, [restart]).await;
    }
}

async fn a_statement_that_this_nara_goes_by_does_not_leave_with_its_first_teller(ledger: &dyn Ledger) {
    let statements = [stated(1, "met-dora", 1), stated(2, "met-ed", 1)];
    sign(ledger, "met-eve", statements.clone()).await;
    // This nara followed the first.
    let followed = sign(ledger, "met-dora", [statements[0].clone()]).await;
    assert_eq!(followed, [Insertion::Stored]);
    let again = sign(ledger, "met-dora", [statements[0].clone()]).await;
    assert_eq!(again, [Insertion::Duplicate]);
    assert_eq!(
        sign(ledger, "met-eve", statements.clone()).await,
        [Insertion::Duplicate; 2]
    );
    flood(ledger, "met-eve").await;
    let kept = all(ledger).await;
    assert!(kept.contains(&statements[0]));
    assert!(kept.len() <= 81);
}

async fn a_statement_of_a_configured_peer_that_this_nara_goes_by_is_among_the_last_to_go(
    ledger: &dyn Ledger,
) {
    let statement = stated(1, "conf-dora", 1);
    sign(ledger, "met-eve", [statement.clone()]).await;
    sign(ledger, statement.actor(), [statement.clone()]).await;
    // The room for protected events is full, and no account has more than another.
    for n in 0..90 {
        let met = format!("met-{n}");
        sign(
            ledger,
            &met,
            [by(&met, observation(10 + n, &met, &met, "restart"))],
        )
        .await;
    }
    // These evict the oldest protected events of others, within a quota.
    let of_conf = (0..10).map(|n| {
        by(
            "conf-1",
            observation(200 + n, "conf-1", &format!("met-{n}"), "restart"),
        )
    });
    assert_eq!(sign(ledger, "conf-1", of_conf).await, [Insertion::Stored; 10]);
    let kept = all(ledger).await;
    assert!(kept.contains(&statement));
    assert!(!kept.iter().any(|event| event.ts.get() == 10));
}

async fn a_statement_is_kept_as_a_restart_is(ledger: &dyn Ledger) {
    let statement = stated(1, "met-dora", 1);
    sign(ledger, "met-eve", [statement.clone()]).await;
    for n in 0..100 {
        let met = format!("met-{n}");
        sign(ledger, &met, [by(&met, hey_there(10 + n, &met))]).await;
    }
    let kept = all(ledger).await;
    assert!(kept.contains(&statement));
    assert_eq!(kept.len(), 80);
}

async fn any_number_of_statements_with_a_replaced_key_is_charged_to_who_tells_them(ledger: &dyn Ledger) {
    for dora in ["met-dora", "conf-dora", "intro-dora"] {
        let said: Vec<_> = (0..8).map(|ts| tease(ts, dora)).collect();
        sign(ledger, dora, said.clone()).await;
        // Whatever emitter the envelope names.
        let forks = (0..200).map(|n| by(dora, stated(1_000 + n, dora, n)));
        sign(ledger, "met-eve", forks).await;
        let kept = all(ledger).await;
        assert!(said.iter().all(|event| kept.contains(event)), "{dora}");
        assert!(kept.len() <= 81);
    }
}

async fn a_statement_that_nobody_told_is_not_charged_to_the_nara_that_it_is_about(ledger: &dyn Ledger) {
    for dora in ["met-dora", "conf-dora", "intro-dora"] {
        let said: Vec<_> = (0..8).map(|ts| tease(ts, dora)).collect();
        sign(ledger, dora, said.clone()).await;
        // As an import stores them.
        let forks = (0..200).map(|n| stated(1_000 + n, dora, n)).collect();
        ledger.insert_verified(forks).await.unwrap();
        let kept = all(ledger).await;
        assert!(said.iter().all(|event| kept.contains(event)), "{dora}");
        assert!(kept.len() <= 81);
    }
}

async fn statements_about_keys_are_no_checkpoints(ledger: &dyn Ledger) {
    sign(ledger, "met-dora", [stated(1, "met-dora", 1)]).await;
    let served = ledger.checkpoints(ReadLimit::events(9), 0).await.unwrap();
    assert_eq!(served, (vec![], 0));
    // Restarts are kept until a checkpoint counts them.
    let restarts = (0..30).map(|n| by("conf-1", observation(10 + n, "conf-1", "met-dora", "restart")));
    assert_eq!(sign(ledger, "conf-1", restarts).await, [Insertion::Stored; 30]);
    assert_eq!(count_of(ledger, &["conf-1"]).await, 30);
}

async fn what_this_nara_notes_of_postcards_pushes_nothing_out(ledger: &dyn Ledger) {
    let honest = (0..10).map(|ts| by("met-1", seen(ts, "met-1", "me")));
    sign(ledger, "met-1", honest).await;
    sign(ledger, "conf-1", (20..40).map(|ts| tease(ts, "conf-1"))).await;
    let own = (50..60).map(|ts| tease(ts, "me")).collect();
    ledger.insert_verified(own).await.unwrap();
    for n in 0..150 {
        for (k, reason) in (0..).zip(["journey-pass", "journey-complete"]) {
            let noted = note(1_000 + 2 * n + k, "me", "met-eve", reason);
            ledger.insert_verified(vec![noted]).await.unwrap();
            // Notes of a configured peer that is flooded itself.
            let noted = note(5_000 + 2 * n + k, "conf-2", "met-eve", reason);
            sign(ledger, "conf-2", [noted]).await;
        }
    }
    assert_eq!(count_of(ledger, &["met-1"]).await, 10);
    assert_eq!(count_of(ledger, &["conf-1"]).await, 20);
    let kept = all(ledger).await;
    let own = kept
        .iter()
        .filter(|event| event.emitter == "me" && event.ts.get() < 100);
    assert_eq!(own.count(), 10);
    assert!(kept.len() <= 81);
}

async fn notes_of_postcards_go_before_what_their_emitter_says_itself(ledger: &dyn Ledger) {
    // Not every observation is such a note.
    let said = (0..8).map(|ts| tease(ts, "met-bob"));
    let noticed = note(8, "met-bob", "me", "online");
    sign(ledger, "met-bob", said.chain([noticed])).await;
    for n in 0..300 {
        let noted = note(1_000 + n, "met-bob", "met-eve", "journey-pass");
        sign(ledger, "met-bob", [noted]).await;
    }
    let kept = all(ledger).await;
    assert_eq!(kept.iter().filter(|event| event.ts.get() < 100).count(), 9);
}
