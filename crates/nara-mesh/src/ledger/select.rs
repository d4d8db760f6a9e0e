use nara_proto::event::SyncEvent;
use nara_proto::sync::{EventFilter, SyncMode};

use super::checked::without_trust;
use super::{EventStore, LedgerError, ReadLimit, Sample, Slice};

/// Returns the events that a sync request selects, in any of its modes, up to `bytes` bytes. `sample` gives the
/// parameters of a random sample of the given size.
pub(crate) async fn select(
    ledger: &dyn EventStore,
    filter: EventFilter,
    mode: &SyncMode,
    bytes: usize,
    sample: impl FnOnce(usize) -> Sample + Send,
) -> Result<Vec<SyncEvent>, LedgerError> {
    let limit = |events| ReadLimit::events(events).bytes(bytes);
    match *mode {
        SyncMode::Page { ref after, size, .. } => {
            let page = ledger.page(filter, after.clone(), limit(size)).await?;
            Ok(without_trust(page))
        }
        SyncMode::Recent { limit: events } => {
            let recent = ledger.recent(filter, limit(events)).await?;
            Ok(without_trust(recent))
        }
        SyncMode::Sample { size } => ledger.sample(filter, sample(size)).await,
        SyncMode::Legacy {
            since,
            slice_index,
            slice_total,
            max_events,
        } => {
            let slice = Slice {
                since,
                slice_index,
                slice_total,
                limit: limit(max_events),
            };
            ledger.slice(filter, slice).await
        }
        ref mode => unreachable!("{mode:?} is not one of the four modes"),
    }
}
