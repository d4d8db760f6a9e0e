//! Checkpoints, and the unsigned fields of events.

use super::*;
use crate::event::voters::MAX_VOTERS;

#[test]
fn a_checkpoint_is_the_word_of_its_voters_about_one_subject() {
    assert_eq!(verdict(&checkpoint(&["alice", "bob"])), Ok(EventTrust::Verified));
    assert_eq!(
        verdict(&checkpoint(&["alice", "dave"])),
        Ok(EventTrust::UnknownKey)
    );
    assert_eq!(
        verdict(&checkpoint(&["alice", "mallory"])),
        Ok(EventTrust::UnknownKey)
    );
    assert_eq!(verdict(&checkpoint(&[])), Ok(EventTrust::UnknownKey));
    // A voter whose key is known did not sign.
    let mut forged = checkpoint(&["alice", "dave"]);
    let signatures = &mut forged.checkpoint.as_mut().unwrap().signatures;
    signatures.as_mut().unwrap().swap(0, 1);
    assert_eq!(verdict(&forged), Err(EventProblem::BadSignature));
    // The subject's id is unknown.
    let of_a_stranger = checkpoint_about("dave", &["alice", "bob"]);
    assert_eq!(verdict(&of_a_stranger), Ok(EventTrust::UnknownSubject));

    // Neither id nor voters cover the name beside the id.
    let mut relabelled = checkpoint(&["alice", "bob"]);
    relabelled.checkpoint.as_mut().unwrap().subject = "bob".to_owned();
    assert!(relabelled.has_genuine_id());
    assert_eq!(verdict(&relabelled), Err(EventProblem::Relabelled));
    relabelled.checkpoint.as_mut().unwrap().subject = "dave".to_owned();
    assert_eq!(verdict(&relabelled), Err(EventProblem::Relabelled));
}

#[test]
fn the_envelope_of_a_checkpoint_proves_nothing() {
    let mut alone = checkpoint(&["alice", "dave"]);
    alone.sign("alice", &keypair("alice"));
    assert_eq!(verdict(&alone), Ok(EventTrust::UnknownKey));

    let mut genuine = checkpoint(&["alice", "bob"]);
    let mut wrapped = genuine.clone();
    wrapped.sign("bob", &keypair("bob"));
    let payload = wrapped.checkpoint.as_mut().unwrap();
    payload.round = 9;
    payload.observation.online = "OFFLINE".to_owned();
    payload
        .voter_ids
        .as_mut()
        .unwrap()
        .push("a:b-id".replace(':', ""));
    payload.voter_ids.as_mut().unwrap().push("alice-id".to_owned());
    payload
        .signatures
        .as_mut()
        .unwrap()
        .extend(["AAAA".to_owned(), "AAAA".to_owned()]);
    assert_eq!(verdict_of(&mut wrapped), Ok(EventTrust::Verified));
    assert_eq!(verdict_of(&mut genuine), Ok(EventTrust::Verified));
    assert_eq!(wrapped, genuine);
}

/// Returns other texts that v1 peers read as the same signature.
fn spellings(signature: &str) -> Vec<String> {
    let (head, tail) = signature.split_at(40);
    let last = signature.trim_end_matches('=');
    let (kept, last) = last.split_at(last.len() - 1);
    // The four lowest bits of the last character are unused.
    let unused = char::from(last.as_bytes()[0] + 1);
    vec![
        format!("{head}{}{tail}", "\n".repeat(20_000)),
        format!("{signature}\r\n"),
        format!("{kept}{unused}=="),
    ]
}

#[test]
fn a_verified_event_has_one_spelling() {
    for payload in of_every_service("alice") {
        let genuine = signed("alice", payload);
        let mut clean = genuine.clone();
        assert_eq!(verdict_of(&mut clean), Ok(EventTrust::Verified));
        for sig in spellings(&genuine.sig) {
            let mut copy = genuine.clone();
            copy.sig = sig;
            assert_eq!(verdict_of(&mut copy), Ok(EventTrust::Verified));
            assert_eq!(copy, clean);
        }
    }
    // An unverifiable event cannot be made larger on its way either.
    let unknown = signed("dave", social("dave", "bob", "hello"));
    for sig in spellings(&unknown.sig) {
        let mut copy = unknown.clone();
        copy.sig = sig;
        assert_eq!(verdict_of(&mut copy), Ok(EventTrust::UnknownKey));
        assert_eq!(copy, unknown);
    }
}

#[test]
fn a_verified_event_has_the_payload_of_its_service_and_no_other() {
    let at = UnixMillis::new(NOW.get() / 1_000_000);
    let statement = Succession::rotate(
        &"alice".parse().unwrap(),
        &keypair("alice"),
        &keypair("newer"),
        at,
    );
    let mut events = vec![checkpoint(&["alice", "bob"]), statement.unwrap().to_event()];
    events.extend(
        of_every_service("alice")
            .into_iter()
            .map(|payload| signed("alice", payload)),
    );
    for event in &events {
        let mut clean = event.clone();
        assert_eq!(verdict_of(&mut clean), Ok(EventTrust::Verified));
        assert!(clean.has_genuine_id() && clean.validate().is_ok());
        let mut changed = event.clone();
        for other in &events {
            changed.social = changed.social.or_else(|| other.social.clone());
            changed.ping = changed.ping.or_else(|| other.ping.clone());
            changed.observation = changed.observation.or_else(|| other.observation.clone());
            changed.hey_there = changed.hey_there.or_else(|| other.hey_there.clone());
            changed.chau = changed.chau.or_else(|| other.chau.clone());
            changed.seen = changed.seen.or_else(|| other.seen.clone());
            changed.checkpoint = changed.checkpoint.or_else(|| other.checkpoint.clone());
            changed.succession = changed.succession.or_else(|| other.succession.clone());
        }
        assert_eq!(verdict_of(&mut changed), Ok(EventTrust::Verified));
        assert_eq!(changed, clean);
    }
}

#[test]
fn the_importance_of_a_verified_observation_follows_from_its_kind() {
    for (kind, importance) in [("restart", 3), ("first-seen", 3), ("status-change", 2)] {
        let mut event = signed("alice", observation("alice", kind));
        event.observation.as_mut().unwrap().importance = 1;
        assert_eq!(verdict_of(&mut event), Ok(EventTrust::Verified));
        assert_eq!(event.observation.unwrap().importance, importance, "{kind}");
    }
}

/// Returns a checkpoint of alice and bob that was changed on its way.
fn changed(version: i64, change: impl FnOnce(&mut CheckpointPayload)) -> SyncEvent {
    let mut event = checkpoint(&["alice", "bob"]);
    let payload = event.checkpoint.as_mut().unwrap();
    payload.version = version;
    let sign = |voter: &str| {
        let text = voter_text(payload, &format!("{voter}-id"));
        keypair(voter).sign(text.as_bytes()).to_base64()
    };
    payload.signatures = Some(["alice", "bob"].map(sign).into());
    change(payload);
    event.id = event.compute_id();
    event
}

#[test]
fn of_a_checkpoint_only_what_its_voters_signed_remains() {
    fn add(payload: &mut CheckpointPayload, voter: &str, signature: &str) {
        payload
            .voter_ids
            .get_or_insert_default()
            .insert(0, voter.to_owned());
        payload
            .signatures
            .get_or_insert_default()
            .insert(0, signature.to_owned());
    }
    let mut clean = changed(1, |_| {});
    assert_eq!(verdict_of(&mut clean), Ok(EventTrust::Verified));
    let junk = keypair("mallory").sign(b"junk").to_base64();
    let reversed = |payload: &mut CheckpointPayload| {
        payload.voter_ids.iter_mut().for_each(|list| list.reverse());
        payload.signatures.iter_mut().for_each(|list| list.reverse());
    };
    let copies = [
        changed(1, |payload| payload.previous_checkpoint_id = "x".repeat(60_000)),
        changed(0, |payload| payload.previous_checkpoint_id = "x".to_owned()),
        changed(0, |_| {}),
        changed(1, reversed),
        changed(1, |payload| {
            for n in 0..8 {
                add(payload, &format!("pad{n}\x1b[31m"), "junk");
            }
        }),
        changed(1, |payload| {
            for voter in ["dave-id", "alice-id", "carol-id"] {
                add(payload, voter, &junk);
            }
        }),
        changed(1, |payload| {
            let signature = payload.signatures.as_ref().unwrap()[0].clone();
            for spelled in spellings(&signature) {
                add(payload, "alice-id", &spelled);
            }
        }),
    ];
    for (n, mut copy) in copies.into_iter().enumerate() {
        assert_eq!(copy.id, clean.id, "{n}");
        assert_eq!(verdict_of(&mut copy), Ok(EventTrust::Verified), "{n}");
        assert_eq!(copy, clean, "{n}");
    }
    let with_a_negative_version = changed(-1, |_| {});
    assert_eq!(
        verdict(&with_a_negative_version),
        Err(EventProblem::Invalid(InvalidEvent::OutOfRange("version")))
    );
}

#[test]
fn a_checkpoint_remains_as_its_voters_signed_it() {
    for version in [1, 2] {
        let mut event = changed(version, |_| {});
        assert_eq!(verdict_of(&mut event), Ok(EventTrust::Verified));
        assert!(event.has_genuine_id());
        assert_eq!(event.checkpoint.as_ref().unwrap().version, version);
        let mut again = event.clone();
        assert_eq!(verdict_of(&mut again), Ok(EventTrust::Verified));
        assert_eq!(again, event);
    }
}

#[test]
fn a_checkpoint_has_a_largest_number_of_voters() {
    let repeated = |times: usize| {
        changed(1, |payload| {
            for _ in 1..times {
                let (voters, signatures) = (payload.voter_ids.as_mut(), payload.signatures.as_mut());
                voters.unwrap().push("alice-id".to_owned());
                let signatures = signatures.unwrap();
                signatures.push(signatures[0].clone());
            }
        })
    };
    assert_eq!(verdict(&repeated(MAX_VOTERS - 1)), Ok(EventTrust::Verified));
    assert_eq!(
        verdict(&repeated(MAX_VOTERS)),
        Err(EventProblem::Invalid(InvalidEvent::OutOfRange("voter_ids")))
    );
}
