//! Verified events that compete with others: under one id, or among the pings of one target.

use super::*;

crate::ledger::tests::on_every_ledger! {
    super::policy(), super::Naras;
    one_observer_does_not_push_out_the_pings_of_others,
    puppets_share_one_place_among_the_pings_of_a_target,
    a_place_among_the_pings_is_not_taken_from_an_account_that_has_one_more,
    nobody_takes_the_id_of_a_restart_that_a_nara_reports_of_itself,
    nobody_takes_the_id_of_a_restart_that_a_configured_peer_reports,
    a_name_with_a_colon_does_not_take_the_id_of_an_event,
    a_puppet_does_not_take_the_id_of_a_restart_that_a_nara_reports_which_was_met,
    of_two_observers_of_a_restart_that_were_met_the_first_is_kept,
    a_genuine_event_takes_its_id_back_from_one_that_another_signed,
}

async fn one_observer_does_not_push_out_the_pings_of_others(ledger: &dyn Ledger) {
    sign(
        ledger,
        "met-1",
        (0..4).map(|ts| by("met-1", ping(ts, "met-1", "me"))),
    )
    .await;
    sign(
        ledger,
        "met-eve",
        (100..200).map(|ts| by("met-eve", ping(ts, "met-eve", "me"))),
    )
    .await;
    assert_eq!(count_of(ledger, &["met-1"]).await, 4);
    assert_eq!(count_of(ledger, &["met-eve"]).await, 1);
}

async fn puppets_share_one_place_among_the_pings_of_a_target(ledger: &dyn Ledger) {
    let puppets = |from: i64| {
        let ping_of = move |n: i64| {
            let name = format!("intro-{n}");
            by(&name, ping(from + n, &name, "me"))
        };
        (0..20).map(ping_of)
    };
    // They come first, and are newer than everything else.
    sign(ledger, "met-eve", puppets(1_000)).await;
    for observer in ["met-1", "met-2", "met-3"] {
        let stored = sign(ledger, observer, [by(observer, ping(1, observer, "me"))]).await;
        assert_eq!(stored, [Insertion::Stored], "{observer}");
    }
    sign(ledger, "met-eve", puppets(2_000)).await;
    assert_eq!(count_of(ledger, &["met-1", "met-2", "met-3"]).await, 3);
    let all = all(ledger).await;
    assert_eq!(all.len(), 5);
    assert!(
        all.iter().any(|event| event.ts.get() >= 2_000),
        "the newest puppets"
    );
}

async fn a_place_among_the_pings_is_not_taken_from_an_account_that_has_one_more(ledger: &dyn Ledger) {
    sign(
        ledger,
        "met-1",
        (1..4).map(|ts| by("met-1", ping(ts, "met-1", "me"))),
    )
    .await;
    let of_puppets = (0..9).map(|n| {
        let name = format!("intro-{n}");
        by(&name, ping(100 + n, &name, "me"))
    });
    sign(ledger, "met-eve", of_puppets).await;
    assert_eq!(count_of(ledger, &["met-1"]).await, 3);
    assert_eq!(count_of(ledger, &["intro-7", "intro-8"]).await, 2);
}

/// Returns the emitter of the event that is kept of two verified ones under one id, and checks that it is
/// independent of the order.
async fn kept_of(ledger: &dyn Ledger, events_at: impl Fn(i64) -> [SyncEvent; 2]) -> String {
    let mut kept = Vec::new();
    for (ts, order) in [(5, [0, 1]), (6, [1, 0])] {
        let events = events_at(ts);
        assert_eq!(events[0].id, events[1].id);
        for index in order {
            let event = events[index].clone();
            let teller = event.emitter.clone();
            sign(ledger, &teller, [event]).await;
        }
        let held = all(ledger).await;
        let held: Vec<_> = held.iter().filter(|event| event.id == events[0].id).collect();
        assert_eq!(held.len(), 1);
        kept.push(held[0].emitter.clone());
    }
    assert_eq!(kept[0], kept[1]);
    kept.remove(0)
}

/// A restart of `subject`, reported by each of two observers.
fn restarts(observers: [&str; 2], subject: &str, ts: i64) -> [SyncEvent; 2] {
    observers.map(|observer| by(observer, observation(ts, observer, subject, "restart")))
}

async fn nobody_takes_the_id_of_a_restart_that_a_nara_reports_of_itself(ledger: &dyn Ledger) {
    let kept = kept_of(ledger, |ts| restarts(["met-1", "met-eve"], "met-1", ts)).await;
    assert_eq!(kept, "met-1");
}

async fn nobody_takes_the_id_of_a_restart_that_a_configured_peer_reports(ledger: &dyn Ledger) {
    let kept = kept_of(ledger, |ts| restarts(["conf-1", "met-1"], "met-1", ts)).await;
    assert_eq!(kept, "conf-1");
}

async fn a_name_with_a_colon_does_not_take_the_id_of_an_event(ledger: &dyn Ledger) {
    let say = |ts: i64, actor: &str, target: &str, reason: &str| {
        let payload = SocialPayload {
            kind: "gossip".to_owned(),
            actor: actor.to_owned(),
            target: target.to_owned(),
            reason: reason.to_owned(),
            ..SocialPayload::default()
        };
        by(
            actor,
            SyncEvent::new(UnixNanos::new(ts), Payload::Social(payload)),
        )
    };
    let events_at = |ts| {
        [
            say(ts, "met-1", "me", "at 12:30"),
            say(ts, "met-1:me", "at 12", "30"),
        ]
    };
    assert_eq!(kept_of(ledger, events_at).await, "met-1");
}

async fn a_puppet_does_not_take_the_id_of_a_restart_that_a_nara_reports_which_was_met(ledger: &dyn Ledger) {
    let kept = kept_of(ledger, |ts| restarts(["met-1", "intro-9"], "met-2", ts)).await;
    assert_eq!(kept, "met-1");
}

/// Both report the same subject; any other criterion could be chosen by one of them.
async fn of_two_observers_of_a_restart_that_were_met_the_first_is_kept(ledger: &dyn Ledger) {
    for (ts, order) in [(5, ["met-1", "met-eve"]), (6, ["met-eve", "met-1"])] {
        for event in restarts(order, "met-2", ts) {
            let teller = event.emitter.clone();
            sign(ledger, &teller, [event]).await;
        }
        let held = all(ledger).await;
        let of = held.iter().find(|event| event.ts.get() == ts).unwrap();
        assert_eq!(of.emitter, order[0]);
    }
}

/// Earlier versions stored events that local programs sent in the names of others.
async fn a_genuine_event_takes_its_id_back_from_one_that_another_signed(ledger: &dyn Ledger) {
    let kept = kept_of(ledger, |ts| {
        let genuine = by("met-1", ping(ts, "met-1", "me"));
        let mut copy = genuine.clone();
        copy.emitter = "met-eve".to_owned();
        [genuine, copy]
    })
    .await;
    assert_eq!(kept, "met-1");
}
