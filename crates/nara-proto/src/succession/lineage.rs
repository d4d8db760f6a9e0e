//! What follows from all statements about one name.

use super::Succession;
use crate::identity::{NaraName, PublicKey};

/// The keys of one name, from the one that was pinned here to the one that holds now.
///
/// A statement about the current key is followed. A second, different statement about the same key is a conflict: its
/// holder or a thief made one of them, and nobody can tell which. Nobody is followed then, whichever came first, until
/// the operator [decides](Self::decide). Time plays no part: the order in which statements arrive, or were made, makes
/// no difference to where a lineage ends, and one that is repeated changes nothing. A key that was replaced does not
/// come back: a statement that leads back to it is a conflict, too, and so is one rotation more than
/// [`MAX_STEPS`](Self::MAX_STEPS).
#[derive(Clone, Debug)]
pub struct Lineage {
    name: NaraName,
    /// The key that was pinned, by first use or by the operator.
    pinned: PublicKey,
    /// What was followed: each replaces the key of the one before, the first `pinned`.
    steps: Vec<Succession>,
    /// Two statements that are not both followed.
    conflict: Option<Box<(Succession, Succession)>>,
    /// Keys of this name that were replaced before `pinned` was, or that the operator decided about.
    former: Vec<PublicKey>,
}

/// Which key holds for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// There are two statements of which at most one can be true, or more than are followed: no key holds.
    Conflict,
    /// This key holds.
    Holds(PublicKey),
    /// The nara retired: no key holds.
    Retired,
}

/// What a statement changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It contradicts another one: no key holds any more, and the operator must decide. Also if that was so before.
    Conflict,
    /// This key holds from now on. Everything that was opened on the old one must end.
    Followed(PublicKey),
    /// Nothing: it is known, or about a key that was replaced before.
    Known,
    /// No key holds any more. Everything that was opened on the old one must end.
    Retired,
}

/// A statement that is not about a key of this lineage. It changed nothing. It may be of use later, when the statement
/// before it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the statement is not about a key that is known for this name")]
pub struct Unrelated;

impl Lineage {
    /// The most rotations that are followed without the operator, and the most former keys that are remembered. Nobody
    /// rotates that often. A retirement is followed behind them, too.
    pub const MAX_STEPS: usize = 64;

    /// The lineage of a name whose key was just pinned.
    pub fn new(name: NaraName, pinned: PublicKey) -> Self {
        Self {
            name,
            pinned,
            steps: Vec::new(),
            conflict: None,
            former: Vec::new(),
        }
    }

    /// Takes in a statement.
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
            // It was replaced by the key that was pinned here.
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

    /// Which key holds now.
    pub fn state(&self) -> KeyState {
        if self.conflict.is_some() {
            KeyState::Conflict
        } else {
            self.last_key()
                .map_or(KeyState::Retired, |key| KeyState::Holds(*key))
        }
    }

    /// Whether a key was this name's and is not any more: whatever is signed with it is refused.
    pub fn is_replaced(&self, key: &PublicKey) -> bool {
        self.former.contains(key) || self.steps.iter().any(|step| step.old == *key)
    }

    /// Whether a key is or was this name's by what was pinned and stated, or would be by one side of the conflict.
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

    /// The two statements of the conflict: what to show to the operator.
    pub fn conflict(&self) -> Option<(&Succession, &Succession)> {
        self.conflict.as_deref().map(|(one, other)| (one, other))
    }

    /// The statements that were followed, in order: what to pass on to others, and to keep.
    pub fn steps(&self) -> &[Succession] {
        &self.steps
    }

    /// The operator decides that `key` holds, whatever the statements so far say. The other keys are former ones, and
    /// what is stated about them changes nothing any more.
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

    /// The key at the end of what was followed; `None` if the nara retired.
    fn last_key(&self) -> Option<&PublicKey> {
        self.steps.last().map_or(Some(&self.pinned), Succession::new_key)
    }
}
