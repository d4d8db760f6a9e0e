use std::sync::Arc;
use std::time::Duration;

use nara_proto::stream::{ArrivalCursor, StreamRequest};
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixNanos;

use super::pause::Bounds;
use crate::ledger::Ledger;

/// Options of a subscription. The default: every event that arrives from now on, not stored.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SubscribeOptions {
    pub(super) request: StreamRequest,
    pub(super) cursor: Option<ArrivalCursor>,
    pub(super) ledger: Option<Arc<dyn Ledger>>,
    pub(super) forget: bool,
    pub(super) reconnect: Bounds,
    pub(super) poll: Option<Duration>,
}

impl SubscribeOptions {
    /// Sets the filter of events.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.request.filter = filter;
        self
    }

    /// Starts with the first arrival that has this time or a later one, if there is no cursor or the peer has a
    /// new ledger.
    pub fn since(mut self, since: UnixNanos) -> Self {
        self.request.since = Some(since);
        self
    }

    /// Starts with the oldest event of the peer, if there is no cursor.
    pub fn oldest(self) -> Self {
        self.since(UnixNanos::new(i64::MIN))
    }

    /// Resumes after the cursor of an event; takes precedence over the stored one.
    pub fn resume(mut self, cursor: ArrivalCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Stores events in this ledger, with the peer as origin, before they are returned, and stores the cursor of
    /// the stream per peer and filter. The next subscription resumes there. The cursor is written at most once
    /// per 256 events or 1 s, and always after the events before it: after a crash a few events come again, and
    /// none is missing.
    pub fn into_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Ignores the stored cursor of the stream.
    pub fn from_the_start(mut self) -> Self {
        self.forget = true;
        self
    }

    /// Polls the newest events of a peer without streams at this interval, instead of ending with
    /// [`StreamError::Unsupported`](super::StreamError::Unsupported): for v1 peers. Each event is returned once,
    /// oldest first, without a cursor. [`SubscribeOptions::since`] selects among the events that exist at the
    /// start. If more than 500 events arrive between two polls, the oldest are missed.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = Some(every);
        self
    }

    /// Sets the shortest and the longest pause before reconnecting, by default 200 ms and 30 s. The pause doubles
    /// with each failure, with jitter. A `retry:` of the peer is clamped to the same bounds.
    pub fn reconnect(mut self, min: Duration, max: Duration) -> Self {
        self.reconnect = Bounds { min, max };
        self
    }
}
