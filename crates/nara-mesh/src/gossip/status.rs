use crate::client::StreamState;
use crate::ledger::Insertion;
use crate::metrics;

/// What gossip is doing and has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipStatus {
    /// The peers that are listened to, and those that are known to have no streams; by what they are called.
    pub peers: Vec<GossipPeer>,
    /// Events from all peers since the start, over streams and zines.
    pub total: EventCounts,
    /// Zines that were exchanged.
    pub zines: u64,
    /// Zines that could not be exchanged.
    pub failed_zines: u64,
}

/// A peer that gossip has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipPeer {
    /// Its name; its id while the name is not known.
    pub peer: String,
    /// How its events come.
    pub link: GossipLink,
    /// Its events over the present subscription.
    pub events: EventCounts,
}

/// How the events of a peer come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GossipLink {
    /// Over a stream.
    Stream(StreamState),
    /// It has no streams: now and then with a zine.
    Zines,
}

/// What became of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventCounts {
    /// All that came.
    pub received: u64,
    /// Those that were new here and are stored.
    pub new: u64,
    /// Those that were here already.
    pub duplicate: u64,
    /// Those that verify, but that this nara does not keep or was told to forget.
    pub not_kept: u64,
    /// Those that must not be stored: forged, malformed, or not signed by whom they claim.
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

    /// Tells the metrics of events that came just now.
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
