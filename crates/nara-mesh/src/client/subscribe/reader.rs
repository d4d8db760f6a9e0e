use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};

use super::error::StreamProblem;

/// Where in a stream its reader is.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) server: NaraName,
    pub(super) epoch: LedgerEpoch,
    pub(super) last: i64,
    /// The stream has caught up when it is at this place.
    pub(super) caught_up_at: i64,
    pub(super) batch: Vec<(ArrivalCursor, SyncEvent)>,
    pub(super) bytes: usize,
}

impl Reader {
    /// Notes the place of a message. Places of events rise, those of other messages do not fall.
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
