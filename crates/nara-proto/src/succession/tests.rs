//! Statements contain their own proof, and lineages reach the same state whatever a peer sends.

use proptest::prelude::*;

use super::*;
use crate::event::{EventProblem, EventReception, EventTrust, EventVerdict, verify_events};
use crate::go_json;
use crate::identity::Soul;
use crate::time::UnixNanos;

const AT: UnixMillis = UnixMillis::new(1_769_100_000_250);

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "alice"))
}

fn key(seed: u8) -> PublicKey {
    keypair(seed).public_key()
}

fn alice() -> NaraName {
    "alice".parse().unwrap()
}

/// Returns the statement that key `new` replaces key `old`, or that the nara retires.
fn statement(old: u8, new: Option<u8>) -> Succession {
    match new {
        Some(new) => Succession::rotate(&alice(), &keypair(old), &keypair(new), AT).unwrap(),
        None => Succession::retire(&alice(), &keypair(old), AT),
    }
}

fn rotation(old: u8, new: u8) -> Succession {
    statement(old, Some(new))
}

fn lineage() -> Lineage {
    Lineage::new(alice(), key(1))
}

fn verdict(event: SyncEvent, pinned: Option<u8>) -> (EventVerdict, SyncEvent) {
    let keys = pinned
        .map(|seed| ("alice".to_owned(), key(seed)))
        .into_iter()
        .collect();
    let reception = EventReception {
        now: AT.to_nanos(),
        random: [1; 32],
    };
    let mut events = [event];
    let verdict = verify_events::<std::collections::BTreeMap<_, _>>(&mut events, &keys, reception)[0];
    let [event] = events;
    (verdict, event)
}

#[test]
fn a_statement_needs_both_keys() {
    let payload = rotation(1, 2).to_payload();
    assert_eq!(Succession::from_payload(&payload), Ok(rotation(1, 2)));
    let bad = Err(InvalidSuccession::BadSignature);
    let mut by_thief = payload.clone();
    by_thief.old_sig.clone_from(&payload.new_sig);
    assert_eq!(Succession::from_payload(&by_thief), bad);
    let mut unwilling = payload.clone();
    unwilling.new_sig.clone_from(&payload.old_sig);
    assert_eq!(Succession::from_payload(&unwilling), bad);
    let retirement = statement(1, None).to_payload();
    assert_eq!(Succession::from_payload(&retirement), Ok(statement(1, None)));
    assert_eq!(
        (retirement.new_key.as_str(), retirement.reason.as_str()),
        ("", "retirement")
    );
    let same = Succession::rotate(&alice(), &keypair(1), &keypair(1), AT);
    assert_eq!(same, Err(InvalidSuccession::SameKey));
}

#[test]
fn every_part_of_a_statement_is_signed_and_has_one_spelling() {
    let payload = rotation(1, 2).to_payload();
    let other = rotation(3, 4).to_payload();
    let changed = |change: &dyn Fn(&mut SuccessionPayload)| {
        let mut payload = payload.clone();
        change(&mut payload);
        Succession::from_payload(&payload).unwrap_err()
    };
    let bad = InvalidSuccession::BadSignature;
    assert_eq!(changed(&|payload| payload.name.push('x')), bad);
    assert_eq!(
        changed(&|payload| payload.at = UnixMillis::new(AT.get() + 1)),
        bad
    );
    assert_eq!(
        changed(&|payload| payload.old_key.clone_from(&other.old_key)),
        bad
    );
    assert_eq!(
        changed(&|payload| payload.new_key.clone_from(&other.new_key)),
        bad
    );
    let reason = InvalidSuccession::Reason;
    assert_eq!(
        changed(&|payload| payload.reason = "retirement".to_owned()),
        reason
    );
    assert_eq!(changed(&|payload| payload.reason = "theft".to_owned()), reason);
    assert_eq!(changed(&|payload| payload.new_key.clear()), reason);
    assert_eq!(
        changed(&|payload| payload.new_key.clone_from(&payload.old_key)),
        InvalidSuccession::SameKey
    );
    for change in [
        |payload: &mut SuccessionPayload| payload.old_key.push('\n'),
        |payload: &mut SuccessionPayload| payload.old_sig.push('\n'),
        |payload: &mut SuccessionPayload| payload.new_sig.clear(),
    ] {
        assert!(matches!(changed(&change), InvalidSuccession::Malformed(_)));
    }
    assert_eq!(
        changed(&|payload| payload.name.clear()),
        InvalidSuccession::Name(InvalidName::Empty)
    );
}

#[test]
fn a_succession_is_verified_by_the_pinned_key_and_by_no_envelope() {
    for statement in [rotation(1, 2), statement(1, None)] {
        let event = statement.to_event();
        assert_eq!(verdict(event.clone(), Some(1)).0, Ok(EventTrust::Verified));
        assert_eq!(verdict(event.clone(), None).0, Ok(EventTrust::UnknownKey));
        // It may be a step of a lineage whose preceding step has not arrived.
        assert_eq!(verdict(event.clone(), Some(9)).0, Ok(EventTrust::UnknownKey));
        // It does not matter which peer forwards it: the envelope is removed.
        let mut wrapped = event.clone();
        wrapped.sign("mallory", &keypair(9));
        wrapped.emitter_id = "x".to_owned();
        assert_eq!(
            verdict(wrapped, Some(1)),
            (Ok(EventTrust::Verified), event.clone())
        );
        // The id belongs to one statement: its time is the signed one.
        let mut later = event;
        later.ts = UnixNanos::new(later.ts.get() + 1);
        later.id = later.compute_id();
        assert_eq!(verdict(later, Some(1)).0, Err(EventProblem::BadSignature));
    }
    // A nara that has already pinned the new key learns that the old one was replaced.
    assert_eq!(
        verdict(rotation(1, 2).to_event(), Some(2)).0,
        Ok(EventTrust::Verified)
    );
    let mut forged = rotation(1, 2).to_payload();
    forged.new_key = key(3).to_base64();
    let forged = SyncEvent::new(AT.to_nanos(), Payload::Succession(forged));
    assert_eq!(verdict(forged, Some(1)).0, Err(EventProblem::BadSignature));
}

#[test]
fn an_event_of_a_succession_survives_json() {
    let event = rotation(1, 2).to_event();
    let read: SyncEvent = go_json::from_slice(&go_json::to_vec(&event)).unwrap();
    assert_eq!(read, event);
    assert_eq!(Succession::from_event(&read), Ok(rotation(1, 2)));
    assert_eq!((read.actor(), read.target()), ("alice", "alice"));
}

#[test]
fn a_successor_is_followed_and_the_old_key_is_refused() {
    let mut lineage = lineage();
    assert_eq!(lineage.state(), KeyState::Holds(key(1)));
    assert_eq!(lineage.observe(&rotation(1, 2)), Ok(Step::Followed(key(2))));
    assert_eq!(lineage.observe(&rotation(2, 3)), Ok(Step::Followed(key(3))));
    assert_eq!(lineage.state(), KeyState::Holds(key(3)));
    assert!(lineage.is_replaced(&key(1)) && lineage.is_replaced(&key(2)) && !lineage.is_replaced(&key(3)));
    assert_eq!(lineage.steps().len(), 2);
}

#[test]
fn a_replayed_statement_has_no_effect_and_a_replaced_key_stays_invalid() {
    let mut lineage = lineage();
    lineage.observe(&rotation(1, 2)).unwrap();
    lineage.observe(&rotation(2, 3)).unwrap();
    assert_eq!(lineage.observe(&rotation(1, 2)), Ok(Step::Known));
    assert_eq!(lineage.state(), KeyState::Holds(key(3)));
    // The same successor, stated again at another time.
    let again = Succession::rotate(&alice(), &keypair(2), &keypair(3), UnixMillis::new(5)).unwrap();
    assert_eq!(lineage.observe(&again), Ok(Step::Known));
    assert_eq!(lineage.observe(&rotation(3, 1)), Ok(Step::Conflict));
    assert_eq!(lineage.state(), KeyState::Conflict);
}

#[test]
fn two_successors_are_a_conflict_in_either_order() {
    for (first, second) in [(2, 3), (3, 2)] {
        let mut lineage = lineage();
        assert_eq!(
            lineage.observe(&rotation(1, first)),
            Ok(Step::Followed(key(first)))
        );
        assert_eq!(lineage.observe(&rotation(1, second)), Ok(Step::Conflict));
        assert_eq!(lineage.state(), KeyState::Conflict);
        // Neither of them can be continued.
        assert_eq!(lineage.observe(&rotation(first, 4)), Ok(Step::Conflict));
        assert_eq!(lineage.state(), KeyState::Conflict);
        let (one, other) = lineage.conflict().unwrap();
        assert_eq!((one, other), (&rotation(1, first), &rotation(1, second)));
    }
    let mut lineage = lineage();
    lineage.observe(&statement(1, None)).unwrap();
    assert_eq!(lineage.observe(&rotation(1, 2)), Ok(Step::Conflict));
}

#[test]
fn a_retired_nara_has_no_key() {
    let mut lineage = lineage();
    assert_eq!(lineage.observe(&statement(1, None)), Ok(Step::Retired));
    assert_eq!(lineage.state(), KeyState::Retired);
    assert!(lineage.is_replaced(&key(1)));
    assert_eq!(lineage.observe(&statement(1, None)), Ok(Step::Known));
    assert_eq!(lineage.observe(&rotation(2, 3)), Err(Unrelated));
}

#[test]
fn a_statement_about_other_keys_or_names_is_unrelated() {
    let mut lineage = lineage();
    assert_eq!(lineage.observe(&rotation(2, 3)), Err(Unrelated));
    let other = Succession::rotate(&"bob".parse().unwrap(), &keypair(1), &keypair(2), AT).unwrap();
    assert_eq!(lineage.observe(&other), Err(Unrelated));
    assert_eq!(lineage.state(), KeyState::Holds(key(1)));
    // It applies once the preceding step has arrived.
    lineage.observe(&rotation(1, 2)).unwrap();
    assert_eq!(lineage.observe(&rotation(2, 3)), Ok(Step::Followed(key(3))));
}

#[test]
fn a_thief_of_a_key_that_was_never_pinned_has_no_effect() {
    let mut lineage = Lineage::new(alice(), key(2));
    assert_eq!(lineage.observe(&rotation(1, 2)), Ok(Step::Known));
    assert!(lineage.is_replaced(&key(1)));
    assert_eq!(lineage.observe(&rotation(1, 3)), Ok(Step::Known));
    assert_eq!(lineage.state(), KeyState::Holds(key(2)));
}

#[test]
fn the_operator_decides_and_old_statements_do_not_undo_it() {
    let mut lineage = lineage();
    for statement in [rotation(1, 2), rotation(1, 3)] {
        lineage.observe(&statement).unwrap();
    }
    lineage.decide(key(2));
    assert_eq!(lineage.state(), KeyState::Holds(key(2)));
    assert!(lineage.is_replaced(&key(1)) && lineage.is_replaced(&key(3)));
    for statement in [rotation(1, 3), rotation(1, 2), rotation(3, 4), statement(1, None)] {
        assert_eq!(lineage.observe(&statement), Ok(Step::Known));
    }
    assert_eq!(lineage.state(), KeyState::Holds(key(2)));
    assert_eq!(lineage.observe(&rotation(2, 4)), Ok(Step::Followed(key(4))));
}

#[test]
fn a_lineage_has_a_largest_length() {
    let mut lineage = lineage();
    let most = u8::try_from(Lineage::MAX_STEPS).unwrap();
    for seed in 1..=most {
        lineage.observe(&rotation(seed, seed + 1)).unwrap();
    }
    let mut retired = lineage.clone();
    assert_eq!(retired.observe(&statement(most + 1, None)), Ok(Step::Retired));
    // One more rotation: the key that it replaces must not stay valid.
    assert_eq!(lineage.observe(&rotation(most + 1, most + 2)), Ok(Step::Conflict));
    assert_eq!(lineage.state(), KeyState::Conflict);
    assert_eq!(lineage.observe(&statement(most + 1, None)), Ok(Step::Conflict));
    assert_eq!(retired.observe(&rotation(most + 1, most + 2)), Ok(Step::Conflict));
    lineage.decide(key(most + 2));
    assert_eq!(
        lineage.observe(&rotation(most + 2, most + 3)),
        Ok(Step::Followed(key(most + 3)))
    );
    let mut lineage = Lineage::new(alice(), key(0));
    for seed in 1..=most {
        assert_eq!(lineage.observe(&rotation(seed, 0)), Ok(Step::Known));
    }
    assert_eq!(lineage.observe(&rotation(most + 1, 0)), Err(Unrelated));
}

/// Returns headers with these statements.
fn shown(statements: &[Succession]) -> HeaderMap {
    let header = Succession::to_header(statements).map(|value| (SUCCESSION_HEADER, value));
    header.into_iter().collect()
}

/// Parses the headers where the key with this number is known.
fn read(headers: &HeaderMap, known: u8) -> Result<Vec<Succession>, InvalidSuccession> {
    Succession::from_headers(headers, |old| *old == key(known))
}

#[test]
fn a_header_leads_from_whichever_key_is_known_to_the_newest() {
    let chain = [rotation(1, 2), rotation(2, 3), rotation(3, 4)];
    for known in 1..=3 {
        let expected = &chain[usize::from(known) - 1..];
        assert_eq!(read(&shown(&chain), known).unwrap(), expected);
    }
    assert_eq!(read(&shown(&chain), 9), Ok(Vec::new()));
    assert_eq!(read(&shown(&[]), 1), Ok(Vec::new()));
    assert_eq!(read(&shown(&chain[..1]), 1).unwrap(), &chain[..1]);
}

#[test]
fn a_header_with_statements_that_do_not_continue_each_other_is_refused() {
    let malformed = Err(InvalidSuccession::Malformed("the header"));
    assert_eq!(read(&shown(&[rotation(1, 2), rotation(3, 4)]), 1), malformed);
    assert_eq!(read(&shown(&[rotation(2, 3), rotation(1, 2)]), 1), malformed);
    let of_bob = Succession::rotate(&"bob".parse().unwrap(), &keypair(2), &keypair(3), AT).unwrap();
    assert_eq!(read(&shown(&[rotation(1, 2), of_bob]), 1), malformed);
    let mut twice = shown(&[rotation(1, 2)]);
    twice.append(SUCCESSION_HEADER, twice[SUCCESSION_HEADER].clone());
    assert_eq!(read(&twice, 1), malformed);
    for text in ["", ",", "AAAA,", "bm90aGluZw=="] {
        let header = HeaderValue::from_static(text);
        let headers = [(SUCCESSION_HEADER, header)].into_iter().collect();
        assert_eq!(read(&headers, 1), malformed, "{text}");
    }
    let long = HeaderValue::try_from("A".repeat(MAX_HEADER + 1)).unwrap();
    let headers = [(SUCCESSION_HEADER, long)].into_iter().collect();
    assert_eq!(read(&headers, 1), malformed);
}

#[test]
fn every_statement_of_a_header_is_verified_from_the_known_key_on() {
    let mut forged = rotation(2, 3);
    forged.new = Some((key(4), keypair(3).sign(b"another text")));
    let headers = shown(&[rotation(1, 2), forged]);
    assert_eq!(read(&headers, 1), Err(InvalidSuccession::BadSignature));
}

#[test]
fn a_header_has_a_largest_length_and_shows_the_newest_statements() {
    let chain: Vec<Succession> = (1..=40).map(|old| rotation(old, old + 1)).collect();
    let headers = shown(&chain);
    assert!(headers[SUCCESSION_HEADER].len() <= MAX_HEADER);
    assert_eq!(read(&headers, 1), Ok(Vec::new()));
    assert_eq!(read(&headers, 35).unwrap(), &chain[34..]);
    // One statement of the longest name fits.
    let longest: NaraName = "n".repeat(1024).parse().unwrap();
    let one = Succession::rotate(&longest, &keypair(1), &keypair(2), AT).unwrap();
    assert_eq!(read(&shown(std::slice::from_ref(&one)), 1).unwrap(), [one]);
}

#[test]
fn words_on_paper_say_which_line_is_wrong() {
    for statement in [rotation(1, 2), statement(1, None)] {
        let lines = statement.to_words();
        assert!(lines.iter().all(|line| line.split(' ').count() == 24));
        let paper = lines.join("\n  ").to_uppercase();
        assert_eq!(Succession::from_words(&paper), Ok(statement.clone()));
        for (index, line) in lines.iter().enumerate() {
            let mut changed = lines.clone();
            let first = line.split(' ').next().unwrap();
            let other = if first == "zoo" { "abandon" } else { "zoo" };
            changed[index] = line.replacen(first, other, 1);
            // One of 256 changes has the same checksum by chance; then the signature detects it.
            assert!(
                matches!(
                    Succession::from_words(&changed.join(" ")),
                    Err(InvalidWords::Line(line)) if line == index + 1,
                ) || Succession::from_words(&changed.join(" ")).is_err()
            );
            changed[index] = line.replacen(first, "nara", 1);
            assert_eq!(
                Succession::from_words(&changed.join(" ")),
                Err(InvalidWords::Line(index + 1))
            );
        }
        let swapped: Vec<_> = lines.iter().rev().cloned().collect();
        assert!(Succession::from_words(&swapped.join(" ")).is_err());
        assert!(Succession::from_words(&lines[1..].join(" ")).is_err());
    }
    assert_eq!(Succession::from_words(""), Err(InvalidWords::Count(0)));
    assert_eq!(Succession::from_words("zoo"), Err(InvalidWords::Count(1)));
    let endless = "zoo ".repeat(100_000);
    assert!(matches!(
        Succession::from_words(&endless),
        Err(InvalidWords::Count(_))
    ));
}

#[test]
fn the_longest_name_fits_on_paper() {
    let name: NaraName = "é".repeat(NaraName::MAX_LEN / 2).parse().unwrap();
    let statement = Succession::rotate(&name, &keypair(1), &keypair(2), AT).unwrap();
    assert_eq!(
        Succession::from_words(&statement.to_words().join(" ")),
        Ok(statement)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever the source and order of the statements: repeated until nothing changes, they lead to one state.
    #[test]
    fn the_order_of_statements_makes_no_difference(
        edges in proptest::collection::btree_set((1_u8..6, proptest::option::of(1_u8..6)), 0..7),
        order in any::<prop::sample::Index>(), pinned in 1_u8..4,
    ) {
        let statements: Vec<_> = edges
            .into_iter()
            .filter(|(old, new)| Some(*old) != *new)
            .map(|(old, new)| statement(old, new))
            .collect();
        let run = |statements: &[Succession]| {
            let mut lineage = Lineage::new(alice(), key(pinned));
            for _ in 0..=statements.len() {
                for statement in statements {
                    let before = lineage.state();
                    let step = lineage.observe(statement);
                    match step {
                        Ok(Step::Followed(key)) => assert_eq!(lineage.state(), KeyState::Holds(key)),
                        Ok(Step::Retired) => assert_eq!(lineage.state(), KeyState::Retired),
                        Ok(Step::Conflict) => assert_eq!(lineage.state(), KeyState::Conflict),
                        Ok(Step::Known) | Err(Unrelated) => assert_eq!(lineage.state(), before),
                    }
                    if let KeyState::Holds(key) = lineage.state() {
                        assert!(!lineage.is_replaced(&key));
                    }
                }
            }
            lineage.state()
        };
        let mut other = statements.clone();
        if !other.is_empty() {
            let at = order.index(other.len());
            other.rotate_left(at);
            if at % 2 == 0 {
                other.reverse();
            }
        }
        prop_assert_eq!(run(&statements), run(&other));
    }

    #[test]
    fn statements_round_trip_through_events_and_words(
        seeds: (u8, u8), at in 1_i64..9_000_000_000_000, retires: bool, name in "[a-zé🦝:]{1,20}",
    ) {
        let name: NaraName = name.parse().unwrap();
        let at = UnixMillis::new(at);
        let statement = if retires || seeds.0 == seeds.1 {
            Succession::retire(&name, &keypair(seeds.0), at)
        } else {
            Succession::rotate(&name, &keypair(seeds.0), &keypair(seeds.1), at).unwrap()
        };
        prop_assert_eq!(&Succession::from_event(&statement.to_event()).unwrap(), &statement);
        prop_assert_eq!(&Succession::from_words(&statement.to_words().join(" ")).unwrap(), &statement);
    }

    #[test]
    fn any_words_are_read(text: String, words in proptest::collection::vec(0_usize..4, 0..96)) {
        let _ = Succession::from_words(&text);
        let words: Vec<_> = words.into_iter().map(|word| ["abandon", "zoo", "art", "x"][word]).collect();
        let _ = Succession::from_words(&words.join(" "));
    }
}
