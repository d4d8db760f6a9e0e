//! What others say about the key of this nara: its operator must know when it does not count any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::succession::Succession;

use super::{Peer, PeerEvent, PeerRegistry};
use crate::identity::LocalNara;

/// The most peers whose refusals are remembered. The operator needs one to know.
const MAX_REFUSALS: usize = 64;

/// The most statements about the own key that are remembered: one is news, a second one an alarm.
const MAX_STATEMENTS: usize = 2;

/// What a peer that refuses our key says that it knows instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownKey {
    /// Another key.
    Other(KeyId),
    /// No key: two statements name two successors, or the nara stated that it retires.
    NoneHolds,
}

/// What is known of the key of this nara.
#[derive(Debug, Default)]
pub(super) struct OwnKey {
    own: Option<(NaraName, PublicKey)>,
    refusals: Vec<Refusal>,
    stated: Vec<Succession>,
}

/// A peer that refuses our key, and what was told of it.
#[derive(Debug)]
struct Refusal {
    /// Not by its name, which may become known only later. Gone: nobody knows the peer any more.
    peer: Weak<Peer>,
    told: PeerEvent,
}

impl Refusal {
    fn is_of(&self, peer: &Arc<Peer>) -> bool {
        self.peer.as_ptr() == Arc::as_ptr(peer)
    }

    const fn is_proven(&self) -> bool {
        matches!(self.told, PeerEvent::OwnKeyRefused { proven: true, .. })
    }
}

impl PeerRegistry {
    /// Says whose registry this is, before statements about keys are taken in.
    pub(crate) fn belongs_to(&self, local: &LocalNara) {
        self.own_key().own = Some((local.name().clone(), local.public_key()));
        self.write().looks.add(local.name());
    }

    /// What peers and statements say against the key of this nara since its start: [`PeerEvent::OwnKeyRefused`] of each
    /// peer that refused it last, and [`PeerEvent::OwnKeyReplaced`].
    pub fn against_own_key(&self) -> Vec<PeerEvent> {
        let mut own = self.own_key();
        own.forget_strangers();
        let stated = own.stated.iter().cloned().map(Box::new);
        let stated = stated.map(PeerEvent::OwnKeyReplaced);
        let refusals = own.refusals.iter().map(|refusal| refusal.told.clone());
        stated.chain(refusals).collect()
    }

    /// Notes that a peer refuses what is signed with our key, and tells subscribers if that is news.
    pub(crate) fn own_key_refused(&self, peer: &Arc<Peer>, own: &LocalNara, known: KnownKey, proven: bool) {
        let told = PeerEvent::OwnKeyRefused {
            peer: peer.info(),
            own: (own.name().clone(), own.public_key()),
            known: match known {
                KnownKey::Other(key) => Some(key),
                KnownKey::NoneHolds => None,
            },
            proven,
        };
        let mut own = self.own_key();
        own.forget_strangers();
        let refusals = &mut own.refusals;
        let is_full = refusals.len() >= MAX_REFUSALS;
        match refusals.iter_mut().find(|refusal| refusal.is_of(peer)) {
            Some(before) if says_the_same(&before.told, &told) || (before.is_proven() && !proven) => return,
            Some(before) => before.told = told.clone(),
            None if is_full => return,
            None => refusals.push(Refusal {
                peer: Arc::downgrade(peer),
                told: told.clone(),
            }),
        }
        drop(own);
        self.emit(told);
    }

    /// Notes that a peer accepted what is signed with our key, or that it knows this key, and tells subscribers if it did not
    /// before. What is not proven takes nothing back that was.
    pub(crate) fn own_key_accepted(&self, peer: &Arc<Peer>, proven: bool) {
        let mut own = self.own_key();
        let refusals = &mut own.refusals;
        let refused = refusals.iter().position(|refusal| refusal.is_of(peer));
        if let Some(place) = refused.filter(|place| proven || !refusals[*place].is_proven()) {
            refusals.remove(place);
            drop(own);
            self.emit(PeerEvent::OwnKeyAccepted(peer.info()));
        }
    }

    /// Takes in a statement, if it is about the key of this nara. Returns whether it is.
    pub(super) fn heed_about_us(&self, statement: &Succession) -> bool {
        let mut own = self.own_key();
        let is_ours = own
            .own
            .as_ref()
            .is_some_and(|(name, key)| statement.name() == name && statement.old_key() == key);
        let is_known = |known: &Succession| known.new_key() == statement.new_key();
        if is_ours && own.stated.len() < MAX_STATEMENTS && !own.stated.iter().any(is_known) {
            own.stated.push(statement.clone());
            drop(own);
            self.emit(PeerEvent::OwnKeyReplaced(Box::new(statement.clone())));
        }
        is_ours
    }

    fn own_key(&self) -> MutexGuard<'_, OwnKey> {
        let own: &Mutex<OwnKey> = &self.own_key;
        // Each change of it is one insertion or removal.
        own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnKey {
    /// Forgets what peers said that nobody knows any more.
    fn forget_strangers(&mut self) {
        self.refusals.retain(|refusal| refusal.peer.strong_count() > 0);
    }
}

/// Whether two refusals of one peer differ in nothing that the operator should know.
fn says_the_same(before: &PeerEvent, now: &PeerEvent) -> bool {
    let essence = |event: &PeerEvent| match event {
        PeerEvent::OwnKeyRefused { known, proven, .. } => Some((*known, *proven)),
        _ => None,
    };
    essence(before) == essence(now)
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use super::*;
    use crate::registry::PeerInfo;

    fn keypair(seed: u8) -> KeyPair {
        KeyPair::from_soul(&Soul::bond([seed; 32], "alice"))
    }

    fn alice() -> LocalNara {
        LocalNara::new(&Soul::bond([1; 32], "alice"), "alice".parse().unwrap()).unwrap()
    }

    fn peer(registry: &PeerRegistry, name: &str) -> Arc<Peer> {
        let info = PeerInfo {
            name: Some(name.parse().unwrap()),
            ..PeerInfo::default()
        };
        registry.register(info).unwrap()
    }

    #[test]
    fn a_refusal_is_told_once_and_holds_until_the_peer_accepts_the_key() {
        let registry = PeerRegistry::default();
        let bob = peer(&registry, "bob");
        let mut events = registry.subscribe();
        let other = KnownKey::Other(KeyId::from(&keypair(2).public_key()));
        for _ in 0..3 {
            registry.own_key_refused(&bob, &alice(), other, false);
        }
        assert!(matches!(events.try_recv(), Ok(PeerEvent::OwnKeyRefused { .. })));
        assert!(events.try_recv().is_err(), "told once");
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, false);
        assert!(matches!(
            events.try_recv(),
            Ok(PeerEvent::OwnKeyRefused { known: None, .. })
        ));
        assert_eq!(registry.against_own_key().len(), 1);
        registry.own_key_accepted(&peer(&registry, "carol"), true);
        assert_eq!(registry.against_own_key().len(), 1);
        // Its id becomes known meanwhile.
        let id = alice().id().clone();
        let with_id = PeerInfo {
            id: Some(id),
            ..bob.info()
        };
        registry.register(with_id).unwrap();
        while events.try_recv().is_ok() {}
        registry.own_key_accepted(&bob, true);
        assert!(registry.against_own_key().is_empty());
        assert_eq!(events.try_recv(), Ok(PeerEvent::OwnKeyAccepted(bob.info())));
        registry.own_key_accepted(&bob, true);
        assert!(events.try_recv().is_err(), "told once");
    }

    #[test]
    fn what_is_not_proven_takes_back_only_what_was_not() {
        let registry = PeerRegistry::default();
        let bob = peer(&registry, "bob");
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, true);
        registry.own_key_accepted(&bob, false);
        assert_eq!(registry.against_own_key().len(), 1);
        // Nor does it become less by being said again without proof.
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, false);
        registry.own_key_accepted(&bob, false);
        assert_eq!(registry.against_own_key().len(), 1);
        registry.own_key_accepted(&bob, true);
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, false);
        registry.own_key_accepted(&bob, false);
        assert!(registry.against_own_key().is_empty());
    }

    #[test]
    fn what_a_peer_said_is_forgotten_with_the_peer() {
        let registry = PeerRegistry::default();
        let bob = peer(&registry, "bob");
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, true);
        registry.remove(&bob);
        drop(bob);
        assert!(registry.against_own_key().is_empty());
    }

    #[test]
    fn many_peers_that_refuse_the_key_are_remembered_up_to_a_limit() {
        let registry = PeerRegistry::default();
        for number in 0..2 * MAX_REFUSALS {
            let peer = peer(&registry, &format!("peer-{number}"));
            registry.own_key_refused(&peer, &alice(), KnownKey::NoneHolds, false);
        }
        assert_eq!(registry.against_own_key().len(), MAX_REFUSALS);
    }

    #[test]
    fn a_statement_about_the_own_key_is_told_and_others_are_not() {
        let registry = PeerRegistry::default();
        registry.belongs_to(&alice());
        let mut events = registry.subscribe();
        let at = UnixMillis::new(1_769_100_000_250);
        let name: NaraName = "alice".parse().unwrap();
        let rotation = |old, new| Succession::rotate(&name, &keypair(old), &keypair(new), at).unwrap();
        // How the key became ours.
        assert!(!registry.heed(&rotation(7, 1)));
        assert!(!registry.heed(&rotation(7, 8)));
        assert!(events.try_recv().is_err());
        for _ in 0..2 {
            assert!(registry.heed(&rotation(1, 2)));
        }
        let told = PeerEvent::OwnKeyReplaced(Box::new(rotation(1, 2)));
        assert_eq!(events.try_recv(), Ok(told.clone()));
        assert!(events.try_recv().is_err(), "told once");
        assert_eq!(registry.against_own_key(), [told]);
    }
}
