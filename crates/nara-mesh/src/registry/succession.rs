//! Statements of succession and their effect on keys (docs/protocol/succession.md).
//!
//! The stored data of a nara are the key that was pinned and, as events, the statements. The valid key is computed from
//! both at each start, so the order in which statements arrived makes no difference.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError};

use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::succession::{KeyState, Lineage, Step, Succession};

use super::{KeySource, Peer, PeerEvent, PeerRecord, PeerRegistry, PinnedKey, SuccessionEffect, Verdict};

/// The keys of naras with statements of succession.
#[derive(Debug, Default)]
pub(super) struct Successions(HashMap<NaraName, Line>);

/// The keys of one nara.
#[derive(Clone, Debug)]
struct Line {
    /// The key that was pinned, before any statement.
    pinned: PinnedKey,
    lineage: Lineage,
    /// The statement that awaits the operator's decision.
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

    /// Returns whether a statement may have an effect; `None` if it is not about a key of this line. Most statements
    /// have none, so this copies nothing.
    fn may_change_by(&self, statement: &Succession) -> Option<bool> {
        let (steps, old) = (self.lineage.steps(), statement.old_key());
        let is_open = self.lineage.state() != KeyState::Conflict;
        if let Some(step) = steps.iter().find(|step| step.old_key() == old) {
            return Some(is_open && step.new_key() != statement.new_key());
        }
        if self.lineage.is_replaced(old) {
            return Some(false);
        }
        let last = steps.last().map_or(Some(&self.pinned.key), Succession::new_key);
        if last == Some(old) {
            return Some(is_open);
        }
        (statement.new_key() == Some(&self.pinned.key)).then_some(true)
    }

    /// Returns whether a statement contradicts the one that awaits the operator's decision, and records the conflict.
    fn contradicts_asked(&mut self, statement: &Succession) -> bool {
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

/// The effect of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeded {
    /// It is about no key of a known peer, nor about ours.
    Unrelated,
    /// It is about such a key, but does not change the valid one.
    Known,
    /// This key is valid from now on.
    Followed(PublicKey),
}

impl PeerRegistry {
    /// Applies statements about keys of peers, in any order. Returns whether any of them is about a key of a known
    /// peer, or ours.
    pub(crate) fn heed_all(&self, statements: Vec<Succession>) -> bool {
        let mut is_any_of_use = false;
        // By the key that they replace: a statement may apply only after another one, which makes its key the last one.
        let mut waiting: HashMap<(NaraName, PublicKey), Vec<Succession>> = HashMap::new();
        let mut next = VecDeque::from(statements);
        while let Some(statement) = next.pop_front() {
            match self.take_in(&statement) {
                Heeded::Unrelated => {
                    let key = (statement.name().clone(), *statement.old_key());
                    waiting.entry(key).or_default().push(statement);
                }
                Heeded::Known => is_any_of_use = true,
                Heeded::Followed(key) => {
                    is_any_of_use = true;
                    next.extend(
                        waiting
                            .remove(&(statement.name().clone(), key))
                            .unwrap_or_default(),
                    );
                }
            }
        }
        is_any_of_use
    }

    /// Returns the followed statements about a nara.
    pub(super) fn followed(&self, name: &str) -> Vec<Succession> {
        let lines = self.successions();
        let steps = lines.0.get(name).map(|line| line.lineage.steps().to_vec());
        steps.unwrap_or_default()
    }

    /// Returns the keys of a name that were valid after `key` and before the current one, newest first; empty if two
    /// statements contradict each other, since the holder of these keys is unknown then.
    pub(super) fn keys_between(&self, name: &str, key: &PublicKey) -> Vec<PublicKey> {
        let lines = self.successions();
        let line = lines.0.get(name);
        let line = line.filter(|line| line.lineage.state() != KeyState::Conflict);
        let steps = line.map_or(&[][..], |line| line.lineage.steps());
        let first = steps.iter().position(|step| step.old_key() == key);
        let behind = first.map_or(&[][..], |first| &steps[first + 1..]);
        behind.iter().rev().map(|step| *step.old_key()).collect()
    }

    /// Applies a statement about the key of a peer: pins the new key and refuses the old one, or asks the operator.
    /// Returns whether it is about a key of a known peer, or ours.
    pub(crate) fn heed(&self, statement: &Succession) -> bool {
        self.take_in(statement) != Heeded::Unrelated
    }

    fn take_in(&self, statement: &Succession) -> Heeded {
        // Statements and their effects are applied one at a time: consecutive ones must not pin their keys in the wrong
        // order.
        let _turn = self.heeding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.heed_about_us(statement) {
            return Heeded::Known;
        }
        let Some(peer) = self.by_name(statement.name().as_str()) else {
            return Heeded::Unrelated;
        };
        let (pinned, decision) = peer.with_info(|info| (info.key.clone(), info.decision));
        let Some(pinned) = pinned else {
            return Heeded::Unrelated;
        };
        let mut lines = self.successions();
        let fresh = Line::new(pinned);
        let known = lines.0.get(statement.name()).unwrap_or(&fresh);
        match known.may_change_by(statement) {
            None => return Heeded::Unrelated,
            Some(false) => return Heeded::Known,
            Some(true) => {}
        }
        let before = known.clone();
        let mut line = before.clone();
        let Ok(step) = line.lineage.observe(statement) else {
            return Heeded::Unrelated;
        };
        // A later decision of the operator takes precedence.
        let is_decided = |statement: &Succession| {
            decision
                .is_some_and(|decision| decision.verdict == Verdict::Trusted && statement.at() <= decision.at)
        };
        let decided = is_decided(statement);
        let asks = decided || !self.trust().follows_succession();
        let effect = match step {
            Step::Known => {
                lines.0.insert(statement.name().clone(), line);
                return Heeded::Known;
            }
            Step::Conflict if decided || before.lineage.state() == KeyState::Conflict => {
                return Heeded::Known;
            }
            Step::Conflict => SuccessionEffect::Conflict,
            Step::Followed(_) | Step::Retired if decided || (asks && step != Step::Retired) => {
                line = before;
                match &line.asked {
                    Some(asked) if decided || asked == statement => return Heeded::Known,
                    // It contradicts no statement that was made after the decision.
                    Some(asked) if is_decided(asked) => line.asked = None,
                    _ => {}
                }
                if line.contradicts_asked(statement) {
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
        match statement.new_key() {
            Some(key) if effect == SuccessionEffect::Followed => Heeded::Followed(*key),
            _ => Heeded::Known,
        }
    }

    fn apply(&self, peer: &Arc<Peer>, statement: &Succession, effect: SuccessionEffect) {
        let old = peer.key();
        let replaced = peer.with_info(|info| info.key.clone());
        match (effect, statement.new_key(), replaced) {
            (SuccessionEffect::Followed, Some(new), Some(replaced)) => {
                let key = PinnedKey {
                    name: statement.name().clone(),
                    id: None,
                    key: *new,
                    source: replaced.source.succeeded(),
                    learned_at: statement.at(),
                };
                peer.note_former_key(replaced.key);
                self.relink(peer, |info| {
                    // A new soul has a new id. A peer that can state a succession supports v2, like its predecessor.
                    info.id = None;
                    info.key = Some(key.clone());
                });
                self.emit(PeerEvent::KeyPinned(key));
            }
            (SuccessionEffect::Conflict | SuccessionEffect::Retired, ..) => peer.set_keyless(true),
            _ => {}
        }
        self.key_changed(peer, old);
        self.emit(PeerEvent::Succession {
            statement: Box::new(statement.clone()),
            effect,
        });
    }

    /// Returns the valid key of a name, or why there is none; `None` without a statement about it.
    pub fn key_state(&self, name: &str) -> Option<KeyState> {
        Some(self.successions().0.get(name)?.lineage.state())
    }

    /// Returns whether a key is or was the key of a name, according to the followed statements.
    pub(super) fn is_in_lineage(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines.0.get(name).is_some_and(|line| line.lineage.has(key))
    }

    /// Returns whether this key was the key of the name and no longer is.
    pub(crate) fn is_replaced(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines
            .0
            .get(name)
            .is_some_and(|line| line.lineage.is_replaced(key))
    }

    /// Returns whether this is the key from which the followed statements lead to the valid one.
    pub(super) fn is_origin(&self, name: &str, key: &PublicKey) -> bool {
        let lines = self.successions();
        lines.0.get(name).is_some_and(|line| line.pinned.key == *key)
    }

    /// Returns the configured key of a name, if statements replaced it.
    pub(super) fn configured_origin(&self, name: &str) -> Option<PinnedKey> {
        let lines = self.successions();
        let pinned = &lines.0.get(name)?.pinned;
        (pinned.source == KeySource::Configured).then(|| pinned.clone())
    }

    /// Returns the record of a peer to store: with the key that was pinned.
    pub(super) fn record_of(&self, peer: &Peer) -> Option<PeerRecord> {
        let mut record = peer.info().into_record()?;
        if let Some(line) = self.successions().0.get(&record.name) {
            if record
                .key
                .as_ref()
                .is_some_and(|key| matches!(key.source, KeySource::Succession(_)))
            {
                record.id.clone_from(&line.pinned.id);
            }
            record.key = Some(line.pinned.clone());
        }
        Some(record)
    }

    /// Applies a decision of the operator against all statements about the keys.
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
                peer.forget_former_keys();
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
        // Each change is one insertion.
        self.successions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
