use std::sync::Arc;

use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;

use super::table::Table;
use super::{
    KeyOffer, KeyRefused, KeySource, OperatorDecision, Peer, PeerEvent, PeerInfo, PeerProtocol, PeerRecord,
    PeerRegistry, PinnedKey, RegisterError, Verdict,
};

impl PeerRegistry {
    /// Takes over what was remembered of a nara, or what the operator decided meanwhile. Configured keys stay. Returns
    /// whether a decision of the operator was carried out that the registry did not know yet.
    ///
    /// # Errors
    /// [`RegisterError`] if the record is not used: [`RegisterError::KeyConflict`] with a configured key, which counts
    /// more, or any other reason.
    pub fn restore(&self, record: PeerRecord) -> Result<bool, RegisterError> {
        let known = self.by_name(record.name.as_str());
        let before = known.as_ref().map(|peer| peer.info()).unwrap_or_default();
        let news = record.decision.filter(|news| news.is_newer_than(before.decision));
        let configured = before
            .key
            .as_ref()
            .filter(|key| key.source == KeySource::Configured);
        if let (Some(configured), Some(key)) = (configured, &record.key)
            && configured.key != key.key
        {
            let conflict = super::KeyConflict {
                name: record.name.clone(),
                pinned: Box::new(configured.clone()),
                offered: key.key,
                offered_by: key.source.clone(),
            };
            // To trust another key contradicts the configuration; the other decisions do not.
            if let Some(news) = news.filter(|news| news.verdict != Verdict::Trusted)
                && let Err(error) = self.decide(&record, news)
            {
                return Err(error);
            }
            return Err(conflict.into());
        }
        let Some(news) = news else {
            return self.recall(record).map(|()| false);
        };
        let outcome = self.decide(&record, news);
        match outcome.and_then(|()| self.recall(record)) {
            // To refuse a nara needs no key of it.
            Err(error) if news.verdict == Verdict::Trusted => Err(error),
            _ => Ok(true),
        }
    }

    /// As [`PeerRegistry::register`], but a configured key takes the place of any other: what the operator wrote
    /// counts, also if it was changed since. What was proven with the old key is void.
    ///
    /// # Errors
    /// As [`PeerRegistry::register`], for every other contradiction.
    pub fn reconfigure(&self, info: PeerInfo) -> Result<Arc<Peer>, RegisterError> {
        let configured = info
            .key
            .as_ref()
            .filter(|key| key.source == KeySource::Configured);
        let known = info.name.as_ref().and_then(|name| self.by_name(name.as_str()));
        if let (Some(configured), Some(known)) = (configured, known) {
            let pinned = known.info().key;
            let name = configured.name.as_str();
            let is_other = pinned.is_some_and(|pinned| pinned.key != configured.key);
            if is_other && (self.is_origin(name, &configured.key) || self.is_replaced(name, &configured.key))
            {
                tracing::warn!(
                    peer = name,
                    "the configured key of {name} was replaced by its holder, and the new one counts: configure it, and \
                     remove the id, which belongs to the old key"
                );
                return self.register(PeerInfo {
                    key: None,
                    id: None,
                    ..info
                });
            }
            if is_other {
                let old = known.key();
                self.relink(&known, |known| {
                    known.id = None;
                    known.key = Some(configured.clone());
                    known.protocol = PeerProtocol::default();
                    known.seen = false;
                });
                self.settle_succession(&known, Some(configured));
                self.emit(PeerEvent::KeyPinned(configured.clone()));
                self.key_changed(&known, old);
            }
        }
        self.register(info)
    }

    /// Carries out a decision that is new.
    fn decide(&self, record: &PeerRecord, news: OperatorDecision) -> Result<(), RegisterError> {
        if news.verdict == Verdict::Forgotten && self.by_name(record.name.as_str()).is_none() {
            return Ok(());
        }
        let peer = self.register(PeerInfo {
            name: Some(record.name.clone()),
            ..PeerInfo::default()
        })?;
        let old = peer.key();
        let configured = self.configured_origin(record.name.as_str());
        self.relink(&peer, |info| {
            match news.verdict {
                Verdict::Trusted => {
                    let same = info.key.as_ref().map(|key| key.key) == record.key.as_ref().map(|key| key.key);
                    if !same {
                        info.id = None;
                        info.seen = record.seen;
                    }
                    info.protocol = if same {
                        info.protocol.within(record.protocol)
                    } else {
                        record.protocol
                    };
                    let configured = |key: &&PinnedKey| key.source == KeySource::Configured;
                    if info.key.as_ref().filter(configured).is_none() {
                        info.key.clone_from(&record.key);
                    }
                }
                Verdict::Forgotten => forget(info, news, configured.clone()),
                // The key is distrusted with the name.
                Verdict::Untrusted if info.key.is_none() => info.key.clone_from(&record.key),
                _ => {}
            }
            info.decision = Some(news);
        });
        match (news.verdict, peer.info().key) {
            (Verdict::Trusted, Some(key)) => self.settle_succession(&peer, Some(&key)),
            (Verdict::Forgotten, pinned) => {
                self.settle_succession(&peer, None);
                // What is stated about it is heeded again, as after a restart.
                if let (Some(_), Some(pinned)) = (configured, pinned) {
                    self.emit(PeerEvent::KeyPinned(pinned));
                }
            }
            _ => {}
        }
        self.decided(&peer);
        self.key_changed(&peer, old);
        // Calls may have failed because of what was decided now.
        self.give_a_chance(&peer);
        Ok(())
    }

    /// Takes over a key of an earlier run, and what was proven with it.
    fn recall(&self, record: PeerRecord) -> Result<(), RegisterError> {
        let Some(mut key) = record.key else { return Ok(()) };
        if let Some(peer) = self.by_name(record.name.as_str())
            && self.is_origin(record.name.as_str(), &key.key)
        {
            // What is stated about it was heeded already.
            self.learn_protocol(&peer, record.protocol);
            return Ok(());
        }
        let before = self.by_name(record.name.as_str()).map(|peer| peer.info());
        let is_first = before.as_ref().is_none_or(|info| info.key.is_none());
        if is_first {
            let offer = KeyOffer {
                name: &record.name,
                id: record.id.as_ref(),
                key: &key.key,
                source: &key.source,
                known: before.as_ref(),
                stored: true,
            };
            if key.source != KeySource::Operator
                && let Err(reason) = self.trust().decide(&offer)
            {
                // No news: it is so at each start.
                return Err(RegisterError::KeyRefused(KeyRefused {
                    name: record.name,
                    offered: key.key,
                    offered_by: key.source,
                    reason,
                }));
            }
        }
        key.id.clone_from(&record.id);
        let peer = self.insert(PeerInfo {
            id: record.id,
            name: Some(record.name),
            key: Some(key),
            seen: record.seen,
            ..PeerInfo::default()
        })?;
        if is_first && record.seen {
            peer.note_recalled();
        }
        self.learn_protocol(&peer, record.protocol);
        Ok(())
    }

    /// Tells of a key that is not the one of a peer any more.
    pub(super) fn key_changed(&self, peer: &Peer, old: Option<PublicKey>) {
        let (new, name) = (peer.key(), peer.info().name);
        if let (Some(old), Some(name)) = (old.filter(|old| Some(*old) != new), name) {
            self.changed();
            self.emit(PeerEvent::KeyChanged { name, old, new });
        }
    }

    /// Changes what is known about a peer, under whatever id it is known then.
    pub(super) fn relink(&self, peer: &Arc<Peer>, change: impl FnOnce(&mut PeerInfo)) {
        let mut table = self.write();
        let was_there = table.unlink(peer);
        peer.update(change);
        if was_there {
            Table::link(&mut table, peer);
        }
    }
}

/// Voids what was learned of a peer until then: its configured key holds again, `configured` if it was replaced.
fn forget(info: &mut PeerInfo, decision: OperatorDecision, configured: Option<PinnedKey>) {
    if let Some(configured) = configured
        && info.key.as_ref().map(|key| key.key) != Some(configured.key)
    {
        info.id.clone_from(&configured.id);
        info.key = Some(configured);
        info.seen = false;
    }
    let Some(key) = info.key.as_mut().filter(|key| key.learned_at <= decision.at) else {
        return;
    };
    info.protocol = PeerProtocol::default();
    if key.source == KeySource::Configured {
        // What is learned of it from now on is not of before.
        key.learned_at = UnixMillis::new(decision.at.get().saturating_add(1));
    } else {
        info.key = None;
        info.id = None;
        info.seen = false;
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::*;
    use crate::registry::{PeerChange, TrustPolicy};

    const V2: PeerProtocol = PeerProtocol {
        v2: true,
        tls: false,
        raw_public_key: false,
    };

    fn key(seed: u8, source: KeySource) -> PinnedKey {
        PinnedKey {
            name: "bob".parse().unwrap(),
            id: None,
            key: KeyPair::from_soul(&Soul::bond([seed; 32], "bob")).public_key(),
            source,
            learned_at: UnixMillis::new(1),
        }
    }

    fn hearsay(seed: u8) -> PinnedKey {
        key(seed, KeySource::HeyThere { told_by: None })
    }

    /// A registry that met bob, and what is remembered of him.
    fn met(pinned: PinnedKey) -> (PeerRegistry, PeerRecord) {
        let registry = PeerRegistry::default();
        let bob = registry.pin(pinned).unwrap();
        registry.learn_protocol(&bob, V2);
        let record = bob.info().into_record().unwrap();
        (registry, record)
    }

    fn changed(mut record: PeerRecord, change: PeerChange) -> PeerRecord {
        record.apply(change).unwrap();
        record
    }

    fn trust(seed: u8) -> PeerChange {
        PeerChange::Trust {
            key: Some(hearsay(seed).key),
            replace: true,
            at: UnixMillis::new(5),
        }
    }

    #[test]
    fn what_a_peer_has_proven_survives_a_restart() {
        let (_, record) = met(hearsay(1));
        let registry = PeerRegistry::default();
        assert_eq!(registry.restore(record.clone()), Ok(false));
        let bob = registry.by_name("bob").unwrap().info();
        assert_eq!((bob.key, bob.protocol), (Some(hearsay(1)), V2));
        // But not if it was proven with another key.
        let registry = PeerRegistry::default();
        registry.pin(key(2, KeySource::Configured)).unwrap();
        assert!(matches!(
            registry.restore(record),
            Err(RegisterError::KeyConflict(_))
        ));
        let bob = registry.by_name("bob").unwrap().info();
        assert_eq!(
            (bob.key, bob.protocol),
            (Some(key(2, KeySource::Configured)), PeerProtocol::default())
        );
    }

    #[test]
    fn a_trusted_key_takes_the_place_of_the_old_one_and_resets_what_it_had_proven() {
        let (registry, record) = met(hearsay(1));
        let record = changed(record, trust(2));
        let mut events = registry.subscribe();
        assert_eq!(registry.restore(record.clone()), Ok(true));
        let bob = registry.by_name("bob").unwrap().info();
        assert_eq!(bob.key.as_ref().map(|key| key.key), Some(hearsay(2).key));
        assert_eq!(bob.key.unwrap().source, KeySource::Operator);
        assert!(bob.protocol.is_empty());
        assert!(matches!(events.try_recv(), Ok(PeerEvent::Decided(_))));
        // A decision takes effect once.
        let bob = registry.by_name("bob").unwrap();
        registry.learn_protocol(&bob, V2);
        assert_eq!(registry.restore(record), Ok(false));
        assert_eq!(bob.protocol(), V2);
    }

    #[test]
    fn an_untrusted_peer_has_no_key_until_it_is_trusted_again() {
        let (registry, record) = met(hearsay(1));
        let at = UnixMillis::new(5);
        let untrusted = changed(record, PeerChange::Untrust { at });
        assert_eq!(registry.restore(untrusted.clone()), Ok(true));
        let bob = registry.by_name("bob").unwrap();
        assert!(bob.is_untrusted() && bob.key().is_none());
        // One that nobody ever met can be kept out, too.
        let fresh = PeerRegistry::default();
        let nobody = changed(
            PeerRecord::new("bob".parse().unwrap()),
            PeerChange::Untrust { at },
        );
        assert_eq!(fresh.restore(nobody), Ok(true));
        assert!(matches!(fresh.pin(hearsay(1)), Err(RegisterError::KeyRefused(_))));

        let again = PeerChange::Trust {
            key: None,
            replace: false,
            at: UnixMillis::new(6),
        };
        assert_eq!(registry.restore(changed(untrusted, again)), Ok(true));
        assert_eq!(bob.key(), Some(hearsay(1).key));
        assert_eq!(bob.protocol(), V2);
    }

    #[test]
    fn a_forgotten_peer_is_a_stranger_and_what_is_learned_later_stays() {
        let (registry, record) = met(hearsay(1));
        let at = UnixMillis::new(5);
        let forgotten = changed(record, PeerChange::Forget { at });
        assert_eq!(registry.restore(forgotten.clone()), Ok(true));
        let bob = registry.by_name("bob").unwrap();
        assert!(bob.info().key.is_none() && bob.protocol().is_empty());
        let later = PinnedKey {
            learned_at: UnixMillis::new(6),
            ..hearsay(2)
        };
        registry.pin(later.clone()).unwrap();
        assert_eq!(registry.restore(forgotten), Ok(false));
        assert_eq!(bob.info().key, Some(later));
    }

    #[test]
    fn a_configured_key_is_not_replaced_but_its_nara_can_be_untrusted() {
        let (registry, record) = met(key(1, KeySource::Configured));
        assert!(matches!(
            registry.restore(changed(record.clone(), trust(2))),
            Err(RegisterError::KeyConflict(_))
        ));
        let bob = registry.by_name("bob").unwrap();
        assert_eq!(bob.key(), Some(hearsay(1).key));
        let at = UnixMillis::new(9);
        registry
            .restore(changed(record, PeerChange::Untrust { at }))
            .unwrap();
        assert!(bob.is_untrusted());
    }

    #[test]
    fn what_the_operator_wrote_anew_replaces_a_key_and_hearsay_does_not() {
        let (registry, _) = met(key(1, KeySource::Configured));
        let info = |key: PinnedKey| PeerInfo {
            name: Some(key.name.clone()),
            key: Some(key),
            ..PeerInfo::default()
        };
        assert!(registry.reconfigure(info(hearsay(2))).is_err());
        let written = key(2, KeySource::Configured);
        let bob = registry.reconfigure(info(written.clone())).unwrap();
        assert_eq!(
            (bob.info().key, bob.protocol()),
            (Some(written), PeerProtocol::default())
        );
        assert_eq!(registry.len(), 1);
    }

    #[test]
    fn a_closed_registry_takes_of_an_earlier_run_only_what_the_operator_gave() {
        let closed = PeerRegistry::default().with_trust(TrustPolicy::Closed);
        let (_, record) = met(hearsay(1));
        assert!(matches!(
            closed.restore(record.clone()),
            Err(RegisterError::KeyRefused(_))
        ));
        assert!(closed.is_empty());
        assert_eq!(closed.restore(changed(record, trust(1))), Ok(true));
        assert_eq!(closed.by_name("bob").unwrap().key(), Some(hearsay(1).key));
    }
}
