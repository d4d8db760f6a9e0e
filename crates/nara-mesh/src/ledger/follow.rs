use std::collections::VecDeque;
use std::sync::Arc;

use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch, MAX_STREAM_MESSAGE};
use nara_proto::sync::EventFilter;
use tokio::sync::broadcast;

use super::feed::FeedBatch;
use super::{Arrival, ArrivalLog, EventFeed, LedgerError, ReadLimit};
use crate::offload::to_its_end;

/// Page size of one read from the ledger while catching up.
const PAGE: ReadLimit = ReadLimit::events(64).bytes(MAX_STREAM_MESSAGE);

/// Follows a ledger: yields every event after a position, in the order of arrival, exactly once, without end.
///
/// Stored events come from the ledger, later ones from its feed. A follower that is too slow for the feed reads
/// from the ledger again, at its own pace: it blocks no one, and misses only events that the ledger pruned
/// meanwhile.
#[derive(Debug)]
pub struct Follower {
    ledger: Arc<dyn ArrivalLog>,
    listener: broadcast::Receiver<Arc<FeedBatch>>,
    epoch: LedgerEpoch,
    seq: i64,
    filter: EventFilter,
    /// The peer whose events are skipped, and the position after which they are.
    except: Option<(NaraName, i64)>,
    /// Whether the next events come from the ledger.
    behind: bool,
}

/// The items of [`Follower::next`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Followed {
    /// At least one event.
    Events(VecDeque<Arc<Arrival>>),
    /// All stored events were returned; from now on events come as they arrive.
    CaughtUp,
    /// The follower was too slow and reads from the ledger again.
    Lagged,
}

impl Follower {
    /// Follows `ledger`, starting after the position `after`.
    pub fn new(ledger: Arc<dyn ArrivalLog>, after: i64, filter: EventFilter) -> Self {
        // Subscribe before the first read, so that no event is missed in between.
        let feed: &EventFeed = ledger.feed();
        Self {
            listener: feed.listen(),
            epoch: feed.epoch(),
            ledger,
            seq: after,
            filter,
            except: None,
            behind: true,
        }
    }

    /// Skips events received from this peer after the position `behind`.
    #[must_use]
    pub fn except(mut self, origin: NaraName, behind: i64) -> Self {
        self.except = Some((origin, behind));
        self
    }

    /// Returns the position after everything that was returned or filtered out.
    pub fn cursor(&self) -> ArrivalCursor {
        ArrivalCursor::new(self.epoch, self.seq)
    }

    /// Waits for the next item. Cancel safe.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read; the next call tries again.
    pub async fn next(&mut self) -> Result<Followed, LedgerError> {
        self.next_holding(()).await
    }

    /// Returns whether the next item comes from the ledger, that is, without waiting for new events.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Like [`Follower::next`]; keeps `held` alive until a read of the ledger ends, even if this future is
    /// dropped.
    pub(crate) async fn next_holding<T: Send + 'static>(&mut self, held: T) -> Result<Followed, LedgerError> {
        let mut held = held;
        loop {
            if self.behind {
                let (ledger, filter, seq) = (self.ledger.clone(), self.filter.clone(), self.seq);
                let read = async move { (ledger.arrived_after(filter, seq, PAGE).await, held) };
                let page;
                (page, held) = to_its_end(Box::pin(read), ()).await;
                let page = page?;
                self.seq = page.end.max(self.seq);
                self.behind = !page.is_newest;
                let events: VecDeque<_> = page
                    .events
                    .into_iter()
                    .filter(|arrival| self.is_for_us(arrival))
                    .map(Arc::new)
                    .collect();
                if !events.is_empty() {
                    // The next call reports that the follower caught up.
                    self.behind = true;
                    return Ok(Followed::Events(events));
                }
                if !self.behind {
                    return Ok(Followed::CaughtUp);
                }
                continue;
            }
            match self.listener.recv().await {
                Ok(batch) => {
                    if batch.to <= self.seq {
                        continue;
                    }
                    if batch.from > self.seq {
                        // Another process stored an event, or the event is too large for the feed.
                        self.behind = true;
                        continue;
                    }
                    let new = batch.arrivals.iter().filter(|arrival| arrival.seq > self.seq);
                    let events: VecDeque<_> = new
                        .filter(|arrival| self.filter.matches(&arrival.event) && self.is_for_us(arrival))
                        .cloned()
                        .collect();
                    self.seq = batch.to;
                    if !events.is_empty() {
                        return Ok(Followed::Events(events));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.behind = true;
                    return Ok(Followed::Lagged);
                }
                // Unreachable while we hold the ledger.
                Err(broadcast::error::RecvError::Closed) => return Err(LedgerError::Closed),
            }
        }
    }

    /// Makes the next call read from the ledger, in case another process stored events.
    pub fn look(&mut self) {
        self.behind = true;
    }

    fn is_for_us(&self, arrival: &Arrival) -> bool {
        let Some((origin, behind)) = &self.except else {
            return true;
        };
        arrival.seq <= *behind || arrival.origin.as_ref() != Some(origin)
    }
}
