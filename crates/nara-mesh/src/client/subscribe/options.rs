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
    /// Which events.
    pub fn filter(mut self, filter: EventFilter) -> Self {
        self.request.filter = filter;
        self
    }

    /// Without a cursor, or if the peer has a new ledger: begins with the first event in the order of arrival that
    /// has this time or a later one.
    pub fn since(mut self, since: UnixNanos) -> Self {
        self.request.since = Some(since);
        self
    }

    /// Without a cursor: begins with the oldest event of the peer.
    pub fn oldest(self) -> Self {
        self.since(UnixNanos::new(i64::MIN))
    }

    /// Resumes behind the cursor of an event; it takes precedence over the stored one.
    pub fn resume(mut self, cursor: ArrivalCursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Stores events in this ledger, with the peer as origin, before they are returned, and stores how far the
    /// stream was read, for each peer and filter. The next subscription resumes there. The place is written at most
    /// once in 256 events or 1 s, and always behind
    /// the events before it: after a crash a few come again, and none is missing.
    pub fn into_ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// Ignores the stored place of the stream.
    pub fn from_the_start(mut self) -> Self {
        self.forget = true;
        self
    }

    /// Fetches the newest events of a peer that has no streams, this often, instead of ending with
    /// [`StreamError::Unsupported`](super::StreamError::Unsupported): for v1 peers. An event is given out once, oldest
    /// first, without a cursor. Of those that the peer has at the beginning, [`SubscribeOptions::since`] says which
    /// count. If more than 500 events arrive between two polls, the oldest of them are missed.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = Some(every);
        self
    }

    /// The shortest and the longest pause before connecting again, by default 200 ms and 30 s. It is doubled after each
    /// failure, with jitter. A `retry:` of the peer counts within the same bounds.
    pub fn reconnect(mut self, min: Duration, max: Duration) -> Self {
        self.reconnect = Bounds { min, max };
        self
    }
}
