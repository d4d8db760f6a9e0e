use proptest::prelude::*;

use super::*;

/// Anything that the hostile peer `met-eve` can send: what it signs itself, what its puppets sign, and lies.
fn hostile() -> impl Strategy<Value = CheckedEvent> {
    let who = prop_oneof![
        Just("met-eve".to_owned()),
        (0..40).prop_map(|n| format!("intro-{n}"))
    ];
    let victim = prop::sample::select(vec!["met-1", "conf-1", "me", "ghost", "met-eve"]);
    (who, victim, -10_i64..2_000, 0..7, any::<bool>()).prop_map(|(who, victim, ts, kind, signed)| {
        let emitter = if signed { who } else { victim.to_owned() };
        let event = match kind {
            0 => seen(ts, &emitter, victim),
            1 => social(ts, &emitter, victim),
            2 => hey_there(ts, &emitter),
            3 => checkpoint(ts, victim, 1 + ts.abs()),
            4 => observation(ts, &emitter, &format!("met-{ts}"), "restart"),
            5 => observation(ts, &emitter, victim, "first-seen"),
            _ => social(i64::MAX - ts.abs(), &emitter, victim),
        };
        let event = by(&emitter, event);
        if signed {
            CheckedEvent::verified(event)
        } else {
            unverified(event)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_hostile_peer_sends_the_others_keep_their_quota(
        before in prop::collection::vec(prop::collection::vec(hostile(), 1..60), 0..6),
        behind in prop::collection::vec(prop::collection::vec(hostile(), 1..60), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let memory = MemoryLedger::new().with_retention(policy()).with_known_names(Arc::new(Naras));
            let sqlite = SqliteLedger::open_in_memory()
                .unwrap()
                .with_retention(policy())
                .with_known_names(Arc::new(Naras));
            for ledger in [&memory as &dyn Ledger, &sqlite] {
                for events in before.clone() {
                    tell(ledger, "met-eve", events).await;
                }
                // Told by itself, told by a configured peer, signed by a configured peer, and an unverified event.
                sign(ledger, "met-1", (0..10).map(|ts| by("met-1", social(10_000 + ts, "met-1", "me")))).await;
                sign(ledger, "conf-1", (0..10).map(|ts| by("intro-x", social(11_000 + ts, "intro-x", "me")))).await;
                sign(ledger, "conf-1", (0..20).map(|ts| by("conf-1", social(12_000 + ts, "conf-1", "me")))).await;
                lie(ledger, "conf-1", [tease(13_000, "carol")]).await;
                for events in behind.clone() {
                    tell(ledger, "met-eve", events).await;
                }
                let honest = all(ledger).await;
                let honest = honest.iter().filter(|event| (10_000..14_000).contains(&event.ts.get()));
                assert_eq!(honest.count(), 41);
                assert!(ledger.count().await.unwrap() <= 80 + 1 + 8 + 60);
            }
            assert_eq!(all(&memory).await, all(&sqlite).await);
        });
    }
}
