use std::sync::Arc;

use nara_proto::event::KeyLookup as _;
use nara_proto::identity::{KeyPair, Soul};
use nara_proto::time::UnixMillis;

use super::*;
use crate::ledger::{Ledger, MemoryLedger, SqliteLedger};
use crate::registry::{PeerChange, PeerInfo, PeerKeeper, TrustPolicy};

const AT: UnixMillis = UnixMillis::new(1_769_100_000_250);

fn bob() -> NaraName {
    "bob".parse().unwrap()
}

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "bob"))
}

fn key(seed: u8) -> PublicKey {
    keypair(seed).public_key()
}

fn rotation(old: u8, new: u8) -> Succession {
    Succession::rotate(&bob(), &keypair(old), &keypair(new), AT).unwrap()
}

fn retirement(old: u8) -> Succession {
    Succession::retire(&bob(), &keypair(old), AT)
}

fn pinned(seed: u8, source: KeySource) -> PinnedKey {
    PinnedKey {
        name: bob(),
        id: None,
        key: key(seed),
        source,
        learned_at: UnixMillis::new(1),
    }
}

fn met() -> PinnedKey {
    pinned(1, KeySource::Ping(([100, 64, 0, 7], 9632).into()))
}

fn holds(registry: &PeerRegistry) -> Option<PublicKey> {
    registry.key_of_name("bob")
}

fn ledgers() -> [Arc<dyn Ledger>; 2] {
    [
        Arc::new(MemoryLedger::new()),
        Arc::new(SqliteLedger::open_in_memory().unwrap()),
    ]
}

/// A run of a nara that begins with what `configure` registers, takes in statements, and ends. Returns the key that
/// holds at its end.
async fn run(
    ledger: &Arc<dyn Ledger>,
    registry: PeerRegistry,
    configure: impl FnOnce(&PeerRegistry),
    statements: &[Succession],
) -> Option<PublicKey> {
    configure(&registry);
    let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
    let events = statements.iter().map(Succession::to_event).collect();
    ledger.insert_verified(events).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    keeper.finish().await;
    holds(&registry)
}

fn first_use() -> PeerRegistry {
    PeerRegistry::default()
}

fn strict() -> PeerRegistry {
    PeerRegistry::default().with_trust(TrustPolicy::Pinned)
}

fn pin(registry: &PeerRegistry) {
    registry.pin(met()).unwrap();
}

fn nothing(_: &PeerRegistry) {}

#[tokio::test]
async fn a_successor_is_followed_once_and_after_a_restart_too() {
    for ledger in ledgers() {
        let registry = first_use();
        pin(&registry);
        let mut lease = registry.lease(&bob(), &key(1));
        let mut events = registry.subscribe();
        assert!(registry.heed(&rotation(1, 2)));
        assert_eq!(holds(&registry), Some(key(2)));
        assert!(!lease.is_valid());
        lease.ended().await;
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let changed = PeerEvent::KeyChanged {
            name: bob(),
            old: key(1),
            new: Some(key(2)),
        };
        assert!(told.contains(&changed), "{told:?}");
        // A replay changes nothing, and neither key is news.
        assert!(registry.heed(&rotation(1, 2)));
        assert!(registry.pin(met()).is_err());
        assert!(events.try_recv().is_err());

        assert_eq!(
            run(&ledger, first_use(), pin, &[rotation(1, 2)]).await,
            Some(key(2))
        );
        assert_eq!(run(&ledger, first_use(), nothing, &[]).await, Some(key(2)));
        // What is stored is the key that was pinned: what holds follows from the statements.
        let records = ledger.peers().await.unwrap();
        assert_eq!(records[0].key.as_ref().map(|key| key.key), Some(key(1)));
        // The order in which they come makes no difference.
        assert_eq!(
            run(&ledger, first_use(), nothing, &[rotation(3, 4), rotation(2, 3)]).await,
            Some(key(4))
        );
        assert_eq!(run(&ledger, first_use(), nothing, &[]).await, Some(key(4)));
    }
}

#[tokio::test]
async fn of_two_successors_none_is_followed_until_the_operator_decides() {
    for (first, second) in [(2, 3), (3, 2)] {
        for ledger in ledgers() {
            assert_eq!(
                run(&ledger, first_use(), pin, &[rotation(1, first)]).await,
                Some(key(first))
            );
            assert_eq!(
                run(&ledger, first_use(), nothing, &[rotation(1, second)]).await,
                None
            );
            // A restart does not forget the conflict, and nobody gets in by being the first.
            let registry = first_use();
            assert_eq!(run(&ledger, registry.clone(), nothing, &[]).await, None);
            assert!(
                registry
                    .pin(pinned(9, KeySource::HeyThere { told_by: None }))
                    .is_err()
            );
            let change = PeerChange::Trust {
                key: Some(key(3)),
                replace: true,
                at: UnixMillis::new(AT.get() + 1),
            };
            ledger.change_peer(bob(), change).await.unwrap().unwrap();
            assert_eq!(run(&ledger, registry, nothing, &[]).await, Some(key(3)));
            assert_eq!(run(&ledger, first_use(), nothing, &[]).await, Some(key(3)));
        }
    }
}

#[tokio::test]
async fn the_operator_can_take_back_what_was_followed() {
    for ledger in ledgers() {
        assert_eq!(
            run(&ledger, first_use(), pin, &[rotation(1, 2)]).await,
            Some(key(2))
        );
        let change = PeerChange::Trust {
            key: Some(key(1)),
            replace: true,
            at: UnixMillis::new(AT.get() + 1),
        };
        ledger.change_peer(bob(), change).await.unwrap().unwrap();
        for _ in 0..2 {
            assert_eq!(
                run(&ledger, first_use(), nothing, &[rotation(1, 2)]).await,
                Some(key(1))
            );
        }
        // A later statement of that key counts again.
        let later = Succession::rotate(&bob(), &keypair(1), &keypair(4), UnixMillis::new(AT.get() + 2));
        let holds = run(&ledger, first_use(), nothing, &[later.unwrap()]).await;
        assert_ne!(holds, Some(key(2)));
    }
}

#[tokio::test]
async fn a_reset_has_the_configured_key_hold_again_and_heeds_what_is_stated_about_it() {
    for ledger in ledgers() {
        let registry = first_use();
        let peer = registry.pin(pinned(1, KeySource::Configured)).unwrap();
        let reset = |registry: &PeerRegistry| {
            let mut record = registry.record_of(&peer).unwrap();
            record.apply(PeerChange::Forget { at: AT }).unwrap();
            assert_eq!(registry.restore(record), Ok(true));
        };
        registry.heed(&rotation(1, 2));
        assert_eq!(holds(&registry), Some(key(2)));
        reset(&registry);
        assert_eq!(holds(&registry), Some(key(1)));

        let registry = first_use();
        let configure = |registry: &PeerRegistry| {
            registry.pin(pinned(1, KeySource::Configured)).unwrap();
        };
        assert_eq!(
            run(&ledger, registry.clone(), configure, &[rotation(1, 2)]).await,
            Some(key(2))
        );
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        reset(&registry);
        keeper.finish().await;
        assert_eq!(holds(&registry), Some(key(2)), "as after a restart");
    }
}

#[test]
fn statements_from_before_a_decision_contradict_neither_it_nor_what_is_stated_later() {
    let decided_at = UnixMillis::new(AT.get() + 1);
    let later = |new: Option<u8>| {
        let at = UnixMillis::new(AT.get() + 2);
        match new {
            Some(new) => Succession::rotate(&bob(), &keypair(1), &keypair(new), at).unwrap(),
            None => Succession::retire(&bob(), &keypair(1), at),
        }
    };
    let closed = || first_use().with_trust(TrustPolicy::Closed);
    for (start, statement, expected) in [
        (first_use as fn() -> PeerRegistry, later(Some(9)), Some(key(9))),
        (first_use, later(None), None),
        (closed, later(Some(9)), Some(key(1))),
        (closed, later(None), None),
    ] {
        let registry = start();
        let peer = registry.pin(pinned(1, KeySource::Configured)).unwrap();
        let mut decided = registry.record_of(&peer).unwrap();
        let trust = PeerChange::Trust {
            key: Some(key(1)),
            replace: true,
            at: decided_at,
        };
        decided.apply(trust).unwrap();
        assert_eq!(registry.restore(decided), Ok(true));
        let mut events = registry.subscribe();
        // Whoever has the key can date statements back.
        for new in 2..7 {
            assert!(registry.heed(&rotation(1, new)));
            assert_eq!(holds(&registry), Some(key(1)));
            assert_ne!(registry.key_state("bob"), Some(KeyState::Conflict));
        }
        let asked = std::iter::from_fn(|| events.try_recv().ok());
        assert_eq!(asked.count(), 1, "the operator is asked once");
        assert!(registry.heed(&statement));
        assert_eq!(holds(&registry), expected);
        // And they stay without effect.
        registry.heed(&rotation(1, 8));
        assert_eq!(holds(&registry), expected);
    }
}

#[test]
fn a_chain_that_comes_in_reverse_is_followed_beside_any_number_of_others() {
    let registry = first_use();
    pin(&registry);
    let chain = (1..=64).rev().map(|seed| rotation(seed, seed + 1));
    let unrelated = (100..200).map(|seed| rotation(seed, seed + 1));
    let mut statements: Vec<_> = chain.chain(unrelated).collect();
    assert!(registry.heed_all(statements.clone()));
    assert_eq!(holds(&registry), Some(key(65)));
    // Nor is anything else than before of use the second time.
    let unrelated = statements.split_off(64);
    assert!(!registry.heed_all(unrelated));
    assert!(registry.heed_all(statements));
    assert_eq!(registry.followed("bob").len(), 64);
}

#[test]
fn only_keys_that_were_replaced_without_contradiction_held_in_between() {
    let registry = first_use();
    pin(&registry);
    for seed in 1..5 {
        assert!(registry.heed(&rotation(seed, seed + 1)));
    }
    let between = |from: u8| registry.keys_between("bob", &key(from));
    assert_eq!(between(1), [key(4), key(3), key(2)]);
    assert_eq!(between(3), [key(4)]);
    for from in [4, 5, 9] {
        assert_eq!(between(from), []);
    }
    assert_eq!(registry.keys_between("alice", &key(1)), []);
    assert!(registry.heed(&retirement(5)));
    assert_eq!(between(4), [key(5)]);
    assert!(registry.heed(&rotation(2, 9)));
    assert_eq!(between(1), []);
}

#[test]
fn a_successor_is_known_as_well_as_the_nara_that_it_succeeds_and_no_better() {
    use crate::ledger::Standing;
    let teller: NaraName = "mallory".parse().unwrap();
    let introduced = KeySource::HeyThere {
        told_by: Some(teller),
    };
    let ping = KeySource::Ping(([100, 64, 0, 7], 9632).into());
    for (source, standing) in [
        (introduced, Standing::Introduced),
        (ping, Standing::Met),
        (KeySource::Configured, Standing::Configured),
    ] {
        let registry = first_use();
        registry.pin(pinned(1, source)).unwrap();
        for seed in 1..3 {
            assert!(registry.heed(&rotation(seed, seed + 1)));
        }
        let names = registry.known_names("alice".parse().unwrap());
        assert_eq!(names.standing("bob"), standing);
        let ghosts = usize::from(standing == Standing::Introduced);
        assert_eq!(registry.prune().len(), ghosts, "{standing:?}");
    }
}

#[tokio::test]
async fn who_retired_is_refused_whoever_introduces_it() {
    for ledger in ledgers() {
        let registry = first_use();
        assert_eq!(run(&ledger, registry.clone(), pin, &[retirement(1)]).await, None);
        assert!(
            registry
                .pin(pinned(2, KeySource::HeyThere { told_by: None }))
                .is_err()
        );
        assert_eq!(registry.key_state("bob"), Some(KeyState::Retired));
        let standing = registry.standing_of_name("bob");
        assert_eq!(standing, nara_proto::event::KeyStanding::Untrusted);
        assert_eq!(run(&ledger, first_use(), nothing, &[]).await, None);
        assert_eq!(run(&ledger, strict(), nothing, &[]).await, None);
    }
}

#[tokio::test]
async fn a_configured_key_is_followed_from_and_the_old_stanza_brings_nothing_back() {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new());
    let info = |seed| PeerInfo {
        name: Some(bob()),
        key: Some(pinned(seed, KeySource::Configured)),
        ..PeerInfo::default()
    };
    let configured = |seed| move |registry: &PeerRegistry| drop(registry.reconfigure(info(seed)).unwrap());
    let registry = strict();
    assert_eq!(
        run(&ledger, registry.clone(), configured(1), &[rotation(1, 2)]).await,
        Some(key(2))
    );
    registry.reconfigure(info(1)).unwrap();
    assert_eq!(holds(&registry), Some(key(2)));
    assert_eq!(run(&ledger, strict(), configured(1), &[]).await, Some(key(2)));
    // The new stanza, and one with another key, which the operator wrote.
    registry.reconfigure(info(2)).unwrap();
    assert_eq!(holds(&registry), Some(key(2)));
    assert_eq!(run(&ledger, strict(), configured(2), &[]).await, Some(key(2)));
    registry.reconfigure(info(7)).unwrap();
    assert_eq!(holds(&registry), Some(key(7)));
}

#[tokio::test]
async fn a_closed_registry_asks_and_follows_nobody() {
    let closed = || PeerRegistry::default().with_trust(TrustPolicy::Closed);
    let configure = |registry: &PeerRegistry| drop(registry.pin(pinned(1, KeySource::Configured)).unwrap());
    let registry = closed();
    configure(&registry);
    let mut events = registry.subscribe();
    for _ in 0..2 {
        assert!(registry.heed(&rotation(1, 2)));
    }
    assert_eq!(holds(&registry), Some(key(1)));
    let asked = PeerEvent::Succession {
        statement: Box::new(rotation(1, 2)),
        effect: SuccessionEffect::Asked,
    };
    assert_eq!(events.try_recv().unwrap(), asked);
    assert!(events.try_recv().is_err(), "asked once");
    // A second successor is an alarm here, too, and a retirement needs no trust.
    assert!(registry.heed(&rotation(1, 3)));
    assert_eq!(holds(&registry), None);
    let registry = closed();
    configure(&registry);
    assert!(registry.heed(&retirement(1)));
    assert_eq!(holds(&registry), None);
}

#[test]
fn statements_of_others_and_about_nobody_change_nothing() {
    let registry = first_use();
    assert!(!registry.heed(&rotation(1, 2)));
    pin(&registry);
    assert!(!registry.heed(&rotation(5, 6)));
    let mallory = Succession::rotate(&"mallory".parse().unwrap(), &keypair(1), &keypair(2), AT);
    assert!(!registry.heed(&mallory.unwrap()));
    assert_eq!(holds(&registry), Some(key(1)));
    assert!(registry.key_state("bob").is_none());
    // Forgotten, with all that was stated.
    assert!(registry.heed(&rotation(1, 2)));
    registry.remove(&registry.by_name("bob").unwrap());
    assert!(registry.key_state("bob").is_none());
}

/// Whether nobody can be introduced with these keys, under any name.
fn are_banned(registry: &PeerRegistry, seeds: [u8; 2]) -> bool {
    seeds.into_iter().all(|seed| {
        let alias = PinnedKey {
            name: "alias".parse().unwrap(),
            ..pinned(seed, KeySource::HeyThere { told_by: None })
        };
        registry.pin(alias).is_err()
    })
}

#[test]
fn who_is_not_trusted_is_not_under_a_key_from_before_its_succession_either() {
    let registry = first_use();
    let peer = registry.pin(met()).unwrap();
    registry.heed(&rotation(1, 2));
    let mut banned = registry.record_of(&peer).unwrap();
    banned.apply(PeerChange::Untrust { at: AT }).unwrap();
    assert_eq!(registry.restore(banned.clone()), Ok(true));
    assert!(are_banned(&registry, [1, 2]));
    // After a restart, what is stated is heeded behind the decision.
    let restarted = first_use();
    assert_eq!(restarted.restore(banned.clone()), Ok(true));
    restarted.heed(&rotation(1, 2));
    assert!(are_banned(&restarted, [1, 2]));
    banned
        .apply(PeerChange::Forget {
            at: UnixMillis::new(AT.get() + 5),
        })
        .unwrap();
    assert_eq!(registry.restore(banned), Ok(true));
    assert!(!are_banned(&registry, [1, 2]));
}
