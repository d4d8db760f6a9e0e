//! Statements about keys: those that are never pruned, because a replaced key comes back without them.

use nara_proto::event::SyncEvent;
use nara_proto::time::UnixNanos;

use super::{Account, Admission, PRUNE_BATCH, Shelf};
use crate::ledger::rank::Rank;
use crate::ledger::retention::Standing;

/// Statements about the keys of one nara that are never pruned. A key changes hands a few times in its life, and one who
/// changes it all the time has the others charged as anything else.
const STATEMENTS_OF_ONE: usize = 16;

impl<S: Shelf> Admission<'_, S> {
    /// Whether a statement about a key counts as told by the nara that it is about. Statements that this nara goes by are
    /// stored as such; an imported one has no teller, and does not count.
    pub(super) fn is_its_own_word(&self, event: &SyncEvent) -> bool {
        self.origin.is_some_and(|origin| origin.as_str() == event.actor())
    }

    /// Whether one more statement about this nara may be one that is never pruned. Statements about naras that are not known
    /// any more go where they take the room of others.
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

    /// Removes the statements about keys of naras that are not known any more.
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
