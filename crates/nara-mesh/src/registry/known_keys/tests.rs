use std::sync::Arc;
use std::time::Duration;

use nara_proto::event::{CheckedEvents, Payload, SocialPayload};
use nara_proto::identity::{KeyPair, NaraName, Soul};
use nara_proto::succession::KeyState;
use nara_proto::time::UnixMillis;
use proptest::prelude::*;

use super::*;
use crate::ledger::{Ledger, MemoryLedger};
use crate::registry::{KeySource, PeerKeeper, PinnedKey};

const AT: UnixMillis = UnixMillis::new(1_769_100_000_250);

fn bob() -> NaraName {
    "bob".parse().unwrap()
}

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "bob"))
}

/// That key `old` is replaced by key `new`, or retires.
fn stated((old, new): (u8, u8)) -> SyncEvent {
    let old = keypair(old);
    let statement = match new {
        0 => Succession::retire(&bob(), &old, AT),
        new => Succession::rotate(&bob(), &old, &keypair(new), AT).unwrap(),
    };
    statement.to_event()
}

fn said_with(seed: u8) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: "bob".to_owned(),
        target: "carol".to_owned(),
        reason: format!("with key {seed}"),
        ..SocialPayload::default()
    };
    SyncEvent::signed(AT.to_nanos(), Payload::Social(payload), "bob", &keypair(seed))
}

/// The keys of a nara that has pinned key 1 of bob.
fn known() -> KnownKeys {
    let registry = PeerRegistry::default();
    let pinned = PinnedKey {
        name: bob(),
        id: None,
        key: keypair(1).public_key(),
        source: KeySource::Ping(([100, 64, 0, 7], 9632).into()),
        learned_at: UnixMillis::new(1),
    };
    registry.pin(pinned).unwrap();
    KnownKeys::new(LocalNara::generate("alice").unwrap(), registry)
}

async fn settled() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn keeper(keys: &KnownKeys, ledger: &Arc<dyn Ledger>) -> PeerKeeper {
    PeerKeeper::start(keys.registry.clone(), ledger.clone())
        .await
        .unwrap()
        .0
}

/// Has a nara take batches in, one after the other. Returns which key of bob holds, before and after a restart.
async fn taken_in(batches: &[Vec<SyncEvent>]) -> [Option<PublicKey>; 2] {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new());
    let mut holds = [None; 2];
    let keys = known();
    let running = keeper(&keys, &ledger).await;
    for batch in batches {
        let mut events = batch.clone();
        let verdicts = keys.judge(&mut events, AT.to_nanos());
        let checked = CheckedEvents::sort(events, verdicts);
        ledger.insert(checked.accepted, None).await.unwrap();
        settled().await;
    }
    holds[0] = keys.key_of_name("bob");
    running.finish().await;
    let restarted = known();
    let running = keeper(&restarted, &ledger).await;
    settled().await;
    holds[1] = restarted.key_of_name("bob");
    running.finish().await;
    holds
}

/// A key, and the one that replaces it; 0: it retires.
type Stated = (u8, u8);

/// Statements about bob, whose key 1 is pinned, and the key that holds then.
const TOLD: [(&[Stated], Option<u8>); 6] = [
    (&[(1, 2), (2, 3), (3, 4), (4, 5)], Some(5)),
    (&[(1, 2), (2, 3), (3, 0)], None),
    (&[(1, 2), (2, 3), (2, 4)], None),
    (&[(1, 2), (2, 3), (3, 1)], None),
    (&[(1, 2), (2, 0), (2, 3)], None),
    // Of keys that are nothing to bob's.
    (&[(1, 2), (7, 8), (8, 9), (7, 9)], Some(2)),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_order_of_statements_and_every_split_leads_to_the_same_key(
        (told, order, splits) in (0..TOLD.len()).prop_flat_map(|told| {
            let order: Vec<_> = (0..TOLD[told].0.len()).collect();
            (Just(told), Just(order).prop_shuffle(), any::<[bool; 4]>())
        })
    ) {
        let (statements, expected) = TOLD[told];
        let mut batches = vec![Vec::new()];
        for (place, index) in order.into_iter().enumerate() {
            if splits[place] {
                batches.push(Vec::new());
            }
            batches.last_mut().unwrap().push(stated(statements[index]));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let expected = expected.map(|seed| keypair(seed).public_key());
        prop_assert_eq!(runtime.block_on(taken_in(&batches)), [expected; 2]);
    }
}

#[test]
fn what_every_key_of_a_batch_signed_is_verified_and_nothing_of_it_later() {
    let keys = known();
    let mut events = [
        said_with(3),
        stated((2, 3)),
        said_with(1),
        said_with(9),
        stated((1, 2)),
        said_with(2),
    ];
    let verified = Ok(EventTrust::Verified);
    let refused = Err(EventProblem::BadSignature);
    let verdicts = keys.judge(&mut events, AT.to_nanos());
    assert_eq!(verdicts[0], verified, "of the key that holds now");
    assert_eq!(verdicts[2], verified, "of the key that held when it came");
    assert_eq!(verdicts[3], refused);
    assert_eq!(verdicts[5], verified, "of a key that held in between");
    assert_eq!([verdicts[1], verdicts[4]], [verified; 2]);
    assert_eq!(keys.key_of_name("bob"), Some(keypair(3).public_key()));
    // Nothing of the old keys any more, also beside statements that are known or that come to nothing.
    let later = [
        said_with(1),
        said_with(2),
        stated((1, 2)),
        stated((2, 3)),
        stated((7, 8)),
    ];
    let verdicts = keys.judge(&mut later.clone(), AT.to_nanos());
    assert_eq!(verdicts[..2], [refused; 2]);
    // Nor beside one that is news.
    let mut later = [
        said_with(1),
        said_with(2),
        said_with(3),
        said_with(4),
        stated((3, 4)),
    ];
    let verdicts = keys.judge(&mut later, AT.to_nanos());
    assert_eq!(verdicts, [refused, refused, verified, verified, verified]);
}

#[test]
fn a_key_that_held_in_between_counts_before_a_retirement_and_not_in_a_conflict() {
    let judged = |events: &mut [SyncEvent]| known().judge(events, AT.to_nanos());
    let verified = Ok(EventTrust::Verified);
    let untrusted = Err(EventProblem::Untrusted);
    let retires = &mut [
        said_with(1),
        said_with(2),
        said_with(3),
        stated((2, 0)),
        stated((1, 2)),
    ];
    assert_eq!(judged(retires)[..3], [verified, verified, untrusted]);
    // Nobody can tell whose key 2 is.
    let forks = &mut [
        said_with(2),
        said_with(3),
        stated((2, 3)),
        stated((2, 4)),
        stated((1, 2)),
    ];
    assert_eq!(judged(forks)[..2], [untrusted; 2]);
}

#[test]
fn a_nara_that_the_operator_does_not_trust_gains_nothing_by_a_key_that_held_in_between() {
    let keys = known();
    let peer = keys.registry.by_name("bob").unwrap();
    let mut banned = keys.registry.record_of(&peer).unwrap();
    banned
        .apply(crate::registry::PeerChange::Untrust { at: AT })
        .unwrap();
    keys.registry.restore(banned).unwrap();
    let mut events = [
        said_with(1),
        said_with(2),
        said_with(3),
        stated((1, 2)),
        stated((2, 3)),
    ];
    let verdicts = keys.judge(&mut events, AT.to_nanos());
    assert_eq!(verdicts, [Err(EventProblem::Untrusted); 5]);
}

#[test]
fn dozens_of_keys_in_between_do_not_multiply_the_work_without_limit() {
    let keys = known();
    let mut events: Vec<_> = (1..=40).map(|old| stated((old, old + 1))).collect();
    events.extend((0..200).map(|_| said_with(99)));
    events.push(said_with(40));
    events.push(said_with(2));
    let verdicts = keys.judge(&mut events, AT.to_nanos());
    assert_eq!(verdicts[240], Ok(EventTrust::Verified), "the newest key first");
    assert_eq!(verdicts[241], Err(EventProblem::BadSignature));
}

#[test]
fn one_rotation_more_than_is_followed_leaves_no_key() {
    let keys = known();
    let most = u8::try_from(nara_proto::succession::Lineage::MAX_STEPS).unwrap();
    let mut events: Vec<_> = (1..=most).map(|old| stated((old, old + 1))).collect();
    keys.judge(&mut events, AT.to_nanos());
    assert_eq!(keys.key_of_name("bob"), Some(keypair(most + 1).public_key()));
    let mut told = keys.registry.subscribe();
    keys.judge(&mut [stated((most + 1, most + 2))], AT.to_nanos());
    assert_eq!(keys.registry.key_state("bob"), Some(KeyState::Conflict));
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let is_conflict = |event: &crate::registry::PeerEvent| {
        let conflict = crate::registry::SuccessionEffect::Conflict;
        matches!(event, crate::registry::PeerEvent::Succession { effect, .. } if *effect == conflict)
    };
    assert!(told.iter().any(is_conflict), "{told:?}");
}
