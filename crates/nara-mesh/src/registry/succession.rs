//! Keys that change hands: what statements of succession change (docs/protocol/succession.md).
//!
//! What is stored of a nara is the key that was pinned, and beside it, as events, the statements. Which key holds
//! follows from both, at each start anew, so the order in which statements came makes no difference.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::succession::{KeyState, Lineage, Step, Succession};

use super::{KeySource, Peer, PeerEvent, PeerRecord, PeerRegistry, PinnedKey, SuccessionEffect, Verdict};

/// The keys of naras about which there are statements.
#[derive(Debug, Default)]
pub(super) struct Successions(HashMap<NaraName, Line>);

/// The keys of one nara.
#[derive(Clone, Debug)]
struct Line {
    /// The key that was pinned, before what is stated about it.
    pinned: PinnedKey,
    lineage: Lineage,
    /// What the operator was asked about.
    asked: Option<Succession>,
}

impl Line {
    fn new(pinned: PinnedKey) -> Self {
        Self {
            lineage: Lineage::new(pinned.name.clone(), pinned.key),
            pinned,
            asked: None,
        }
    }

    /// Takes in two statements of which the operator was asked to follow one: with the other it is a conflict.
    fn contradicts_what_was_asked(&mut self, statement: &Succession) -> bool {
        let Some(asked) = self.asked.take() else {
            return false;
        };
        let contradicts = asked.old_key() == statement.old_key() && asked.new_key() != statement.new_key();
        if contradicts {
            let _ = self.lineage.observe(&asked);
            let _ = self.lineage.observe(statement);
        } else {
            self.asked = Some(asked);
        }
        contradicts
    }
}

impl PeerRegistry {
    /// Takes in statements about keys of peers, in any order. Returns whether any of them is about a key of a known peer,
    /// or ours.
    pub(crate) fn heed_all(&self, mut statements: Vec<Succession>) -> bool {
        let all = statements.len();
        // One may be of use only behind another.
        loop {
            let before = statements.len();
            statements.retain(|statement| !self.heed(statement));
            if statements.is_empty() || statements.len() == before {
                return statements.len() < all;
            }
        }
    }

    /// Takes in a statement about the key of a peer: the new key is pinned and the old one refused, or the operator is
    /// asked. Returns whether it is about a key of a known peer, or ours.
    pub(crate) fn heed(&self, statement: &Succession) -> bool {
        // One after the other, with what each changes: two that follow each other must not pin their keys in the wrong order.
        let _turn = self.heeding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.heed_about_us(statement) {
            return true;
        }
        let Some(peer) = self.by_name(statement.name().as_str()) else {
            return false;
        };
        let info = peer.info();
        let Some(pinned) = info.key else { return false };
        let mut lines = self.successions();
        let known = lines.0.get(statement.name());
        let mut line = known.cloned().unwrap_or_else(|| Line::new(pinned));
        let before = line.clone();
        let Ok(step) = line.lineage.observe(statement) else {
            return false;
        };
        // What the operator decided later counts more.
        let decided = info
            .decision
            .is_some_and(|decision| decision.verdict == Verdict::Trusted && statement.at() <= decision.at);
        let asks = decided || !self.trust().follows_succession();
        let effect = match step {
            Step::Known => {
                lines.0.insert(statement.name().clone(), line);
                return true;
            }
            Step::Conflict if before.lineage.state() == KeyState::Conflict => return true,
            Step::Conflict if decided => return true,
            Step::Conflict => SuccessionEffect::Conflict,
            Step::Followed(_) | Step::Retired if decided || (asks && step != Step::Retired) => {
                line = before;
                if line.asked.as_ref() == Some(statement) {
                    return true;
                }
                if line.contradicts_what_was_asked(statement) && !decided {
                    SuccessionEffect::Conflict
                } else {
                    line.asked = Some(statement.clone());
                    SuccessionEffect::Asked
                }
            }
            Step::Followed(_) => SuccessionEffect::Followed,
            Step::Retired => SuccessionEffect::Retired,
        };
        lines.0.insert(statement.name().clone(), line);
        drop(lines);
        self.apply(&peer, statement, effect);
        true
    }

    fn apply(&self, peer: &Arc<Peer>, statement: &Succession, effect: SuccessionEffect) {
        let old = peer.key();
        match (effect, statement.new_key()) {
            (SuccessionEffect::Followed, Some(new)) => {
                let key = PinnedKey {
                    name: statement.name().clone(),
                    id: None,
                    key: *new,
                    source: KeySource::Succession,
                    learned_at: statement.at(),
                };
                let replaced = peer.with_info(|info| info.key.as_ref().map(|pinned| pinned.key));
                peer.former_keys().extend(replaced);
                self.relink(peer, |info| {
                    // Another soul has another id. Whoever has succeeded another speaks v2, as that one did.
                    info.id = None;
                    info.key = Some(key.clone());
                });
                self.emit(PeerEvent::KeyPinned(key));
            }
            (SuccessionEffect::Conflict | SuccessionEffect::Retired, _) => peer.set_keyless(true),
            _ => {}
        }
        self.key_changed(peer, old);
        self.emit(PeerEvent::Succession {
            statement: Box::new(statement.clone()),
            effect,
        });
    }

    /// Why no key holds for a name, or which one does; `None`: nothing is stated about it.
    pub fn key_state(&self, name: &str) -> Option<KeyState> {
        Some(self.successions().0.get(name)?.lineage.state())
    }

    /// Whether a key is or was one of a name about which there are statements, by those that were followed.
    pub(super) fn is_in_lineage(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines.0.get(name).is_some_and(|line| line.lineage.has(key))
    }

    /// Whether this key was the one of the name and is not any more.
    pub(crate) fn is_replaced(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines
            .0
            .get(name)
            .is_some_and(|line| line.lineage.is_replaced(key))
    }

    /// Whether this is the key from which what is stated about a name leads to the one that holds.
    pub(super) fn is_origin(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines.0.get(name).is_some_and(|line| line.pinned.key == *key)
    }

    /// The record of a peer as it is stored: with the key that was pinned.
    pub(super) fn record_of(&self, peer: &Peer) -> Option<PeerRecord> {
        let mut record = peer.info().into_record()?;
        if let Some(line) = self.successions().0.get(&record.name) {
            if record
                .key
                .as_ref()
                .is_some_and(|key| key.source == KeySource::Succession)
            {
                record.id.clone_from(&line.pinned.id);
            }
            record.key = Some(line.pinned.clone());
        }
        Some(record)
    }

    /// Lets a decision of the operator count, whatever is stated about the keys.
    pub(super) fn settle_succession(&self, peer: &Peer, pinned: Option<&PinnedKey>) {
        let Some(name) = peer.info().name else { return };
        let mut lines = self.successions();
        match pinned {
            Some(pinned) => {
                if let Some(line) = lines.0.get_mut(&name) {
                    line.lineage.decide(pinned.key);
                    line.pinned = pinned.clone();
                    line.asked = None;
                }
            }
            None => {
                lines.0.remove(&name);
                peer.former_keys().clear();
            }
        }
        peer.set_keyless(false);
    }

    pub(super) fn forget_succession(&self, peer: &Peer) {
        if let Some(name) = peer.info().name {
            self.successions().0.remove(&name);
        }
    }

    fn successions(&self) -> MutexGuard<'_, Successions> {
        // Each change of it is one insertion.
        self.successions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
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
        let configured =
            |seed| move |registry: &PeerRegistry| drop(registry.reconfigure(info(seed)).unwrap());
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
        let configure =
            |registry: &PeerRegistry| drop(registry.pin(pinned(1, KeySource::Configured)).unwrap());
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
}
