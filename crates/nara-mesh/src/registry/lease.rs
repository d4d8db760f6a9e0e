use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nara_proto::event::KeyLookup as _;
use nara_proto::identity::{NaraName, PublicKey};
use tokio::sync::watch;

use super::{Peer, PeerRegistry};

/// What was opened on a key of a nara, such as a stream, ends with the key: when the key is replaced or reset, when the
/// nara is removed, or when the operator does not trust it any more.
#[derive(Debug)]
pub(crate) struct KeyLease {
    registry: PeerRegistry,
    name: NaraName,
    /// The peer when it began.
    peer: Option<Arc<Peer>>,
    key: PublicKey,
    changes: watch::Receiver<()>,
}

impl PeerRegistry {
    /// The peer with this name, which is likely to be this one: names are not looked up again and again for one call.
    pub(crate) fn named(&self, name: &NaraName, likely: &Arc<Peer>) -> Option<Arc<Peer>> {
        if likely.is_registered_as(name) {
            return Some(likely.clone());
        }
        self.by_name(name.as_str())
    }

    /// A lease on a key that was just verified for a nara.
    pub(crate) fn lease(&self, name: &NaraName, key: &PublicKey) -> KeyLease {
        KeyLease {
            changes: self.decisions(),
            registry: self.clone(),
            name: name.clone(),
            peer: self.by_name(name.as_str()),
            key: *key,
        }
    }
}

impl KeyLease {
    /// Whether the key is still the one of the nara.
    pub(crate) fn is_valid(&self) -> bool {
        let key = match &self.peer {
            Some(peer) => self.registry.named(&self.name, peer).and_then(|peer| peer.key()),
            None => self.registry.key_of_name(self.name.as_str()),
        };
        key == Some(self.key)
    }

    /// Waits until the key is not the one of the nara any more. Cancel safe.
    pub(crate) async fn ended(&mut self) {
        loop {
            self.changes.mark_unchanged();
            if !self.is_valid() {
                return;
            }
            if self.changes.changed().await.is_err() {
                // Not while we hold the registry.
                return;
            }
        }
    }
}

/// The end of a lease, for what is polled.
pub(crate) struct KeyEnd(Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>);

impl From<KeyLease> for KeyEnd {
    fn from(mut lease: KeyLease) -> Self {
        Self(Some(Box::pin(async move { lease.ended().await })))
    }
}

impl KeyEnd {
    /// Whether it has come. Otherwise the task is woken when it does.
    pub(crate) fn has_come(&mut self, cx: &mut Context<'_>) -> bool {
        let ended = match &mut self.0 {
            Some(end) => end.as_mut().poll(cx),
            None => Poll::Ready(()),
        };
        if ended.is_ready() {
            self.0 = None;
        }
        ended.is_ready()
    }
}

impl fmt::Debug for KeyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEnd").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use crate::registry::{KeySource, Peer, PeerChange, PeerEvent, PeerInfo, PeerRegistry, PinnedKey};

    fn key(seed: u8, name: &str, source: KeySource) -> PinnedKey {
        PinnedKey {
            name: name.parse().unwrap(),
            id: None,
            key: KeyPair::from_soul(&Soul::bond([seed; 32], "x")).public_key(),
            source,
            learned_at: UnixMillis::new(1),
        }
    }

    fn decide(registry: &PeerRegistry, peer: &Arc<Peer>, change: PeerChange) {
        let mut record = peer.info().into_record().unwrap();
        record.apply(change).unwrap();
        assert_eq!(registry.restore(record), Ok(true));
    }

    /// Runs `change` on a registry with bob, and says whether what was opened on his key has ended.
    async fn ends_by(change: impl FnOnce(&PeerRegistry, &Arc<Peer>)) -> bool {
        let registry = PeerRegistry::default();
        let pinned = key(1, "bob", KeySource::HeyThere { told_by: None });
        let bob = registry.pin(pinned.clone()).unwrap();
        let mut lease = registry.lease(&pinned.name, &pinned.key);
        assert!(lease.is_valid());
        let ended = tokio::spawn(async move { lease.ended().await });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished());
        change(&registry, &bob);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        ended.is_finished()
    }

    #[tokio::test]
    async fn whatever_takes_a_key_away_ends_what_was_opened_on_it() {
        let at = UnixMillis::new(5);
        let trust = |seed| PeerChange::Trust {
            key: Some(key(seed, "bob", KeySource::Operator).key),
            replace: true,
            at,
        };
        assert!(ends_by(|registry, bob| decide(registry, bob, trust(2))).await);
        assert!(ends_by(|registry, bob| decide(registry, bob, PeerChange::Forget { at })).await);
        assert!(ends_by(|registry, bob| decide(registry, bob, PeerChange::Untrust { at })).await);
        assert!(ends_by(|registry, bob| registry.remove(bob)).await);
        let written = |seed| PeerInfo {
            name: Some("bob".parse().unwrap()),
            key: Some(key(seed, "bob", KeySource::Configured)),
            ..PeerInfo::default()
        };
        assert!(ends_by(|registry, _| drop(registry.reconfigure(written(2)).unwrap())).await);
        // The same key again, or another nara, changes nothing.
        assert!(!ends_by(|registry, bob| decide(registry, bob, trust(1))).await);
        assert!(!ends_by(|registry, _| drop(registry.reconfigure(written(1)).unwrap())).await);
        let other = key(3, "carol", KeySource::Configured);
        assert!(!ends_by(|registry, _| drop(registry.pin(other).unwrap())).await);
    }

    #[tokio::test]
    async fn to_distrust_a_nara_is_to_distrust_its_key_under_every_name() {
        let registry = PeerRegistry::default();
        let at = UnixMillis::new(5);
        let alice = registry.pin(key(1, "alice", KeySource::Configured)).unwrap();
        let alias = registry.pin(key(1, "alias", KeySource::Configured)).unwrap();
        decide(&registry, &alice, PeerChange::Untrust { at });
        assert!(alias.is_untrusted() && alias.key().is_none());
        let hearsay = key(1, "other", KeySource::HeyThere { told_by: None });
        assert!(registry.pin(hearsay.clone()).is_err());
        let configured = registry.pin(key(1, "third", KeySource::Configured)).unwrap();
        assert!(configured.is_untrusted());
        let trust = PeerChange::Trust {
            key: None,
            replace: false,
            at: UnixMillis::new(6),
        };
        decide(&registry, &alice, trust);
        assert!(!alias.is_untrusted() && !configured.is_untrusted());
        assert!(registry.pin(hearsay).is_ok());
    }

    #[test]
    fn a_key_that_is_replaced_is_told() {
        let registry = PeerRegistry::default();
        let bob = registry
            .pin(key(1, "bob", KeySource::HeyThere { told_by: None }))
            .unwrap();
        let mut events = registry.subscribe();
        let at = UnixMillis::new(5);
        decide(&registry, &bob, PeerChange::Forget { at });
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let expected = PeerEvent::KeyChanged {
            name: "bob".parse().unwrap(),
            old: key(1, "bob", KeySource::Own).key,
            new: None,
        };
        assert!(told.contains(&expected), "{told:?}");
    }
}
