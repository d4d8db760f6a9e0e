//! For any input of a peer that we sign: the signature is valid for one reading of the text, and for no message of
//! another kind.

use nara_proto::checkpoint::Attestation;
use nara_proto::event::{
    EventProblem, Observation, ObservationPayload, Payload, Service, SocialPayload, SyncEvent,
};
use nara_proto::time::{UnixNanos, UnixSeconds};
use nara_proto::world::WorldMessage;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::keypair;

/// Generates text from the words of signed texts.
fn crafted() -> impl Strategy<Value = String> {
    let words = vec![
        ":",
        ":",
        ":",
        "1769000000000000000",
        "7",
        "-1",
        "social",
        "observation",
        "bob",
        "alice",
        "tease",
        "gossip",
        "restart",
        "first-seen",
        "ONLINE",
        "\"",
        "{",
        "<",
        "x",
        "",
    ];
    vec(prop::sample::select(words), 0..9).prop_map(|words| words.concat())
}

/// Returns every split of a text into this many parts at colons.
fn cuts(text: &str, parts: usize) -> Vec<Vec<&str>> {
    if parts == 1 {
        return vec![vec![text]];
    }
    let colons = text.match_indices(':');
    let cuts = colons.flat_map(|(at, _)| {
        let rest = cuts(&text[at + 1..], parts - 1);
        rest.into_iter()
            .map(move |rest| [&[&text[..at]], &rest[..]].concat())
    });
    cuts.collect()
}

fn social([kind, actor, target, reason, witness]: [&str; 5]) -> Payload {
    Payload::Social(SocialPayload {
        kind: kind.to_owned(),
        actor: actor.to_owned(),
        target: target.to_owned(),
        reason: reason.to_owned(),
        witness: witness.to_owned(),
        ..SocialPayload::default()
    })
}

fn observation([observer, subject, kind, state, start, number]: [&str; 6]) -> Option<Payload> {
    Some(Payload::Observation(ObservationPayload {
        observer: observer.to_owned(),
        subject: subject.to_owned(),
        kind: kind.to_owned(),
        importance: 3,
        online_state: state.to_owned(),
        start_time: UnixSeconds::new(start.parse().ok()?),
        restart_num: number.parse().ok()?,
        ..ObservationPayload::default()
    }))
}

/// Signs a peer's payload as bob, and checks every other event of bob that could have this signature.
fn has_one_reading(payload: Payload) -> Result<(), TestCaseError> {
    let bob = keypair_of_bob();
    let ts = UnixNanos::new(1);
    let Ok(event) = SyncEvent::try_signed(ts, payload, "bob", &bob) else {
        return Ok(());
    };
    let content = event.content();
    let mut others: Vec<Payload> = Vec::new();
    others.extend(
        cuts(&content, 5)
            .into_iter()
            .map(|cut| social(cut.try_into().expect("five fields"))),
    );
    others.extend(
        cuts(&content, 6)
            .into_iter()
            .filter_map(|cut| observation(cut.try_into().expect("the fields"))),
    );
    others.extend(cuts(&content, 4).into_iter().filter_map(|cut| match cut[..] {
        [subject, "restart", number, start] => observation(["bob", subject, "restart", "", start, number]),
        _ => None,
    }));
    for other in others {
        let mut other = SyncEvent::new(ts, other);
        other.emitter.clone_from(&event.emitter);
        other.sig.clone_from(&event.sig);
        let mut one = event.clone();
        one.remove_uncovered();
        other.remove_uncovered();
        let is_accepted = other.check_claims().is_ok() && other.verify(&bob.public_key()).is_ok();
        prop_assert!(!is_accepted || other == one, "{:?} {:?}", other, one);
    }
    Ok(())
}

fn keypair_of_bob() -> nara_proto::identity::KeyPair {
    nara_proto::identity::KeyPair::from_soul(&nara_proto::identity::Soul::bond([2; 32], "bob"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_attestation_has_one_reading(
        version in 0..3_i64, attester_id in crafted(), subject_id in crafted(), previous in crafted(),
        as_of: i64, restarts: i64, uptime: i64, start: i64, keypair in keypair(),
    ) {
        let mut attestation = Attestation {
            version,
            attester_id: attester_id.clone(),
            subject_id: subject_id.clone(),
            last_seen_checkpoint_id: previous.clone(),
            as_of_time: UnixSeconds::new(as_of),
            observation: Observation {
                restarts,
                total_uptime: uptime,
                start_time: UnixSeconds::new(start),
                ..Observation::default()
            },
            ..Attestation::default()
        };
        if attestation.sign(&keypair).is_err() {
            prop_assert!([attester_id, subject_id, previous].concat().contains(':'));
            prop_assert!(attestation.signature.is_empty());
            // It is refused as well if another nara signed it.
            attestation.signature = keypair.sign(attestation.signed_text().as_bytes()).to_base64();
            prop_assert!(attestation.verify(&keypair.public_key()).is_err());
            return Ok(());
        }
        prop_assert!(attestation.verify(&keypair.public_key()).is_ok());
        let text = attestation.signed_text();
        let numbers = [as_of, restarts, uptime, start].map(|number| number.to_string());
        let mut fields = vec!["attestation", if version < 2 { "v1" } else { "v2" }, &attester_id, &subject_id];
        fields.extend(numbers.iter().map(String::as_str));
        fields.extend((version == 2).then_some(&*previous));
        prop_assert_eq!(text.split(':').collect::<Vec<_>>(), fields);
    }

    /// V1 peers accept any text as the id of an event.
    #[test]
    fn the_signature_of_a_hop_is_not_one_of_an_event(
        id in crafted(), text in crafted(), originator in crafted(), hop in crafted(),
    ) {
        let mut message = WorldMessage::new(&originator, &text, UnixNanos::new(1));
        message.id = id;
        message.hops = Some(vec![nara_proto::world::WorldHop { stamp: hop, ..Default::default() }]);
        let signed = message.signed_json(1, "bob");
        if message.add_hop("bob", UnixSeconds::new(1), &keypair_of_bob()).is_err() {
            return Ok(());
        }
        let signed = String::from_utf8(signed).unwrap();
        for (at, _) in signed.match_indices(":bob:") {
            let mut before = signed[..at].rsplitn(3, ':');
            let svc = before.next().and_then(Service::from_wire);
            let ts = before.next().and_then(|ts| ts.parse::<i64>().ok());
            prop_assert!(svc.is_none() || ts.is_none() || before.next().is_none(), "{}", signed);
        }
    }

    #[test]
    fn an_event_of_foreign_text_has_one_reading(
        fields in prop::array::uniform4(crafted()), kind in prop::sample::select(vec!["tease", "gossip"]),
        observed in prop::sample::select(vec!["restart", "first-seen", "status-change"]),
        number in 0..9_i64,
    ) {
        let [target, reason, witness, state] = &fields;
        has_one_reading(social([kind, "bob", target, reason, witness]))?;
        let number = number.to_string();
        has_one_reading(observation(["bob", target, observed, state, "5", &number]).unwrap())?;
    }
}

#[test]
fn a_text_with_two_readings_is_not_signed() {
    let split = social(["gossip", "bob", "alice:I resign", "x", ""]);
    let refused = SyncEvent::try_signed(UnixNanos::new(1), split, "bob", &keypair_of_bob());
    assert_eq!(refused, Err(EventProblem::Ambiguous("target")));
}
