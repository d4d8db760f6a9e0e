//! For any event: a verified one is a statement of its actor, and all of its fields are covered.

use std::collections::BTreeMap;

use nara_proto::event::{EventReception, EventTrust, SyncEvent, verify_events};
use nara_proto::go_json;
use nara_proto::identity::{KeyPair, PublicKey, Soul};
use nara_proto::time::UnixNanos;
use proptest::prelude::*;

use crate::events::payload;
use crate::text;

const NAMES: [&str; 3] = ["alice", "bob", "a:b"];

/// Returns a separate key for each name.
fn keypair(name: &str) -> KeyPair {
    let number = NAMES
        .iter()
        .position(|known| *known == name)
        .expect("one of the names");
    KeyPair::from_soul(&Soul::bond([number as u8; 32], name))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
        text()
    ]
}

/// Sets the actor and makes the payload well formed, as an attacker would.
fn act_as(event: &mut SyncEvent, actor: &str) {
    let positive = |value: &mut nara_proto::time::UnixSeconds| {
        *value = nara_proto::time::UnixSeconds::new(value.get().saturating_abs().max(1));
    };
    if let Some(payload) = &mut event.social {
        actor.clone_into(&mut payload.actor);
        "gossip".clone_into(&mut payload.kind);
    }
    if let Some(payload) = &mut event.ping {
        actor.clone_into(&mut payload.observer);
        payload.rtt = payload.rtt.abs();
    }
    if let Some(payload) = &mut event.observation {
        actor.clone_into(&mut payload.observer);
        payload.importance = payload.importance.rem_euclid(3) + 1;
        payload.restart_num = payload.restart_num.saturating_abs();
        positive(&mut payload.start_time);
        if payload.kind != "restart" {
            "first-seen".clone_into(&mut payload.kind);
        }
    }
    if let Some(payload) = &mut event.seen {
        actor.clone_into(&mut payload.observer);
    }
    if let Some(payload) = &mut event.hey_there {
        actor.clone_into(&mut payload.from);
    }
    if let Some(payload) = &mut event.chau {
        actor.clone_into(&mut payload.from);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_verified_event_is_the_word_of_the_nara_that_acts(
        payload in payload(), foreign in payload(), actor in proptest::option::weighted(0.2, name()),
        emitter in proptest::option::weighted(0.2, name()), signer in 0..NAMES.len(), ts in 1_i64..1_769_200_000_000_000_000, is_signed: bool, uncovered in text(), number: i64,
        random: [u8; 32],
    ) {
        let now = UnixNanos::new(1_769_100_000_000_000_000);
        let actor = actor.unwrap_or_else(|| NAMES[signer].to_owned());
        let emitter = emitter.unwrap_or_else(|| NAMES[signer].to_owned());
        let mut event = SyncEvent::new(UnixNanos::new(ts), payload);
        act_as(&mut event, &actor);
        event.id = event.compute_id();
        if is_signed {
            event.sign(&emitter, &keypair(NAMES[signer]));
        }
        let other = SyncEvent::new(now, foreign);
        event.social = event.social.or(other.social);
        event.observation = event.observation.or(other.observation);
        event.emitter_id.clone_from(&uncovered);
        if let Some(payload) = &mut event.observation {
            payload.cluster_name.clone_from(&uncovered);
            payload.observer_uptime = number.unsigned_abs();
        }
        let keys: BTreeMap<String, PublicKey> =
            NAMES.iter().map(|name| ((*name).to_owned(), keypair(name).public_key())).collect();
        let reception = EventReception { now, random };
        let mut received = [event.clone()];
        let verdict = verify_events(&mut received, &keys, reception)[0];
        let [kept] = received;
        if verdict != Ok(EventTrust::Verified) {
            return Ok(());
        }
        prop_assert!(is_signed && emitter == NAMES[signer]);
        prop_assert_eq!(kept.actor(), emitter.as_str());
        prop_assert_eq!(&kept.emitter, &emitter);
        prop_assert_eq!(&kept.id, &event.id);
        prop_assert!(kept.has_genuine_id() && kept.validate().is_ok());
        prop_assert_eq!(kept.verify(&keypair(NAMES[signer]).public_key()), Ok(()));
        prop_assert_eq!(kept.content(), event.content());
        // Every field is covered: changing any text or number in the JSON changes id or signature, or is undone.
        let json: serde_json::Value = serde_json::from_slice(&go_json::to_vec(&kept)).unwrap();
        for path in leaves(&json) {
            let mut changed = json.clone();
            let leaf = changed.pointer_mut(&path).unwrap();
            *leaf = match leaf {
                serde_json::Value::String(text) => format!("{text}x").into(),
                serde_json::Value::Number(number) => match number.as_i64() {
                    Some(number) => number.wrapping_add(1).into(),
                    None => (number.as_f64().unwrap() + 1.0).into(),
                },
                other => panic!("no such field is left: {other}"),
            };
            let bytes = serde_json::to_vec(&changed).unwrap();
            let Ok(changed) = go_json::from_slice::<SyncEvent>(&bytes) else { continue };
            let mut received = [changed];
            let verdict = verify_events(&mut received, &keys, reception)[0];
            prop_assert!(verdict != Ok(EventTrust::Verified) || received[0] == kept, "{}", path);
        }
    }
}

/// Returns the paths of all texts and numbers.
fn leaves(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                leaves(value)
                    .into_iter()
                    .map(move |path| format!("/{name}{path}"))
            })
            .collect(),
        _ => vec![String::new()],
    }
}
