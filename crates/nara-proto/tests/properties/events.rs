//! The fields that ids and signatures of events cover, and the events that batches refuse.

use std::collections::{BTreeMap, BTreeSet};

use nara_proto::event::{
    ChauPayload, CheckpointPayload, EventProblem, EventReception, HeyTherePayload, Observation,
    ObservationPayload, Payload, PingPayload, SeenPayload, SocialPayload, SyncEvent, verify_events,
};
use nara_proto::go_json::{self, Field as _};
use nara_proto::identity::{KeyPair, PublicKey, Soul};
use nara_proto::time::{UnixNanos, UnixSeconds};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{keypair, text};

fn seconds() -> impl Strategy<Value = UnixSeconds> {
    any::<i64>().prop_map(UnixSeconds::new)
}

/// Generates any payload, well formed or not.
pub(crate) fn payload() -> impl Strategy<Value = Payload> {
    let float = any::<f64>().prop_filter("JSON has no such number", |value| value.is_finite());
    let observation = (any::<i64>(), any::<i64>(), seconds(), float.clone()).prop_map(
        |(restarts, total_uptime, start_time, rtt)| Observation {
            restarts,
            total_uptime,
            start_time,
            last_ping_rtt: rtt,
            ..Observation::default()
        },
    );
    let kind = prop_oneof![
        Just("restart".to_owned()),
        Just("status-change".to_owned()),
        text()
    ];
    prop_oneof![
        (text(), text(), text(), text(), text()).prop_map(|(kind, actor, target, reason, witness)| {
            Payload::Social(SocialPayload {
                kind,
                actor,
                target,
                reason,
                witness,
                ..Default::default()
            })
        }),
        (text(), text(), float).prop_map(|(observer, target, rtt)| {
            Payload::Ping(PingPayload {
                observer,
                target,
                rtt,
                ..Default::default()
            })
        }),
        (
            text(),
            text(),
            kind,
            any::<i64>(),
            seconds(),
            text(),
            any::<u64>()
        )
            .prop_map(
                |(observer, subject, kind, restart_num, start_time, online_state, observer_uptime)| {
                    Payload::Observation(ObservationPayload {
                        observer,
                        subject,
                        kind,
                        restart_num,
                        start_time,
                        online_state,
                        observer_uptime,
                        ..Default::default()
                    })
                }
            ),
        (text(), text(), text()).prop_map(|(from, public_key, mesh_ip)| {
            Payload::HeyThere(HeyTherePayload {
                from,
                public_key,
                mesh_ip,
                ..Default::default()
            })
        }),
        (text(), text()).prop_map(|(from, public_key)| {
            Payload::Chau(ChauPayload {
                from,
                public_key,
                ..Default::default()
            })
        }),
        (text(), text(), text()).prop_map(|(observer, subject, via)| {
            Payload::Seen(SeenPayload {
                observer,
                subject,
                via,
                ..Default::default()
            })
        }),
        (
            0_i64..4,
            text(),
            text(),
            text(),
            observation,
            seconds(),
            vec(text(), 0..3)
        )
            .prop_map(
                |(version, subject, subject_id, previous_checkpoint_id, observation, as_of_time, voters)| {
                    Payload::Checkpoint(CheckpointPayload {
                        version,
                        subject,
                        subject_id,
                        previous_checkpoint_id,
                        observation,
                        as_of_time,
                        // An empty list is omitted, so it is read back as `None`.
                        voter_ids: (!voters.is_empty()).then_some(voters),
                        ..Default::default()
                    })
                }
            ),
    ]
}

fn unsigned_event() -> impl Strategy<Value = SyncEvent> {
    (any::<i64>(), payload()).prop_map(|(ts, payload)| SyncEvent::new(UnixNanos::new(ts), payload))
}

/// Returns each change of one field that id and signature cover, with the name of the field.
fn covered_changes(event: &SyncEvent) -> Vec<(&'static str, SyncEvent)> {
    let mut changed = Vec::new();
    let mut with = |field, change: &dyn Fn(&mut SyncEvent)| {
        let mut event = event.clone();
        change(&mut event);
        changed.push((field, event));
    };
    with("ts", &|event| {
        event.ts = UnixNanos::new(event.ts.get().wrapping_add(1))
    });
    with("svc", &|event| event.svc.push('x'));
    if event.social.is_some() {
        with("type", &|event| {
            event.social.iter_mut().for_each(|p| p.kind.push('x'))
        });
        with("actor", &|event| {
            event.social.iter_mut().for_each(|p| p.actor.push('x'))
        });
        with("target", &|event| {
            event.social.iter_mut().for_each(|p| p.target.push('x'))
        });
        with("reason", &|event| {
            event.social.iter_mut().for_each(|p| p.reason.push('x'))
        });
        with("witness", &|event| {
            event.social.iter_mut().for_each(|p| p.witness.push('x'))
        });
    }
    if event.ping.is_some() {
        with("observer", &|event| {
            event.ping.iter_mut().for_each(|p| p.observer.push('x'))
        });
        with("target", &|event| {
            event.ping.iter_mut().for_each(|p| p.target.push('x'))
        });
        with("rtt", &|event| {
            event
                .ping
                .iter_mut()
                .for_each(|p| p.rtt = if p.rtt > 0.0 { -9.0 } else { 9.0 })
        });
    }
    if let Some(payload) = &event.observation {
        with("subject", &|event| {
            event.observation.iter_mut().for_each(|p| p.subject.push('x'))
        });
        with("restart_num", &|event| {
            event.observation.iter_mut().for_each(|p| p.restart_num ^= 1)
        });
        with("start_time", &|event| {
            event
                .observation
                .iter_mut()
                .for_each(|p| p.start_time = UnixSeconds::new(p.start_time.get() ^ 1));
        });
        with("type", &|event| {
            event.observation.iter_mut().for_each(|p| p.kind.push('x'))
        });
        if payload.kind != "restart" {
            with("observer", &|event| {
                event.observation.iter_mut().for_each(|p| p.observer.push('x'))
            });
            with("online_state", &|event| {
                event
                    .observation
                    .iter_mut()
                    .for_each(|p| p.online_state.push('x'))
            });
        }
    }
    if event.hey_there.is_some() {
        with("From", &|event| {
            event.hey_there.iter_mut().for_each(|p| p.from.push('x'))
        });
        with("PublicKey", &|event| {
            event.hey_there.iter_mut().for_each(|p| p.public_key.push('x'))
        });
        with("MeshIP", &|event| {
            event.hey_there.iter_mut().for_each(|p| p.mesh_ip.push('x'))
        });
    }
    if event.chau.is_some() {
        with("From", &|event| {
            event.chau.iter_mut().for_each(|p| p.from.push('x'))
        });
        with("PublicKey", &|event| {
            event.chau.iter_mut().for_each(|p| p.public_key.push('x'))
        });
    }
    if event.seen.is_some() {
        with("observer", &|event| {
            event.seen.iter_mut().for_each(|p| p.observer.push('x'))
        });
        with("subject", &|event| {
            event.seen.iter_mut().for_each(|p| p.subject.push('x'))
        });
        with("via", &|event| {
            event.seen.iter_mut().for_each(|p| p.via.push('x'))
        });
    }
    if let Some(payload) = &event.checkpoint {
        with("subject_id", &|event| {
            event.checkpoint.iter_mut().for_each(|p| p.subject_id.push('x'))
        });
        with("restarts", &|event| {
            event
                .checkpoint
                .iter_mut()
                .for_each(|p| p.observation.restarts ^= 1)
        });
        with("total_uptime", &|event| {
            event
                .checkpoint
                .iter_mut()
                .for_each(|p| p.observation.total_uptime ^= 1);
        });
        with("as_of_time", &|event| {
            event
                .checkpoint
                .iter_mut()
                .for_each(|p| p.as_of_time = UnixSeconds::new(p.as_of_time.get() ^ 1));
        });
        if payload.version >= 2 {
            with("previous_checkpoint_id", &|event| {
                event
                    .checkpoint
                    .iter_mut()
                    .for_each(|p| p.previous_checkpoint_id.push('x'));
            });
        }
    }
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn events_survive_json(event in unsigned_event(), keypair in keypair(), emitter in text()) {
        let mut signed = event.clone();
        signed.sign(&emitter, &keypair);
        for event in [event, signed] {
            let json = go_json::to_vec(&event);
            let again: SyncEvent = go_json::from_slice(&json).unwrap();
            prop_assert!(json.len() <= event.most_bytes());
            prop_assert_eq!(go_json::to_vec(&again), json);
            prop_assert_eq!(again, event);
        }
    }

    #[test]
    fn ids_and_signatures_cover_what_they_should(
        event in unsigned_event(),
        keypair in keypair(),
        emitter in text(),
    ) {
        let key = keypair.public_key();
        let mut event = event;
        event.sign(&emitter, &keypair);
        prop_assert!(event.has_genuine_id());
        prop_assert!(event.verify(&key).is_ok());

        for (field, changed) in covered_changes(&event) {
            prop_assert!(!changed.has_genuine_id(), "{} is not in the id", field);
            prop_assert!(changed.verify(&key).is_err(), "{} is not in the signature", field);
        }
        let mut renamed = event.clone();
        renamed.id.push('0');
        let mut claimed = event.clone();
        claimed.emitter.push('x');
        prop_assert!(renamed.verify(&key).is_err() && claimed.verify(&key).is_err());
        let mut uncovered = event.clone();
        uncovered.emitter_id.push('x');
        prop_assert!(uncovered.has_genuine_id() && uncovered.verify(&key).is_ok());
    }

    #[test]
    fn a_batch_names_exactly_the_tampered_events(
        seeds in vec(any::<[u8; 32]>(), 1..4),
        count in 1_usize..40,
        tampered in proptest::collection::btree_set(0_usize..40, 0..6),
        random in any::<[u8; 32]>(),
    ) {
        let keypairs: Vec<_> =
            seeds.iter().map(|seed| KeyPair::from_soul(&Soul::bond(*seed, "alice"))).collect();
        let keys: BTreeMap<String, PublicKey> =
            keypairs.iter().enumerate().map(|(n, keypair)| (n.to_string(), keypair.public_key())).collect();
        let mut events = Vec::new();
        for n in 0..count {
            let signer = n % keypairs.len();
            let payload = Payload::Seen(SeenPayload {
                observer: signer.to_string(),
                subject: n.to_string(),
                via: "ping".to_owned(),
                ..SeenPayload::default()
            });
            let ts = UnixNanos::new(n as i64 + 1);
            events.push(SyncEvent::signed(ts, payload, &signer.to_string(), &keypairs[signer]));
        }
        for &n in &tampered {
            if let Some(event) = events.get_mut(n) {
                let mut other = event.clone();
                other.id.push('x');
                other.sign("0", &keypairs[0]);
                event.sig = other.sig;
            }
        }
        let reception = EventReception { now: UnixNanos::new(0), random };
        let refused: BTreeSet<usize> = verify_events(&mut events, &keys, reception)
            .iter()
            .enumerate()
            .filter(|(_, verdict)| **verdict == Err(EventProblem::BadSignature))
            .map(|(n, _)| n)
            .collect();
        prop_assert_eq!(refused, tampered.into_iter().filter(|n| *n < count).collect());
    }
}
