use proptest::prelude::*;

use super::statements::{note, stated};
use super::*;

/// Events that honest naras send: each account stays within its quota of ten events, and their times interleave
/// with hostile events.
fn honest() -> Vec<(&'static str, CheckedEvent)> {
    let of = |emitter: &str, n: i64| {
        let ts = n * 47;
        let event = match n % 6 {
            0 => seen(ts, emitter, "me"),
            1 => social(ts, emitter, "met-2"),
            2 => hey_there(ts, emitter),
            3 => observation(ts, emitter, emitter, "restart"),
            4 => observation(ts, emitter, "met-2", "first-seen"),
            _ => observation(ts, emitter, "me", "status-change"),
        };
        CheckedEvent::verified(by(emitter, event))
    };
    let mut honest = Vec::new();
    // Three of the five slots for pings of a target.
    for (n, observer) in ["met-3", "met-4", "conf-1"].into_iter().enumerate() {
        let ping = by(observer, ping(500 + n as i64, observer, "me"));
        honest.push((observer, CheckedEvent::verified(ping)));
    }
    honest.extend((0..10).map(|n| ("met-1", of("met-1", n))));
    // Sent by a configured peer: events it signed, and events of naras unknown here.
    honest.extend((10..20).map(|n| ("conf-1", of("intro-x", n))));
    honest.extend((20..40).map(|n| ("conf-1", of("conf-1", n))));
    honest.push(("conf-1", unverified(tease(1_000, "carol"))));
    honest
}

/// Anything that the hostile peer `met-eve` can send: events signed by itself or its puppets, forged events, and
/// copies.
fn hostile() -> impl Strategy<Value = CheckedEvent> {
    let who = prop_oneof![
        Just("met-eve".to_owned()),
        (0..40).prop_map(|n| format!("intro-{n}"))
    ];
    let victim = prop::sample::select(vec!["met-1", "conf-1", "me", "ghost", "met-eve", "carol"]);
    let size = prop_oneof![9 => Just(0_usize), 1 => 0..3_000_usize];
    let copied = prop::sample::select(honest());
    (who, victim, -10_i64..2_000, 0..13, any::<bool>(), size, copied).prop_map(
        |(who, victim, ts, kind, signed, size, (_, copied))| {
            let emitter = if signed { who.clone() } else { victim.to_owned() };
            let event = match kind {
                0 => seen(ts, &emitter, victim),
                1 => social(ts, &emitter, &format!("met{}", "x".repeat(size))),
                2 => hey_there(ts, &emitter),
                3 => checkpoint(ts, victim, 1 + ts.abs()),
                4 => observation(ts, &emitter, &format!("met-{ts}"), "restart"),
                5 => observation(ts, &emitter, victim, "first-seen"),
                6 => ping(ts, &emitter, victim),
                7 => social(i64::MAX - ts.abs(), &emitter, victim),
                // Under the id of an honest event, which does not cover the observer of a restart.
                8 if is_restart(&copied.event) => {
                    let mut event = by(&who, copied.event);
                    event.observation.as_mut().expect("it is one").observer = who;
                    return CheckedEvent::verified(event);
                }
                8 => return unverified(by(&who, copied.event)),
                9 => ping(2_000 + ts, &emitter, "me"),
                // Notes that it causes this nara to write, and statements of a replaced key.
                10 => return CheckedEvent::verified(note(ts, "me", &who, "journey-pass")),
                11 => return CheckedEvent::verified(stated(ts, victim, 7)),
                _ => {
                    let mut stripped = copied.event;
                    stripped.sig.clear();
                    return CheckedEvent::new(stripped, EventTrust::Unsigned);
                }
            };
            let event = by(&emitter, event);
            if signed {
                CheckedEvent::verified(event)
            } else {
                unverified(event)
            }
        },
    )
}

fn is_restart(event: &SyncEvent) -> bool {
    let payload = event.observation.as_deref();
    payload.is_some_and(|payload| payload.kind == "restart")
}

/// Returns the batches that one hostile peer sends.
fn batches() -> impl Strategy<Value = Vec<Vec<CheckedEvent>>> {
    prop::collection::vec(prop::collection::vec(hostile(), 1..60), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_hostile_peer_sends_the_others_keep_their_quota(
        before in batches(), between in batches(), behind in batches(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let policy = policy().max_bytes(40_000);
            let memory = MemoryLedger::new().with_retention(policy).with_known_names(Arc::new(Naras));
            let sqlite = SqliteLedger::open_in_memory()
                .unwrap()
                .with_retention(policy)
                .with_known_names(Arc::new(Naras));
            let honest = honest();
            let (first, second) = honest.split_at(honest.len() / 2);
            for ledger in [&memory as &dyn Ledger, &sqlite] {
                for (hostile, honest) in [(&before, first), (&between, second), (&behind, &[][..])] {
                    for events in hostile.clone() {
                        tell(ledger, "met-eve", events).await;
                    }
                    for (teller, event) in honest {
                        tell(ledger, teller, vec![event.clone()]).await;
                    }
                }
                let kept = all(ledger).await;
                for (teller, told) in &honest {
                    prop_assert!(kept.contains(&told.event), "told by {}: {:?}", teller, told);
                }
                let bytes = bytes_of(&kept);
                // Plus a tenth for unverified events.
                prop_assert!(kept.len() <= 80 + 8 && bytes <= 40_000 + 400 + 4_000, "{} {}", kept.len(), bytes);
            }
            prop_assert_eq!(all(&memory).await, all(&sqlite).await);
            Ok(())
        })?;
    }
}
