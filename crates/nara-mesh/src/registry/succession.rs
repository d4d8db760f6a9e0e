//! Keys that change hands: what statements of succession change (docs/protocol/succession.md).
//!
//! What is stored of a nara is the key that was pinned, and beside it, as events, the statements. Which key holds
//! follows from both, at each start anew, so the order in which statements came makes no difference.

use std::collections::{HashMap, VecDeque};
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

    /// Whether a statement may change something; `None`: it is not about a key of this line. Most statements change
    /// nothing, so this copies nothing.
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

/// What became of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heeded {
    /// It is about no key of a known peer, nor about ours.
    Unrelated,
    /// It is about such a key, and none follows from it.
    Known,
    /// This key holds from now on.
    Followed(PublicKey),
}

impl PeerRegistry {
    /// Takes in statements about keys of peers, in any order. Returns whether any of them is about a key of a known peer,
    /// or ours.
    pub(crate) fn heed_all(&self, statements: Vec<Succession>) -> bool {
        let mut is_any_of_use = false;
        // By the key that they replace: a statement may be of use only after another one, which makes its key the last.
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

    /// The statements about a nara that are followed.
    pub(super) fn followed(&self, name: &str) -> Vec<Succession> {
        let lines = self.successions();
        let steps = lines.0.get(name).map(|line| line.lineage.steps().to_vec());
        steps.unwrap_or_default()
    }

    /// The keys that held for a name after `key` and before the one that holds now, the newest first: none where two
    /// statements contradict each other, since nobody can tell then who has them.
    pub(super) fn keys_between(&self, name: &str, key: &PublicKey) -> Vec<PublicKey> {
        let lines = self.successions();
        let line = lines.0.get(name);
        let line = line.filter(|line| line.lineage.state() != KeyState::Conflict);
        let steps = line.map_or(&[][..], |line| line.lineage.steps());
        let first = steps.iter().position(|step| step.old_key() == key);
        let behind = first.map_or(&[][..], |first| &steps[first + 1..]);
        behind.iter().rev().map(|step| *step.old_key()).collect()
    }

    /// Takes in a statement about the key of a peer: the new key is pinned and the old one refused, or the operator is
    /// asked. Returns whether it is about a key of a known peer, or ours.
    pub(crate) fn heed(&self, statement: &Succession) -> bool {
        self.take_in(statement) != Heeded::Unrelated
    }

    fn take_in(&self, statement: &Succession) -> Heeded {
        // One after the other, with what each changes: two that follow each other must not pin their keys in the wrong order.
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
        // What the operator decided later counts more.
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
                    // It contradicts nothing that was stated after the decision.
                    Some(asked) if is_decided(asked) => line.asked = None,
                    _ => {}
                }
                if line.contradicts_what_was_asked(statement) {
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
                    // Another soul has another id. Whoever has succeeded another speaks v2, as that one did.
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

    /// The configured key of a name, if statements replaced it.
    pub(super) fn configured_origin(&self, name: &str) -> Option<PinnedKey> {
        let lines = self.successions();
        let pinned = &lines.0.get(name)?.pinned;
        (pinned.source == KeySource::Configured).then(|| pinned.clone())
    }

    /// The record of a peer as it is stored: with the key that was pinned.
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
        // Each change of it is one insertion.
        self.successions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
