//! Statements of peers about the key of this nara: the operator must know if it is no longer accepted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::succession::Succession;

use super::{Peer, PeerEvent, PeerRegistry};
use crate::identity::LocalNara;

/// The maximum number of remembered refusals. One is enough for the operator.
const MAX_REFUSALS: usize = 64;

/// The maximum number of remembered statements about our own key: the first is news, a second one an alarm.
const MAX_STATEMENTS: usize = 2;

/// The key that a peer which refuses ours knows instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownKey {
    /// Another key.
    Other(KeyId),
    /// No key: there are two successors, or the nara stated that it retires.
    NoneHolds,
}

/// The known statements about the key of this nara.
#[derive(Debug, Default)]
pub(super) struct OwnKey {
    own: Option<(NaraName, PublicKey)>,
    refusals: Vec<Refusal>,
    stated: Vec<Succession>,
}

/// A peer that refuses our key, and the event that reported it.
#[derive(Debug)]
struct Refusal {
    /// Not by name, which may be learned later. If it is gone, the peer was removed.
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
    /// Sets the owner of this registry, before statements about keys are applied.
    pub(crate) fn belongs_to(&self, local: &LocalNara) {
        self.own_key().own = Some((local.name().clone(), local.public_key()));
        self.write().looks.add(local.name());
    }

    /// Returns the refusals of this nara's key since its start: [`PeerEvent::OwnKeyRefused`] of each peer that still
    /// refuses it, and [`PeerEvent::OwnKeyReplaced`].
    pub fn against_own_key(&self) -> Vec<PeerEvent> {
        let mut own = self.own_key();
        own.forget_strangers();
        let stated = own.stated.iter().cloned().map(Box::new);
        let stated = stated.map(PeerEvent::OwnKeyReplaced);
        let refusals = own.refusals.iter().map(|refusal| refusal.told.clone());
        stated.chain(refusals).collect()
    }

    /// Records that a peer refuses signatures of our key, and notifies subscribers if that is new.
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
            Some(before) if is_same_refusal(&before.told, &told) || (before.is_proven() && !proven) => return,
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

    /// Records that a peer accepted a signature of our key, or that it knows this key, and notifies subscribers if it
    /// refused it before. An unproven acceptance does not revoke a proven refusal.
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

    /// Applies a statement if it is about the key of this nara. Returns whether it is.
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
        // Each change is one insertion or removal.
        own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnKey {
    /// Forgets refusals of peers that were removed.
    fn forget_strangers(&mut self) {
        self.refusals.retain(|refusal| refusal.peer.strong_count() > 0);
    }
}

/// Returns whether two refusals of one peer are equal to the operator.
fn is_same_refusal(before: &PeerEvent, now: &PeerEvent) -> bool {
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
    fn an_unproven_acceptance_revokes_only_an_unproven_refusal() {
        let registry = PeerRegistry::default();
        let bob = peer(&registry, "bob");
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, true);
        registry.own_key_accepted(&bob, false);
        assert_eq!(registry.against_own_key().len(), 1);
        // Repeating it without proof does not weaken it.
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, false);
        registry.own_key_accepted(&bob, false);
        assert_eq!(registry.against_own_key().len(), 1);
        registry.own_key_accepted(&bob, true);
        registry.own_key_refused(&bob, &alice(), KnownKey::NoneHolds, false);
        registry.own_key_accepted(&bob, false);
        assert!(registry.against_own_key().is_empty());
    }

    #[test]
    fn refusals_of_a_peer_are_forgotten_with_the_peer() {
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
        // This statement made our key valid.
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
