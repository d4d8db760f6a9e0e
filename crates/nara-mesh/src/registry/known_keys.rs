use std::collections::BTreeMap;
use std::sync::Arc;

use nara_proto::event::{
    EventProblem, EventReception, EventTrust, EventVerdict, KeyLookup, KeyStanding, Service, SyncEvent,
    verify_events,
};
use nara_proto::identity::PublicKey;
use nara_proto::succession::Succession;
use nara_proto::time::UnixNanos;

use super::{Peer, PeerRegistry};
use crate::identity::LocalNara;
use crate::random::random;

/// The pinned keys of a registry, and the own key of this nara.
#[derive(Clone, Debug)]
pub(crate) struct KnownKeys {
    local: LocalNara,
    registry: PeerRegistry,
}

impl KnownKeys {
    /// The keys that `local` knows.
    pub(crate) fn new(local: LocalNara, registry: PeerRegistry) -> Self {
        Self { local, registry }
    }

    /// This nara.
    pub(crate) fn local(&self) -> &LocalNara {
        &self.local
    }

    /// The key of the nara with this name, of which the registry has this peer.
    #[cfg(feature = "server")]
    pub(crate) fn key_of(
        &self,
        name: &nara_proto::identity::NaraName,
        peer: Option<&Peer>,
    ) -> Option<PublicKey> {
        if name == self.local.name() {
            Some(self.local.public_key())
        } else {
            peer?.key()
        }
    }

    /// The verdicts of events that came together: of [`verify`](Self::verify), and then of [`heed`](Self::heed).
    pub(crate) fn judge(&self, events: &mut [SyncEvent], now: UnixNanos) -> Vec<EventVerdict> {
        let mut verdicts = self.verify(events, now);
        self.heed(events, &mut verdicts, now);
        verdicts
    }

    /// The verdicts of events by the keys that are known now.
    pub(crate) fn verify(&self, events: &mut [SyncEvent], now: UnixNanos) -> Vec<EventVerdict> {
        let reception = EventReception {
            now,
            random: random(),
        };
        verify_events(events, self, reception)
    }

    /// Takes in what events that came together state about keys, and judges those once more that were not verified: by
    /// the keys that hold now, and by those that held in between. What the keys from before verified stays verified: it
    /// was made before the statement. So whoever has a replaced key gains nothing by telling statements together that it
    /// would not by telling them one by one.
    pub(crate) fn heed(&self, events: &mut [SyncEvent], verdicts: &mut [EventVerdict], now: UnixNanos) {
        let judged = || events.iter().zip(&*verdicts);
        let statements = judged()
            .filter(|(event, verdict)| verdict.is_ok() && event.service() == Some(Service::Succession))
            .filter_map(|(event, _)| Succession::from_event(event).ok());
        let statements: Vec<_> = statements.collect();
        let held = statements.iter().filter_map(|statement| {
            let name = statement.name().as_str();
            Some((name.to_owned(), self.registry.key_of_name(name)?))
        });
        let held: BTreeMap<String, PublicKey> = held.collect();
        if statements.is_empty() || !self.registry.heed_all(statements) {
            return;
        }
        let waiting = indices(verdicts, |index| waits_for_key(verdicts[index]));
        for (index, anew) in self.verify_again(events, &waiting, now, self) {
            verdicts[index] = anew;
        }
        let between = held.into_iter().map(|(name, key)| {
            let keys = self.registry.keys_between(&name, &key);
            (name, keys.into_iter())
        });
        let mut between: Vec<_> = between.collect();
        let mut left = events.len().saturating_mul(VERIFIED_BY_KEYS_BETWEEN);
        loop {
            let keys = between
                .iter_mut()
                .filter_map(|(name, keys)| Some((name.clone(), keys.next()?)));
            let then = Then {
                keys: self,
                held: keys.collect(),
            };
            let waiting = indices(verdicts, |index| {
                waits_for_key(verdicts[index]) && then.held.contains_key(events[index].actor())
            });
            if then.held.is_empty() || waiting.len() > left {
                return;
            }
            left -= waiting.len();
            for (index, anew) in self.verify_again(events, &waiting, now, &then) {
                if anew == Ok(EventTrust::Verified) {
                    verdicts[index] = anew;
                }
            }
        }
    }

    /// Other verdicts of some events, by other keys.
    fn verify_again(
        &self,
        events: &mut [SyncEvent],
        waiting: &[usize],
        now: UnixNanos,
        keys: &impl KeyLookup,
    ) -> Vec<(usize, EventVerdict)> {
        let taken = waiting.iter().map(|index| std::mem::take(&mut events[*index]));
        let mut again: Vec<_> = taken.collect();
        let reception = EventReception {
            now,
            random: random(),
        };
        let verdicts = verify_events(&mut again, keys, reception);
        for (index, event) in waiting.iter().zip(again) {
            events[*index] = event;
        }
        waiting.iter().copied().zip(verdicts).collect()
    }

    /// Notes what a **verified** event says about the presence of its emitter; `wall_clock` is now.
    pub(crate) fn hear(&self, event: &SyncEvent, wall_clock: UnixNanos) {
        self.registry.hear(event, wall_clock);
    }
}

/// How often the events that came together are verified at most with keys that held in between: a hostile peer may put
/// dozens of rotations beside thousands of events that no key verifies.
const VERIFIED_BY_KEYS_BETWEEN: usize = 4;

fn indices(verdicts: &[EventVerdict], suits: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..verdicts.len()).filter(|index| suits(*index)).collect()
}

/// The keys of some naras as they were for a moment between two statements.
struct Then<'a> {
    keys: &'a KnownKeys,
    held: BTreeMap<String, PublicKey>,
}

impl KeyLookup for Then<'_> {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        match self.held.get(name) {
            // Not if the operator decided otherwise meanwhile.
            Some(key) if self.keys.was_key_of_name(name, key) => KeyStanding::Pinned(*key),
            _ => KeyStanding::Untrusted,
        }
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        self.keys.standing_of_id(id)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        self.keys.is_id_of_name(id, name)
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.keys.is_banned_key(key)
    }
}

/// Whether another key, or another decision about it, may change a verdict.
pub(crate) fn waits_for_key(verdict: EventVerdict) -> bool {
    matches!(
        verdict,
        Ok(EventTrust::UnknownKey | EventTrust::UnknownSubject)
            | Err(EventProblem::BadSignature | EventProblem::Untrusted)
    )
}

impl KeyLookup for KnownKeys {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        if name == self.local.name().as_str() {
            KeyStanding::Pinned(self.local.public_key())
        } else {
            self.registry.standing_of_name(name)
        }
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        if id == self.local.id().as_str() {
            KeyStanding::Pinned(self.local.public_key())
        } else {
            self.registry.standing_of_id(id)
        }
    }

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        self.registry.was_key_of_name(name, key)
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.registry.is_banned_key(key)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        match (id == self.local.id().as_str(), name == self.local.name().as_str()) {
            (false, false) => self.registry.is_id_of_name(id, name),
            (is_our_id, is_our_name) => Some(is_our_id && is_our_name),
        }
    }
}

impl KeyLookup for PeerRegistry {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        self.by_name(name)
            .map_or(KeyStanding::Unknown, |peer| peer.standing())
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        let peer = id.parse().ok().and_then(|id| self.by_id(&id));
        peer.map_or(KeyStanding::Unknown, |peer| peer.standing())
    }

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        self.is_in_lineage(name, key) && self.by_name(name).is_some_and(|peer| !peer.is_untrusted())
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.is_banned(key)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        let known = |peer: &Arc<Peer>| {
            let info = peer.info();
            let known_id = info.id?;
            let known_name = info.name?;
            Some(known_id.as_str() == id && known_name.as_str() == name)
        };
        let by_id = id.parse().ok().and_then(|id| self.by_id(&id));
        by_id
            .as_ref()
            .and_then(known)
            .or_else(|| self.by_name(name).as_ref().and_then(known))
    }
}

#[cfg(test)]
mod tests;
