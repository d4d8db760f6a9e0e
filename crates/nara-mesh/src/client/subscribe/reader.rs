use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};

use super::error::StreamProblem;

/// The position of a reader in a stream.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) server: NaraName,
    pub(super) epoch: LedgerEpoch,
    pub(super) last: i64,
    /// The position at which the stream has caught up.
    pub(super) caught_up_at: i64,
    pub(super) batch: Vec<(ArrivalCursor, SyncEvent)>,
    pub(super) bytes: usize,
}

impl Reader {
    /// Advances to the position of a message. Positions of events strictly increase; positions of other messages
    /// do not decrease.
    pub(super) fn advance(&mut self, cursor: ArrivalCursor, rising: bool) -> Result<(), StreamProblem> {
        if cursor.epoch != self.epoch {
            return Err(StreamProblem::ForeignCursor {
                expected: self.epoch.to_string(),
                got: cursor.epoch.to_string(),
            });
        }
        if cursor.seq < self.last || (rising && cursor.seq == self.last) {
            return Err(StreamProblem::Order {
                last: self.last,
                got: cursor.seq,
            });
        }
        self.last = cursor.seq;
        Ok(())
    }
}
