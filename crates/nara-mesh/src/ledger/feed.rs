use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, LedgerEpoch, MAX_STREAM_MESSAGE, kind};
use sse_stream::Sse;
use tokio::sync::broadcast;

/// Batches that a listener may lag behind; a slower listener reads from the ledger.
const BATCHES: usize = 128;

/// Maximum number of events in a batch.
const BATCH_EVENTS: usize = 64;

/// Maximum size of a batch in bytes, as messages of a stream. Together with [`BATCHES`] it bounds the memory of
/// the feed.
const BATCH_BYTES: usize = MAX_STREAM_MESSAGE;

/// An event of a ledger and its position in the order of arrival.
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// The position: increases with each stored event and is never reused.
    pub seq: i64,
    /// The event.
    pub event: SyncEvent,
    /// The peer that sent it, if any.
    pub origin: Option<NaraName>,
    /// The trust in the event.
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

    /// Returns the event as a message of a stream.
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

/// The result of [`ArrivalLog::arrived_after`](super::ArrivalLog::arrived_after).
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrivals {
    /// The events, in the order of arrival.
    pub events: Vec<Arrival>,
    /// The position at which the search ended: continue here.
    pub end: i64,
    /// Whether the search reached the newest event of the ledger.
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
    /// The newest position before these events.
    pub(super) from: i64,
    /// The newest position including these events. Not every position in between has an event.
    pub(super) to: i64,
    pub(super) arrivals: Vec<Arc<Arrival>>,
}

impl EventFeed {
    pub(super) fn new(epoch: LedgerEpoch) -> Self {
        let (sender, _) = broadcast::channel(BATCHES);
        Self { epoch, sender }
    }

    /// Returns the epoch of the ledger, which identifies it for as long as its positions keep their meaning.
    pub fn epoch(&self) -> LedgerEpoch {
        self.epoch
    }

    /// Returns whether the feed has listeners; without listeners nothing is encoded.
    pub(super) fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<FeedBatch>> {
        self.sender.subscribe()
    }

    /// Announces the events stored between two positions. Call it in ascending order of positions.
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
                // Leave a gap between batches: listeners read this event from the ledger.
                from = arrival.seq;
                continue;
            }
            bytes += size;
            batch.push(arrival);
        }
        self.send(from, to, batch);
    }

    fn send(&self, from: i64, to: i64, arrivals: Vec<Arc<Arrival>>) -> i64 {
        // An error means that there are no listeners.
        let _ = self.sender.send(Arc::new(FeedBatch { from, to, arrivals }));
        to
    }
}
