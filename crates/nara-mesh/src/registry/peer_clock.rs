//! What is known about the clock of one peer.

use std::time::{Duration, Instant};

use nara_proto::clock_offset::{ClockEstimate, ClockOffset, ClockSample, MeshClock};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, Stamp};

use crate::clock::{ClockStep, monotonic_now as now};
use crate::metrics::Counted;
use crate::{defaults, metrics};

/// What all peers say about the clock of this machine.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    pub(super) mesh: MeshClock<PublicKey>,
    /// The same, with what peers say that have proven nothing: for metrics.
    pub(super) shown: MeshClock<PublicKey>,
    /// When somebody set it last.
    pub(super) step: Option<ClockStep>,
}

impl Clocks {
    /// Notes how far the clock of a peer is from ours, as it has proven.
    pub(super) fn record(&mut self, key: PublicKey, nanos: i64, at: Instant) {
        self.mesh.record(key, nanos, at);
        self.shown.record(key, nanos, at);
    }

    /// Forgets the clock of a peer.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        self.mesh.forget(key);
        self.shown.forget(key);
    }

    /// Forgets what all peers said.
    pub(super) fn forget_all(&mut self) {
        self.mesh = MeshClock::default();
        self.shown = MeshClock::default();
    }
}

/// The clock of one peer.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    estimate: ClockEstimate,
    /// Whether the peer compensates; `None`: as the client does.
    compensate: Option<bool>,
    /// Whether the last request was signed by its clock.
    compensated: bool,
    /// Times of requests to this peer that were signed by its clock.
    stamp: Stamp,
    /// As long as it is too far from ours.
    skewed: Option<Counted>,
    /// The same by what the peer says, while nothing is proven.
    said_skewed: Option<Counted>,
}

impl PeerClock {
    /// Takes up a sample. Returns the offset, and whether this is the moment to warn of it.
    pub(super) fn learn(&mut self, sample: ClockSample, at: Instant) -> Option<(ClockOffset, bool)> {
        let offset = self.estimate.record(sample, at)?;
        self.said_skewed = None;
        let warns = self.skewed.is_none() && offset.at_least() >= defaults::CLOCK_WARNING;
        if warns {
            self.skewed = Some(Counted::new(metrics::CLOCKS_SKEWED));
        } else if offset.magnitude() < defaults::CLOCK_WARNING / 2 {
            // Half of it, so that a clock at the border is not warned of again and again.
            self.skewed = None;
        }
        Some((offset, warns))
    }

    /// Takes up how far it is from ours by what the peer says. Returns whether that counts: nothing is proven.
    pub(super) fn was_said(&mut self, apart: Duration) -> bool {
        if self.offset().is_some() {
            return false;
        }
        if apart < defaults::CLOCK_WARNING || self.skewed.is_some() {
            self.said_skewed = None;
        } else {
            self.said_skewed
                .get_or_insert_with(|| Counted::new(metrics::CLOCKS_SKEWED));
        }
        true
    }

    /// When it is `now` here, the time of a request to the peer; `None`: the same as for all others.
    pub(super) fn signing_time(&mut self, now_here: UnixMillis, by_default: bool) -> Option<UnixMillis> {
        self.compensated = false;
        if !self.compensate.unwrap_or(by_default) {
            return None;
        }
        let offset = self.estimate.offset(now())?;
        let useful = defaults::CLOCK_COMPENSATION..=FRESHNESS_WINDOW;
        self.compensated = useful.contains(&offset.magnitude());
        self.compensated.then(|| self.stamp.next(offset.apply(now_here)))
    }

    /// Notes that a request was refused for its time. If that was the peer's time, its clock was set since it was learned.
    pub(super) fn refused(&mut self) {
        if self.compensated {
            self.forget();
        }
    }

    /// Forgets the offset: the next answer tells it anew.
    pub(super) fn forget(&mut self) {
        self.estimate = ClockEstimate::default();
        self.skewed = None;
        self.said_skewed = None;
    }

    /// How far it is ahead of ours; `None`: not known.
    pub(super) fn offset(&self) -> Option<ClockOffset> {
        self.estimate.offset(now())
    }

    /// Whether the peer compensates; `None`: as the client does.
    pub(super) fn set_compensation(&mut self, compensate: Option<bool>) {
        self.compensate = compensate;
    }
}
