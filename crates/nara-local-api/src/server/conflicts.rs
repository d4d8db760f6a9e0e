//! Collects key conflicts and other warnings about peers until the operator decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_mesh::registry::{KeySource, PeerEvent, PeerRegistry};
use nara_proto::identity::{KeyId, PublicKey};
use nara_proto::succession::Lineage;
use nara_proto::time::UnixMillis;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::model::{Conflict, ConflictList, OpenConflict, Warning};

/// The most conflicts, and the most warnings: peers can cause them. Beyond it, the oldest is dropped.
const MOST: usize = 64;

/// The open conflicts and warnings.
#[derive(Clone, Debug, Default)]
pub(super) struct Conflicts(Arc<Mutex<Known>>);

/// In order of the last occurrence.
#[derive(Debug, Default)]
struct Known {
    conflicts: VecDeque<OpenConflict>,
    warnings: VecDeque<Warning>,
}

impl Conflicts {
    pub(super) fn list(&self) -> ConflictList {
        let known = self.known();
        ConflictList {
            conflicts: known.conflicts.iter().rev().cloned().collect(),
            warnings: known.warnings.iter().rev().cloned().collect(),
        }
    }

    /// Returns the list, with the currently pinned keys where a key may be decided.
    pub(super) fn with_keys(&self, registry: &PeerRegistry) -> ConflictList {
        let mut list = self.list();
        for warning in list
            .warnings
            .iter_mut()
            .filter(|warning| warning.key_id.is_some())
        {
            let known = registry.by_name(&warning.name);
            if let Some(pinned) = known.and_then(|peer| peer.info().key) {
                warning.pinned_key_id = Some(KeyId::from(&pinned.key).to_string());
                warning.configured = pinned.source == KeySource::Configured;
            }
        }
        list
    }

    /// Records a conflict.
    pub(super) fn note(&self, conflict: Conflict, now: UnixMillis) {
        let mut known = self.known();
        let same = |open: &OpenConflict| {
            open.conflict.name == conflict.name && open.conflict.offered_key_id == conflict.offered_key_id
        };
        let before = known.conflicts.iter().position(same);
        let before = before.and_then(|index| known.conflicts.remove(index));
        known.conflicts.push_back(OpenConflict {
            configured: conflict.pinned_source == KeySource::Configured.to_string(),
            first_seen_ms: before
                .as_ref()
                .map_or_else(|| now.get(), |open| open.first_seen_ms),
            last_seen_ms: now.get(),
            times: before.map_or(1, |open| open.times.saturating_add(1)),
            conflict,
        });
        if known.conflicts.len() > MOST {
            known.conflicts.pop_front();
        }
    }

    /// Removes the open entries of a nara after a decision of the operator.
    pub(super) fn decided(&self, name: &str) {
        let mut known = self.known();
        known.conflicts.retain(|open| open.conflict.name != name);
        known.warnings.retain(|warning| warning.name != name);
    }

    /// Records a warning. `key`: a key that the operator may decide to trust.
    fn warn(&self, kind: &str, name: &str, text: String, key: Option<&PublicKey>, now: UnixMillis) {
        let mut known = self.known();
        let same = |warning: &Warning| warning.kind == kind && warning.name == name && warning.text == text;
        let before = known.warnings.iter().position(same);
        let before = before.and_then(|index| known.warnings.remove(index));
        known.warnings.push_back(Warning {
            kind: kind.to_owned(),
            name: name.to_owned(),
            text,
            key_id: key.map(|key| KeyId::from(key).to_string()),
            pinned_key_id: None,
            configured: false,
            last_seen_ms: now.get(),
            times: before.map_or(1, |warning| warning.times.saturating_add(1)),
        });
        if known.warnings.len() > MOST {
            known.warnings.pop_front();
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every update leaves both lists valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the registry until shutdown.
    pub(super) async fn follow(
        self,
        mut events: broadcast::Receiver<PeerEvent>,
        now: impl Fn() -> UnixMillis,
        stopping: CancellationToken,
    ) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = stopping.cancelled() => return,
            };
            match event {
                Ok(event) => self.take(&event, now()),
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(
                        "{missed} peer changes were dropped before they were checked for conflicts"
                    );
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn take(&self, event: &PeerEvent, now: UnixMillis) {
        match event {
            PeerEvent::KeyConflict(conflict) => self.note(Conflict::of(conflict), now),
            PeerEvent::Decided(info) | PeerEvent::Unregistered(info) => {
                if let Some(name) = &info.name {
                    self.decided(name.as_str());
                }
            }
            PeerEvent::KeyChanged { name, .. } => self.decided(name.as_str()),
            PeerEvent::KeyRefused(refused) => {
                self.warn(
                    "key_refused",
                    refused.name.as_str(),
                    refused.to_string(),
                    Some(&refused.offered),
                    now,
                );
            }
            PeerEvent::Downgrade { peer, missing } => {
                let name = peer.label();
                let text = format!("{name} no longer supports what it has proven before ({missing})");
                self.warn("downgrade", &name, text, None, now);
            }
            PeerEvent::AddressMismatch {
                claimed,
                owner,
                address,
            } => {
                let text = format!(
                    "a request in the name of {claimed} came from {address}, which belongs to {owner}"
                );
                self.warn("address_mismatch", claimed.as_str(), text, None, now);
            }
            PeerEvent::LookAlike { peer, known } => {
                let name = peer.label();
                let text = format!("the name {name} looks like {known}, but is a different nara");
                self.warn("look_alike", &name, text, None, now);
            }
            PeerEvent::Succession { statement, effect } => {
                use nara_mesh::registry::SuccessionEffect as Effect;
                let name = statement.name().as_str();
                let (old, new) = (KeyId::from(statement.old_key()), statement.new_key());
                let text = match (effect, new) {
                    (Effect::Followed, _) => return,
                    (Effect::Retired, _) => {
                        format!("{name} stated that it retires: none of its keys is valid")
                    }
                    (Effect::Conflict, _) => format!(
                        "{name} has two successors of key {old}, or changed its key more than {} times: none of its keys is valid \
                         until you decide",
                        Lineage::MAX_STEPS
                    ),
                    (Effect::Asked, Some(new)) => format!(
                        "key {old} of {name} names key {} as its successor: it takes effect once you trust it",
                        KeyId::from(new)
                    ),
                    (Effect::Asked, None) => {
                        format!("key {old} of {name} states that it retires: ban {name} to accept that")
                    }
                };
                let to_trust = new.filter(|_| *effect != Effect::Retired);
                self.warn("succession", name, text, to_trust, now);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conflict(name: &str, offered: &str) -> Conflict {
        Conflict {
            name: name.to_owned(),
            pinned_key_id: "one".to_owned(),
            pinned_source: "ping".to_owned(),
            offered_key_id: offered.to_owned(),
            offered_by: "ping".to_owned(),
            text: String::new(),
        }
    }

    #[test]
    fn a_conflict_is_listed_once_until_it_is_decided() {
        let conflicts = Conflicts::default();
        for second in 0..3 {
            conflicts.note(conflict("bob", "two"), UnixMillis::new(second));
        }
        conflicts.note(conflict("carol", "two"), UnixMillis::new(9));
        let list = conflicts.list().conflicts;
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].conflict.name.as_str(), list[0].times), ("carol", 1));
        assert_eq!(
            (list[1].first_seen_ms, list[1].last_seen_ms, list[1].times),
            (0, 2, 3)
        );
        conflicts.decided("bob");
        assert_eq!(conflicts.list().conflicts.len(), 1);
    }

    #[test]
    fn a_statement_of_succession_is_told_with_the_key_to_trust() {
        use nara_mesh::registry::SuccessionEffect as Effect;
        use nara_proto::identity::{KeyPair, Soul};
        use nara_proto::succession::Succession;

        let conflicts = Conflicts::default();
        let [old, new] = [1, 2].map(|seed| KeyPair::from_soul(&Soul::bond([seed; 32], "bob")));
        let (name, now) = ("bob".parse().unwrap(), UnixMillis::new(1));
        let rotated = Succession::rotate(&name, &old, &new, now).unwrap();
        let retired = Succession::retire(&name, &old, now);
        for (statement, effect) in [
            (&rotated, Effect::Followed),
            (&rotated, Effect::Asked),
            (&rotated, Effect::Conflict),
            (&retired, Effect::Retired),
        ] {
            let statement = Box::new(statement.clone());
            conflicts.take(&PeerEvent::Succession { statement, effect }, now);
        }
        let [old, new] = [old, new].map(|pair| KeyId::from(&pair.public_key()).to_string());
        let warnings = conflicts.list().warnings;
        let keys: Vec<_> = warnings.iter().map(|warning| warning.key_id.as_deref()).collect();
        assert_eq!(keys, [None, Some(&*new), Some(&*new)]);
        assert!(
            warnings[2].text.contains(&old) && warnings[2].text.contains(&new),
            "{warnings:?}"
        );
    }

    #[test]
    fn peers_cannot_fill_the_memory_with_conflicts() {
        let conflicts = Conflicts::default();
        for number in 0..1000 {
            let now = UnixMillis::new(number);
            conflicts.note(conflict("bob", &number.to_string()), now);
            conflicts.warn("downgrade", &number.to_string(), String::new(), None, now);
        }
        let list = conflicts.list();
        assert_eq!((list.conflicts.len(), list.warnings.len()), (MOST, MOST));
        assert_eq!(list.conflicts[0].conflict.offered_key_id, "999");
    }
}
