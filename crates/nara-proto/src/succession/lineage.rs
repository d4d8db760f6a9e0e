//! The evaluation of all statements about one name.

use super::Succession;
use crate::identity::{NaraName, PublicKey};

/// The keys of one name, from the key that was pinned here to the valid one.
///
/// A statement about the current key is followed. A second, different statement about the same key is a conflict: the
/// owner or a thief made one of them, and they cannot be told apart. Then neither is followed, whichever came first,
/// until the operator [decides](Self::decide). Time plays no part: a lineage reaches the same state in whatever order
/// statements arrive or were made, and a repeated statement changes nothing. A replaced key does not become valid
/// again: a statement that leads back to it is a conflict, too, and so is each rotation beyond
/// [`MAX_STEPS`](Self::MAX_STEPS).
#[derive(Clone, Debug)]
pub struct Lineage {
    name: NaraName,
    /// The key that was pinned, on first use or by the operator.
    pinned: PublicKey,
    /// The statements that were followed: each replaces the key of the one before, the first replaces `pinned`.
    steps: Vec<Succession>,
    /// Two contradicting statements.
    conflict: Option<Box<(Succession, Succession)>>,
    /// The keys that were replaced before `pinned` was pinned, or that the operator rejected.
    former: Vec<PublicKey>,
}

/// The valid key of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Two statements contradict each other, or there are too many: no key is valid.
    Conflict,
    /// This key is valid.
    Holds(PublicKey),
    /// The nara retired: no key is valid.
    Retired,
}

/// The effect of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It contradicts another one, now or before: no key is valid until the operator decides.
    Conflict,
    /// This key is valid from now on. All connections and streams of the old key must end.
    Followed(PublicKey),
    /// No effect: it is known already, or about a key that was replaced before.
    Known,
    /// No key is valid any more. All connections and streams of the old key must end.
    Retired,
}

/// The error for a statement about a key that is not in this lineage. It has no effect now. It may apply later, when
/// the preceding statement has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the statement is not about a key that is known for this name")]
pub struct Unrelated;

impl Lineage {
    /// The maximum number of rotations that are followed without the operator, and of former keys that are remembered:
    /// more than a nara needs. A retirement after them is still followed.
    pub const MAX_STEPS: usize = 64;

    /// Returns the lineage of a name whose key was just pinned.
    pub fn new(name: NaraName, pinned: PublicKey) -> Self {
        Self {
            name,
            pinned,
            steps: Vec::new(),
            conflict: None,
            former: Vec::new(),
        }
    }

    /// Applies a statement.
    ///
    /// # Errors
    /// [`Unrelated`].
    pub fn observe(&mut self, statement: &Succession) -> Result<Step, Unrelated> {
        if statement.name != self.name {
            return Err(Unrelated);
        }
        let known = self.steps.iter().find(|step| step.old == statement.old);
        if let Some(known) = known {
            return Ok(if known.new_key() == statement.new_key() {
                Step::Known
            } else {
                let pair = (known.clone(), statement.clone());
                self.clash(pair)
            });
        }
        if self.former.contains(&statement.old) {
            return Ok(Step::Known);
        }
        if self.last_key() == Some(&statement.old) {
            return Ok(self.follow(statement));
        }
        if statement.new_key() == Some(&self.pinned) && self.former.len() < Self::MAX_STEPS {
            // The pinned key replaced it.
            self.former.push(statement.old);
            return Ok(Step::Known);
        }
        Err(Unrelated)
    }

    fn follow(&mut self, statement: &Succession) -> Step {
        if self.conflict.is_some() {
            return Step::Conflict;
        }
        if let Some(new) = statement.new_key()
            && (self.is_replaced(new) || self.steps.len() >= Self::MAX_STEPS)
        {
            let earlier = match self.is_replaced(new) {
                true => self.steps.first(),
                false => self.steps.last(),
            };
            let pair = (earlier.unwrap_or(statement).clone(), statement.clone());
            return self.clash(pair);
        }
        self.steps.push(statement.clone());
        statement
            .new_key()
            .map_or(Step::Retired, |key| Step::Followed(*key))
    }

    fn clash(&mut self, pair: (Succession, Succession)) -> Step {
        self.conflict.get_or_insert_with(|| Box::new(pair));
        Step::Conflict
    }

    /// Returns the valid key.
    pub fn state(&self) -> KeyState {
        if self.conflict.is_some() {
            KeyState::Conflict
        } else {
            self.last_key()
                .map_or(KeyState::Retired, |key| KeyState::Holds(*key))
        }
    }

    /// Returns whether a key was valid for this name and is not any more: signatures with it are refused.
    pub fn is_replaced(&self, key: &PublicKey) -> bool {
        self.former.contains(key) || self.steps.iter().any(|step| step.old == *key)
    }

    /// Returns whether a key is or was this name's key, or would be by one side of the conflict.
    pub fn has(&self, key: &PublicKey) -> bool {
        let disputed = self.conflict.iter().flat_map(|pair| [&pair.0, &pair.1]);
        self.pinned == *key
            || self.former.contains(key)
            || self
                .steps
                .iter()
                .chain(disputed)
                .any(|step| step.new_key() == Some(key))
    }

    /// Returns the two statements of the conflict, to show to the operator.
    pub fn conflict(&self) -> Option<(&Succession, &Succession)> {
        self.conflict.as_deref().map(|(one, other)| (one, other))
    }

    /// Returns the statements that were followed, in order, to forward and to store.
    pub fn steps(&self) -> &[Succession] {
        &self.steps
    }

    /// Sets `key` as the valid key by decision of the operator, against all statements so far. The other keys become
    /// former keys, and statements about them have no effect any more.
    pub fn decide(&mut self, key: PublicKey) {
        let mut others: Vec<PublicKey> = self.former.drain(..).collect();
        others.push(self.pinned);
        let pair = self.conflict.take();
        let contradicting = pair.iter().flat_map(|pair| [&pair.0, &pair.1]);
        for statement in self.steps.iter().chain(contradicting) {
            others.push(statement.old);
            others.extend(statement.new_key());
        }
        others.sort_unstable();
        others.dedup();
        others.retain(|other| *other != key);
        self.steps.clear();
        self.pinned = key;
        self.former = others;
    }

    /// Returns the key of the last followed statement; `None` if the nara retired.
    fn last_key(&self) -> Option<&PublicKey> {
        self.steps.last().map_or(Some(&self.pinned), Succession::new_key)
    }
}
