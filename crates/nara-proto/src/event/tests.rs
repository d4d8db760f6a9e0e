//! The verdicts on events: refused, hearsay or verified, and the fields of a verified event.

mod uncovered;

use std::collections::BTreeMap;
use std::time::Duration;

use super::voters::voter_text;
use super::*;
use crate::identity::{KeyPair, PublicKey, Soul};
use crate::succession::Succession;
use crate::time::{UnixMillis, UnixSeconds};

const NOW: UnixNanos = UnixNanos::new(1_769_100_000_000_000_000);

const RECEPTION: EventReception = EventReception {
    now: NOW,
    random: [3; 32],
};

fn keypair(name: &str) -> KeyPair {
    let mut seed = [7; 32];
    seed[0] = name.len() as u8;
    seed[1] = name.as_bytes()[0];
    KeyPair::from_soul(&Soul::bond(seed, name))
}

/// Alice, who had another key before, and bob have pinned keys, mallory is not trusted, and other naras are unknown.
struct Keys;

impl KeyLookup for Keys {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        match name {
            "alice" | "bob" | "a:b" => KeyStanding::Pinned(keypair(name).public_key()),
            "mallory" => KeyStanding::Untrusted,
            _ => KeyStanding::Unknown,
        }
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        id.strip_suffix("-id")
            .map_or(KeyStanding::Unknown, |name| self.standing_of_name(name))
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        let of_id = id.strip_suffix("-id");
        let is_known = |name| self.standing_of_name(name).key().is_some();
        (is_known(name) || of_id.is_some_and(is_known)).then(|| of_id == Some(name))
    }

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        name == "alice" && *key == keypair("older").public_key()
    }
}

fn verdict_of(event: &mut SyncEvent) -> EventVerdict {
    verify_events(std::slice::from_mut(event), &Keys, RECEPTION)[0]
}

fn verdict(event: &SyncEvent) -> EventVerdict {
    verdict_of(&mut event.clone())
}

fn signed(emitter: &str, payload: Payload) -> SyncEvent {
    SyncEvent::signed(NOW, payload, emitter, &keypair(emitter))
}

fn social(actor: &str, target: &str, reason: &str) -> Payload {
    Payload::Social(SocialPayload {
        kind: "tease".to_owned(),
        actor: actor.to_owned(),
        target: target.to_owned(),
        reason: reason.to_owned(),
        ..SocialPayload::default()
    })
}

fn observation(observer: &str, kind: &str) -> Payload {
    Payload::Observation(ObservationPayload {
        observer: observer.to_owned(),
        subject: "carol".to_owned(),
        kind: kind.to_owned(),
        importance: 3,
        start_time: UnixSeconds::new(5),
        online_state: "ONLINE".to_owned(),
        ..ObservationPayload::default()
    })
}

/// Returns one payload of each service except checkpoints, in which `actor` acts.
fn of_every_service(actor: &str) -> Vec<Payload> {
    let key = keypair(actor).public_key().to_base64();
    let actor = actor.to_owned();
    vec![
        social(&actor, "carol", "hello"),
        observation(&actor, "restart"),
        observation(&actor, "first-seen"),
        observation(&actor, "status-change"),
        Payload::Ping(PingPayload {
            observer: actor.clone(),
            target: "carol".to_owned(),
            rtt: 1.3,
            ..PingPayload::default()
        }),
        Payload::Seen(SeenPayload {
            observer: actor.clone(),
            subject: "carol".to_owned(),
            via: "mesh".to_owned(),
            ..SeenPayload::default()
        }),
        Payload::HeyThere(HeyTherePayload {
            from: actor.clone(),
            public_key: key.clone(),
            mesh_ip: "fd7a:115c::1".to_owned(),
            ..HeyTherePayload::default()
        }),
        Payload::Chau(ChauPayload {
            from: actor,
            public_key: key,
            ..ChauPayload::default()
        }),
    ]
}

fn checkpoint(voters: &[&str]) -> SyncEvent {
    checkpoint_about("alice", voters)
}

fn checkpoint_about(subject: &str, voters: &[&str]) -> SyncEvent {
    let mut payload = CheckpointPayload {
        version: 2,
        subject: subject.to_owned(),
        subject_id: format!("{subject}-id"),
        previous_checkpoint_id: "0123456789abcdef".to_owned(),
        observation: Observation {
            restarts: 7,
            total_uptime: 8,
            start_time: UnixSeconds::new(9),
            ..Observation::default()
        },
        as_of_time: UnixSeconds::new(1_769_000_000),
        voter_ids: Some(voters.iter().map(|voter| format!("{voter}-id")).collect()),
        ..CheckpointPayload::default()
    };
    let sign = |voter: &&str| {
        let text = voter_text(&payload, &format!("{voter}-id"));
        keypair(voter).sign(text.as_bytes()).to_base64()
    };
    payload.signatures = Some(voters.iter().map(sign).collect());
    SyncEvent::new(NOW, Payload::Checkpoint(payload))
}

#[test]
fn the_emitter_must_be_the_nara_that_acts() {
    for payload in of_every_service("alice") {
        assert_eq!(
            verdict(&signed("alice", payload.clone())),
            Ok(EventTrust::Verified)
        );
        for other in ["bob", "dave"] {
            let event = signed(other, payload.clone());
            assert_eq!(verdict(&event), Err(EventProblem::NotTheActor), "{event:?}");
        }
    }
}

#[test]
fn nothing_unsigned_is_accepted_in_the_name_of_a_nara_whose_key_is_known() {
    for payload in of_every_service("alice") {
        let event = SyncEvent::new(NOW, payload);
        assert_eq!(verdict(&event), Err(EventProblem::MustBeSigned), "{event:?}");
        let mut claimed = event.clone();
        claimed.emitter = "alice".to_owned();
        assert_eq!(verdict(&claimed), Err(EventProblem::MustBeSigned));
        let mut stripped = signed("alice", observation("alice", "restart"));
        stripped.sig.clear();
        stripped.emitter.clear();
        assert_eq!(verdict(&stripped), Err(EventProblem::MustBeSigned));
    }
}

#[test]
fn old_unsigned_events_of_strangers_are_hearsay_and_others_are_refused() {
    for payload in of_every_service("dave") {
        let event = SyncEvent::new(NOW, payload);
        let is_old_custom = event.social.is_some() || event.observation.is_some();
        let expected = if is_old_custom {
            Ok(EventTrust::Unsigned)
        } else {
            Err(EventProblem::MustBeSigned)
        };
        assert_eq!(verdict(&event), expected, "{event:?}");
    }
    let mut relabelled = SyncEvent::new(NOW, social("dave", "carol", "hello"));
    relabelled.emitter = "erin".to_owned();
    assert_eq!(verdict(&relabelled), Err(EventProblem::NotTheActor));
}

#[test]
fn nothing_is_accepted_in_the_name_of_an_untrusted_nara() {
    for payload in of_every_service("mallory") {
        for event in [
            signed("mallory", payload.clone()),
            SyncEvent::new(NOW, payload.clone()),
        ] {
            assert_eq!(verdict(&event), Err(EventProblem::Untrusted), "{event:?}");
        }
    }
}

#[test]
fn a_statement_about_the_key_of_an_untrusted_nara_is_refused() {
    let [old, new] = ["mallory", "m"].map(keypair);
    let at = UnixMillis::new(NOW.get() / 1_000_000);
    let statement = Succession::rotate(&"mallory".parse().unwrap(), &old, &new, at).unwrap();
    assert_eq!(verdict(&statement.to_event()), Err(EventProblem::Untrusted));
}

#[test]
fn a_statement_is_verified_if_it_is_about_the_key_that_holds_or_held() {
    let at = UnixMillis::new(NOW.get() / 1_000_000);
    let verdict_with = |name: &str, old: &str, new: &str| {
        let statement = Succession::rotate(&name.parse().unwrap(), &keypair(old), &keypair(new), at);
        let mut events = [statement.unwrap().to_event()];
        verify_events(&mut events, &Keys, RECEPTION)[0]
    };
    assert_eq!(verdict_with("alice", "alice", "newer"), Ok(EventTrust::Verified));
    assert_eq!(verdict_with("alice", "older", "alice"), Ok(EventTrust::Verified));
    assert_eq!(
        verdict_with("alice", "unrelated", "alice"),
        Ok(EventTrust::Verified)
    );
    // Another successor of a key that was already replaced.
    assert_eq!(verdict_with("alice", "older", "rival"), Ok(EventTrust::Verified));
    for (old, new) in [("unrelated", "rival"), ("bob", "rival"), ("rival", "older")] {
        assert_eq!(verdict_with("alice", old, new), Ok(EventTrust::UnknownKey));
    }
    for name in ["bob", "dave"] {
        assert_eq!(verdict_with(name, "older", "rival"), Ok(EventTrust::UnknownKey));
    }
}

#[test]
fn an_id_that_does_not_follow_from_the_content_is_refused() {
    for payload in of_every_service("alice") {
        let event = signed("alice", payload);
        let id = event.id.clone();
        let other = SyncEvent::new(NOW.saturating_add(Duration::from_nanos(1)), social("a", "b", "c")).id;
        let ids = [
            String::new(),
            id[..31].to_owned(),
            format!("{id}0"),
            format!(" {id}"),
            id.to_uppercase(),
            other,
        ];
        for forged in ids.into_iter().filter(|forged| *forged != id) {
            let mut event = event.clone();
            event.id = forged;
            // Signed again, so that only the id is wrong.
            event.sig = keypair("alice").sign(&event.signing_digest()).to_base64();
            assert_eq!(verdict(&event), Err(EventProblem::ForgedId), "{}", event.id);
        }
    }
}

#[test]
fn a_signature_of_another_key_or_over_something_else_is_refused() {
    for payload in of_every_service("alice") {
        let genuine = signed("alice", payload);
        let mut of_bob = genuine.clone();
        of_bob.sig = signed("bob", social("bob", "carol", "hello")).sig;
        let mut cut = genuine.clone();
        cut.sig.truncate(40);
        let mut spelled = genuine.clone();
        spelled.sig = spelled.sig.trim_end_matches('=').to_owned();
        for event in [of_bob, cut, spelled] {
            assert_eq!(verdict(&event), Err(EventProblem::BadSignature), "{event:?}");
        }
        // Among valid ones, only the invalid one is refused.
        let mut bad = genuine.clone();
        bad.sig = SyncEvent::signed(NOW, social("alice", "x", "y"), "alice", &keypair("alice")).sig;
        let mut batch = [genuine.clone(), bad, genuine.clone(), genuine];
        let reception = EventReception {
            now: NOW,
            random: [3; 32],
        };
        let verdicts = verify_events(&mut batch, &Keys, reception);
        let bad: Vec<_> = verdicts.iter().map(Result::is_err).collect();
        assert_eq!(bad, [false, true, false, false]);
    }
}

#[test]
fn an_introduction_of_a_stranger_must_verify_with_the_key_inside() {
    let payload = of_every_service("dave").remove(6);
    assert_eq!(
        verdict(&signed("dave", payload.clone())),
        Ok(EventTrust::UnknownKey)
    );
    let forged = SyncEvent::signed(NOW, payload, "dave", &keypair("erin"));
    assert_eq!(verdict(&forged), Err(EventProblem::BadSignature));
}

#[test]
fn what_nothing_covers_is_removed_from_verified_events() {
    for payload in of_every_service("alice") {
        let mut genuine = signed("alice", payload);
        let mut changed = genuine.clone();
        changed.emitter_id = "x".to_owned();
        changed.checkpoint = checkpoint(&[]).checkpoint;
        let others = [social("x", "y", "z"), of_every_service("bob").remove(4)];
        for other in others {
            let other = SyncEvent::new(NOW, other);
            changed.social = changed.social.or(other.social);
            changed.ping = changed.ping.or(other.ping);
        }
        if let Some(payload) = &mut changed.observation {
            payload.importance = if payload.importance == 1 { 2 } else { 1 };
            payload.is_backfill = true;
            payload.last_restart = UnixSeconds::new(9);
            payload.cluster_name = "x".to_owned();
            payload.observer_uptime = 9;
            payload.observer_id = "x".to_owned();
            if payload.kind == "restart" {
                payload.online_state = "MISSING".to_owned();
            }
        }
        if let Some(payload) = &mut changed.hey_there {
            payload.id = "x".to_owned();
            payload.signature = "x".to_owned();
        }
        if let (Some(payload), true) = (&mut changed.ping, genuine.ping.is_some()) {
            payload.rtt += 0.001;
        }
        assert_ne!(changed, genuine);
        assert_eq!(verdict_of(&mut changed), Ok(EventTrust::Verified), "{changed:?}");
        assert_eq!(verdict_of(&mut genuine), Ok(EventTrust::Verified));
        assert_eq!(changed, genuine);
        assert!(genuine.has_genuine_id() && genuine.validate().is_ok());
        assert_eq!(genuine.verify(&keypair("alice").public_key()), Ok(()));
    }
}

#[test]
fn payloads_of_other_services_are_removed_from_unverified_events() {
    let mut event = SyncEvent::new(NOW, observation("dave", "status-change"));
    let genuine = event.clone();
    event.emitter_id = "x".to_owned();
    event.social = SyncEvent::new(NOW, social("x", "y", "z")).social;
    event.checkpoint = checkpoint(&[]).checkpoint;
    assert_eq!(verdict_of(&mut event), Ok(EventTrust::Unsigned));
    assert_eq!(event, genuine);
}

#[test]
fn the_observer_of_a_verified_restart_is_its_emitter() {
    // Neither id nor signature covers the observer.
    let mut event = signed("alice", observation("alice", "restart"));
    event.observation.as_mut().unwrap().observer = "bob".to_owned();
    assert_eq!(event.verify(&keypair("alice").public_key()), Ok(()));
    assert_eq!(verdict(&event), Err(EventProblem::NotTheActor));
}

#[test]
fn a_round_trip_below_the_covered_precision_stays_valid() {
    for rtt in [0.04, 0.000_1] {
        let mut event = signed(
            "alice",
            Payload::Ping(PingPayload {
                observer: "alice".to_owned(),
                target: "bob".to_owned(),
                rtt,
                ..PingPayload::default()
            }),
        );
        assert_eq!(verdict_of(&mut event), Ok(EventTrust::Verified));
        assert_eq!(verdict_of(&mut event), Ok(EventTrust::Verified));
        assert!(event.has_genuine_id() && event.validate().is_ok());
    }
}

#[test]
fn a_signed_text_cannot_be_split_into_other_fields() {
    for payload in [
        social("alice", "bob:carol", "x"),
        Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: "alice".to_owned(),
            target: "bob".to_owned(),
            witness: "a:b".to_owned(),
            ..SocialPayload::default()
        }),
        Payload::Observation(ObservationPayload {
            observer: "alice".to_owned(),
            subject: "o:s:first-seen".to_owned(),
            kind: "restart".to_owned(),
            importance: 3,
            start_time: UnixSeconds::new(100),
            restart_num: 3,
            ..ObservationPayload::default()
        }),
        Payload::Observation(ObservationPayload {
            observer: "alice".to_owned(),
            subject: "s".to_owned(),
            kind: "first-seen".to_owned(),
            importance: 3,
            start_time: UnixSeconds::new(100),
            online_state: "restart".to_owned(),
            ..ObservationPayload::default()
        }),
        Payload::Seen(SeenPayload {
            observer: "alice".to_owned(),
            subject: "bob".to_owned(),
            via: "mesh:x".to_owned(),
            ..SeenPayload::default()
        }),
    ] {
        let event = signed("alice", payload.clone());
        assert!(
            matches!(verdict(&event), Err(EventProblem::Ambiguous(_))),
            "{event:?}"
        );
        let refused = SyncEvent::try_signed(NOW, payload, "alice", &keypair("alice"));
        assert!(matches!(refused, Err(EventProblem::Ambiguous(_))));
    }
    // The text of a message may contain colons, and so may the emitter's name, which selects the key.
    let text = signed("alice", social("alice", "bob", "see http://example.org: there"));
    assert_eq!(verdict(&text), Ok(EventTrust::Verified));
    let name = signed("a:b", social("a:b", "bob", "x"));
    assert_eq!(verdict(&name), Ok(EventTrust::Verified));
}

#[test]
fn an_unsigned_text_has_no_colon_in_its_actor_unless_a_statement_proves_itself() {
    let event = SyncEvent::new(NOW, social("d:e", "carol", "hello"));
    assert_eq!(verdict(&event), Err(EventProblem::Ambiguous("actor")));
    let at = UnixMillis::new(NOW.get() / 1_000_000);
    let statement = Succession::rotate(&"a:b".parse().unwrap(), &keypair("a:b"), &keypair("newer"), at);
    assert_eq!(verdict(&statement.unwrap().to_event()), Ok(EventTrust::Verified));
}

#[test]
fn only_names_are_signed() {
    for (target, problem) in [
        ("bob\nforged", EventProblem::NotAName("target")),
        (" bob", EventProblem::NotAName("target")),
        ("bob:journey-complete", EventProblem::Ambiguous("target")),
        ("", EventProblem::Invalid(InvalidEvent::Empty("target"))),
    ] {
        let payload = social("alice", target, "journey-pass");
        let refused = SyncEvent::try_signed(NOW, payload, "alice", &keypair("alice"));
        assert_eq!(refused, Err(problem));
    }
    let payload = social("alice", "bob", "journey-pass");
    let other = SyncEvent::try_signed(NOW, payload.clone(), "bob", &keypair("bob"));
    assert_eq!(other, Err(EventProblem::NotTheActor));
    let event = SyncEvent::try_signed(NOW, payload, "alice", &keypair("alice")).unwrap();
    assert_eq!(verdict(&event), Ok(EventTrust::Verified));
}

#[test]
fn an_event_of_the_future_is_refused() {
    let at = |lead: Duration| {
        let ts = NOW.saturating_add(lead);
        verdict(&SyncEvent::signed(
            ts,
            social("alice", "bob", "x"),
            "alice",
            &keypair("alice"),
        ))
    };
    assert_eq!(MAX_EVENT_LEAD, Duration::from_mins(5));
    assert_eq!(at(MAX_EVENT_LEAD), Ok(EventTrust::Verified));
    assert_eq!(
        at(MAX_EVENT_LEAD + Duration::from_nanos(1)),
        Err(EventProblem::Future)
    );
    let at = |ts: i64| {
        let payload = social("alice", "bob", "x");
        verdict(&SyncEvent::signed(
            UnixNanos::new(ts),
            payload,
            "alice",
            &keypair("alice"),
        ))
    };
    assert_eq!(at(i64::MAX), Err(EventProblem::Future));
    for before_1970 in [i64::MIN, -1, 0] {
        assert_eq!(
            at(before_1970),
            Err(EventProblem::Invalid(InvalidEvent::OutOfRange("ts")))
        );
    }
    assert_eq!(at(1), Ok(EventTrust::Verified));
}

#[test]
fn an_event_has_a_largest_size() {
    let of = |len: usize| signed("alice", social("alice", "bob", &"x".repeat(len)));
    let room = MAX_EVENT_BYTES - crate::go_json::to_vec(&of(0)).len() - ",\"reason\":\"\"".len();
    assert_eq!(verdict(&of(room)), Ok(EventTrust::Verified));
    assert_eq!(verdict(&of(room + 1)), Err(EventProblem::TooLarge));
}

#[test]
fn a_table_of_names_knows_no_checkpoints() {
    let keys: BTreeMap<String, PublicKey> = ["alice", "bob"]
        .map(|name| (name.to_owned(), keypair(name).public_key()))
        .into();
    let reception = EventReception {
        now: NOW,
        random: [3; 32],
    };
    let mut events = [
        checkpoint(&["alice", "bob"]),
        signed("alice", social("alice", "bob", "x")),
    ];
    let verdicts = verify_events(&mut events, &keys, reception);
    assert_eq!(verdicts, [Ok(EventTrust::UnknownKey), Ok(EventTrust::Verified)]);
    assert!(EventTrust::Verified.is_verified() && !EventTrust::UnknownSubject.is_verified());
}
