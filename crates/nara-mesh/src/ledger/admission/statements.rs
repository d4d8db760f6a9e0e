//! Statements about keys that are never pruned, because a replaced key would become valid again without them.

use nara_proto::event::SyncEvent;
use nara_proto::time::UnixNanos;

use super::{Account, Admission, PRUNE_BATCH, Shelf};
use crate::ledger::rank::Rank;
use crate::ledger::retention::Standing;

/// Maximum number of never-pruned statements about the keys of one nara. A key changes hands a few times in its
/// life; further statements are charged like any other event.
const STATEMENTS_OF_ONE: usize = 16;

impl<S: Shelf> Admission<'_, S> {
    /// Returns whether a statement about a key was sent by the nara that it is about. Statements that this nara
    /// relies on are stored that way; an imported one has no sender and does not count.
    pub(super) fn is_its_own_word(&self, event: &SyncEvent) -> bool {
        self.origin.is_some_and(|origin| origin.as_str() == event.actor())
    }

    /// Returns whether one more statement about this nara may be exempt from pruning. If the room is full,
    /// statements about naras that are no longer known are evicted first.
    pub(super) fn has_room_for_statement(&mut self, name: &str) -> Result<bool, S::Error> {
        if self.shelf.charged(Account::Statements(name))?.events >= STATEMENTS_OF_ONE {
            return Ok(false);
        }
        let room = self.retention.policy.statements_room();
        let is_full = |shelf: &S| shelf.size(|rank| rank == Rank::STATEMENT).events >= room.events;
        if is_full(self.shelf) && !std::mem::replace(&mut self.statements_looked_through, true) {
            self.prune_forgotten_statements()?;
        }
        Ok(!is_full(self.shelf))
    }

    /// Removes the statements about keys of naras that are no longer known.
    fn prune_forgotten_statements(&mut self) -> Result<(), S::Error> {
        let mut after = (Rank::STATEMENT, UnixNanos::new(i64::MIN), i64::MIN);
        loop {
            let rungs = self.shelf.ladder(after, Rank(u8::MAX), PRUNE_BATCH)?;
            let Some(last) = rungs.last() else { return Ok(()) };
            after = last.place();
            for rung in rungs {
                if self.retention.known.standing(&rung.actor) == Standing::Stranger {
                    self.remove(&rung.held.place)?;
                }
            }
        }
    }
}
