use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch, MAX_STREAM_MESSAGE, kind};
use sse_stream::Sse;
use tokio::sync::broadcast;

/// Batches that a listener may lag behind; beyond that it reads from the ledger.
const BATCHES: usize = 128;

/// The most events of one batch.
const BATCH_EVENTS: usize = 64;

/// The most bytes of one batch, as messages of a stream. With [`BATCHES`] it bounds the memory of the feed.
const BATCH_BYTES: usize = MAX_STREAM_MESSAGE;

/// An event of a ledger and its place in the order of arrival.
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// Its place: rises with each stored event, and is never reused.
    pub seq: i64,
    /// The event.
    pub event: SyncEvent,
    /// The peer that it was received from, if any.
    pub origin: Option<NaraName>,
    /// How far the event can be trusted.
    pub trust: EventTrust,
    /// The encoded stream message, shared by all subscribers.
    message: OnceLock<Bytes>,
}

impl Arrival {
    pub(super) fn new(seq: i64, event: SyncEvent, origin: Option<NaraName>, trust: EventTrust) -> Self {
        Self {
            seq,
            event,
            origin,
            trust,
            message: OnceLock::new(),
        }
    }

    /// The event as a message of a stream.
    pub(crate) fn message(&self, epoch: LedgerEpoch) -> Bytes {
        let make = || {
            Sse::default()
                .event(kind::EVENT)
                .id(ArrivalCursor::new(epoch, self.seq).to_string())
                .data(go_json::to_string(&self.event))
                .encode()
                .expect("neither type nor id has a line break")
        };
        self.message.get_or_init(make).clone()
    }
}

/// What [`ArrivalLog::arrived_after`](super::ArrivalLog::arrived_after) found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrivals {
    /// The events, in the order in which they came.
    pub events: Vec<Arrival>,
    /// How far the search got: where to continue.
    pub end: i64,
    /// Whether that is the newest event of the ledger.
    pub is_newest: bool,
}

/// Announces the events of a ledger after they are stored. Clones share one feed.
#[derive(Clone, Debug)]
pub struct EventFeed {
    epoch: LedgerEpoch,
    sender: broadcast::Sender<Arc<FeedBatch>>,
}

/// Events that were stored together.
#[derive(Debug)]
pub(super) struct FeedBatch {
    /// The newest place before these.
    pub(super) from: i64,
    /// The newest place with these. Not every place in between has an event.
    pub(super) to: i64,
    pub(super) arrivals: Vec<Arc<Arrival>>,
}

impl EventFeed {
    pub(super) fn new(epoch: LedgerEpoch) -> Self {
        let (sender, _) = broadcast::channel(BATCHES);
        Self { epoch, sender }
    }

    /// Names the ledger for as long as its places mean the same.
    pub fn epoch(&self) -> LedgerEpoch {
        self.epoch
    }

    /// Whether the feed has listeners; without any, nothing is encoded.
    pub(super) fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<FeedBatch>> {
        self.sender.subscribe()
    }

    /// Announces the events stored between two places. Call it in the order of places.
    pub(super) fn publish(&self, mut from: i64, to: i64, arrivals: impl IntoIterator<Item = Arc<Arrival>>) {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for arrival in arrivals {
            let size = arrival.message(self.epoch).len();
            if !batch.is_empty() && (batch.len() == BATCH_EVENTS || bytes + size > BATCH_BYTES) {
                from = self.send(from, arrival.seq - 1, std::mem::take(&mut batch));
                bytes = 0;
            }
            if size > BATCH_BYTES {
                // A place between batches: listeners look it up.
                from = arrival.seq;
                continue;
            }
            bytes += size;
            batch.push(arrival);
        }
        self.send(from, to, batch);
    }

    fn send(&self, from: i64, to: i64, arrivals: Vec<Arc<Arrival>>) -> i64 {
        // Nobody listens: nothing to do.
        let _ = self.sender.send(Arc::new(FeedBatch { from, to, arrivals }));
        to
    }
}
