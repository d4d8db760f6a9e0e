use std::collections::{BTreeMap, BTreeSet};

use negentropy::{Bound, Id, Item, NegentropyStorageBase as _};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::event::Service;
use crate::time::{UnixNanos, UnixSeconds};

fn id(n: u32) -> ItemId {
    ItemId::of_event(&format!("{n:032x}")).unwrap()
}

/// Returns the event with this number; several of them share a second.
fn event(n: u32) -> (UnixNanos, ItemId, Option<Service>) {
    let ts = UnixNanos::new(i64::from(n / 7) * 1_000_000_000 + i64::from(n % 3));
    (ts, id(n), Some(Service::ALL[n as usize % Service::ALL.len()]))
}

fn set(numbers: impl IntoIterator<Item = u32>) -> ItemSet {
    ItemSet::new(numbers.into_iter().map(event))
}

/// Runs a reconciliation; also returns the bytes sent both ways.
fn reconcile(mine: &ItemSet, theirs: &ItemSet) -> (Reconciler, usize) {
    let (mut reconciler, first) = Reconciler::begin(mine.clone()).unwrap();
    let mut next = Some(first);
    let mut bytes = 0;
    while let Some(frame) = next {
        let answer = respond(theirs.clone(), &frame).unwrap();
        bytes += frame.len() + answer.len();
        next = reconciler.take(&answer).unwrap();
    }
    (reconciler, bytes)
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<ItemId> {
    numbers.into_iter().map(id).collect()
}

proptest! {
    #[test]
    fn the_difference_of_any_two_sets_is_found(
        mine in btree_set(0_u32..2000, 0..400),
        theirs in btree_set(0_u32..2000, 0..400),
    ) {
        let (reconciler, _) = reconcile(&set(mine.iter().copied()), &set(theirs.iter().copied()));
        prop_assert!(reconciler.is_complete());
        prop_assert_eq!(reconciler.missing_here(), &ids(&theirs - &mine));
        prop_assert_eq!(reconciler.missing_there(), &ids(&mine - &theirs));
    }

    #[test]
    fn a_bound_is_found_from_wherever_the_search_begins(
        numbers in btree_set(0_u32..500, 0..200),
        bound in 0_u32..510,
        (first, last) in (0_usize..210, 0_usize..210),
    ) {
        let set = set(numbers);
        let id = Id::from_byte_array(*id(bound).as_bytes());
        let bound = Bound::from_item(&Item::with_timestamp_and_id(u64::from(bound / 7), id));
        let first = first.min(set.len());
        let last = last.clamp(first, set.len());
        let expected = (first..last)
            .find(|index| set.get_item(*index).unwrap().unwrap() >= bound.item)
            .unwrap_or(last);
        prop_assert_eq!(set.find_lower_bound(first, last, &bound), expected);
    }

    #[test]
    fn equal_sets_take_one_round(numbers in btree_set(0_u32..5000, 0..2000)) {
        let numbers = set(numbers);
        let (reconciler, _) = reconcile(&numbers, &numbers);
        prop_assert!(reconciler.is_in_sync());
        prop_assert_eq!(reconciler.rounds(), 1);
    }

    #[test]
    fn changes_give_the_same_set_as_making_it_anew(
        before in btree_set(0_u32..300, 0..200),
        changes in btree_map(0_u32..300, any::<bool>(), 0..200),
    ) {
        let after: BTreeSet<u32> = before
            .iter()
            .copied()
            .filter(|n| changes.get(n) != Some(&false))
            .chain(changes.iter().filter(|(_, added)| **added).map(|(n, _)| *n))
            .collect();
        let changes: BTreeMap<_, _> = changes
            .iter()
            .map(|(&n, &added)| {
                let (ts, id, service) = event(n);
                ((ts, id), if added { Change::Added(service) } else { Change::Removed })
            })
            .collect();
        let changed = set(before).with(&changes);
        prop_assert!(changed.ids().eq(set(after).ids()));
    }

    #[test]
    fn no_bytes_make_either_side_panic(
        numbers in btree_set(0_u32..500, 0..200),
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let mut frame = vec![0x61];
        frame.extend(&bytes);
        for frame in [&frame, &bytes] {
            let _ = respond(set(numbers.iter().copied()), frame);
            let (mut reconciler, _) = Reconciler::begin(set(numbers.iter().copied())).unwrap();
            let _ = reconciler.take(frame);
        }
    }

    #[test]
    fn a_damaged_frame_does_not_make_either_side_panic(
        mine in btree_set(0_u32..500, 0..200),
        theirs in btree_set(0_u32..500, 0..200),
        place: prop::sample::Index,
        byte: u8,
    ) {
        let (mine, theirs) = (set(mine), set(theirs));
        let (mut reconciler, mut frame) = Reconciler::begin(mine).unwrap();
        let mut answer = respond(theirs.clone(), &frame).unwrap();
        let at = place.index(answer.len());
        answer[at] = byte;
        let _ = reconciler.take(&answer);
        let at = place.index(frame.len());
        frame[at] = byte;
        let _ = respond(theirs, &frame);
    }
}

#[test]
fn equal_sets_of_fifty_thousand_cost_less_than_400_bytes() {
    // A week of events.
    let all = ItemSet::new((0..50_000_u32).map(|n| {
        let ts = UnixNanos::new(1_769_100_000_000_000_000 + i64::from(n) * 12_000_000_000);
        (ts, id(n), Some(Service::Seen))
    }));
    let (reconciler, bytes) = reconcile(&all, &all);
    assert!(reconciler.is_in_sync());
    assert!(bytes <= 400, "{bytes} bytes");
}

#[test]
fn a_frame_is_cut_and_the_rest_comes_in_further_rounds() {
    let all = set(0..20_000);
    let (reconciler, _) = reconcile(&ItemSet::default(), &all);
    assert!(reconciler.rounds() > 2, "{} rounds", reconciler.rounds());
    assert!(reconciler.missing_here().iter().copied().collect::<BTreeSet<_>>() == all.ids().collect());
    assert!(reconciler.is_complete());
}

#[test]
fn a_peer_that_never_comes_to_an_end_is_left_after_so_many_rounds() {
    let (mut reconciler, _) = Reconciler::begin(set(0..5000)).unwrap();
    // A fingerprint that never matches, over the whole range.
    let mut endless = vec![0x61, 0, 0, 1];
    endless.extend([7; 16]);
    let mut rounds = 1;
    while reconciler.take(&endless).unwrap().is_some() {
        rounds += 1;
    }
    assert_eq!(rounds, MAX_ROUNDS);
    assert!(!reconciler.is_complete() && !reconciler.is_in_sync());
}

#[test]
fn an_item_that_no_event_can_have_is_refused() {
    let (mut reconciler, _) = Reconciler::begin(ItemSet::default()).unwrap();
    let mut forged = vec![0x61, 0, 0, 2, 1];
    forged.extend([7; 32]);
    assert_eq!(reconciler.take(&forged), Err(ReconcileError::ForgedItem));
}

#[test]
fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
    let large = vec![0x61; MAX_FRAME + 1];
    let error = ReconcileError::TooLarge { got: MAX_FRAME + 1 };
    assert_eq!(respond(ItemSet::default(), &large), Err(error));
    let (mut reconciler, _) = Reconciler::begin(ItemSet::default()).unwrap();
    assert!(reconciler.take(&large).is_err());
}

#[test]
fn an_item_gives_the_id_of_its_event_back() {
    let id = "00112233445566778899aabbccddeeff";
    assert_eq!(ItemId::of_event(id).unwrap().event_id(), id);
    for other in [
        "",
        "00",
        "00112233445566778899AABBCCDDEEFF",
        "zz112233445566778899aabbccddeeff",
    ] {
        assert_eq!(ItemId::of_event(other), None, "{other}");
    }
}

#[test]
fn a_scope_selects_by_service_and_time() {
    let all = set(0..700);
    let seen = all.within(&Scope::all().services([Service::Seen]));
    let of_seen = (0..700).filter(|n| Service::ALL[n % Service::ALL.len()] == Service::Seen);
    assert_eq!(seen.len(), of_seen.count());
    let timed = all.within(&Scope {
        from: Some(UnixSeconds::new(10)),
        to: Some(UnixSeconds::new(20)),
        ..Scope::default()
    });
    assert!(timed.ids().collect::<BTreeSet<_>>() == ids(70..140));
    let backwards = Scope {
        from: Some(UnixSeconds::new(20)),
        to: Some(UnixSeconds::new(10)),
        ..Scope::default()
    };
    assert!(all.within(&backwards).is_empty());
    assert!(!all.within(&Scope::all()).is_empty());
}

#[test]
fn a_scope_survives_its_query() {
    let scope = Scope {
        services: [Service::HeyThere, Service::Checkpoint].into(),
        from: Some(UnixSeconds::new(-5)),
        to: Some(UnixSeconds::new(7)),
    };
    let query = scope.to_query().unwrap();
    assert_eq!(query, "services=checkpoint,hey-there&from=-5&to=7");
    assert_eq!(Scope::from_query(&query), Ok(scope));
    assert_eq!(Scope::all().to_query(), None);
    assert_eq!(Scope::from_query(""), Ok(Scope::all()));
    for wrong in [
        "services=nothing",
        "from=x",
        "until=3",
        "from",
        "services",
        "from=1&from=2",
        "to=1&from=0&to=1",
        "services=ping&services=seen",
    ] {
        assert!(Scope::from_query(wrong).is_err(), "{wrong}");
    }
}
