use crate::client::StreamState;
use crate::ledger::Insertion;
use crate::metrics;

/// The status of gossip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipStatus {
    /// The subscribed peers, the peers known to have no streams, and the peers that failed last; by label.
    pub peers: Vec<GossipPeer>,
    /// Events from all peers since the start, over streams and zines.
    pub total: EventCounts,
    /// Zines exchanged.
    pub zines: u64,
    /// Zine exchanges that failed.
    pub failed_zines: u64,
}

/// A peer of gossip.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipPeer {
    /// Its name, or its id while the name is unknown.
    pub peer: String,
    /// How its events arrive.
    pub link: GossipLink,
    /// Its events during the present subscription.
    pub events: EventCounts,
}

/// How the events of a peer arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GossipLink {
    /// Over a stream.
    Stream(StreamState),
    /// By zines: the peer has no streams.
    Zines,
    /// Not at all: the last attempt failed; it is retried after a pause.
    Failing {
        /// The reason, for people.
        reason: String,
    },
}

/// Outcomes of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// All received events.
    pub received: u64,
    /// New events, stored.
    pub new: u64,
    /// Events that were already stored.
    pub duplicate: u64,
    /// Verified events that the ledger does not keep or was told to forget.
    pub not_kept: u64,
    /// Refused events: forged, malformed, or not signed by their claimed emitter.
    pub refused: u64,
}

impl EventCounts {
    pub(super) fn count(&mut self, insertion: Insertion) {
        self.received += 1;
        match insertion {
            Insertion::Stored => self.new += 1,
            Insertion::Duplicate => self.duplicate += 1,
            Insertion::Forgotten | Insertion::NotRetained => self.not_kept += 1,
        }
    }

    pub(super) fn count_refused(&mut self) {
        self.received += 1;
        self.refused += 1;
    }

    /// Adds new events to the metrics.
    pub(super) fn note(&self) {
        for (outcome, count) in [
            ("new", self.new),
            ("duplicate", self.duplicate),
            ("not_kept", self.not_kept),
            ("refused", self.refused),
        ] {
            if count > 0 {
                ::metrics::counter!(metrics::GOSSIP_EVENTS, "outcome" => outcome).increment(count);
            }
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.received += other.received;
        self.new += other.new;
        self.duplicate += other.duplicate;
        self.not_kept += other.not_kept;
        self.refused += other.refused;
    }
}
