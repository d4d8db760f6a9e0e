//! The clock of one peer.

use std::time::{Duration, Instant};

use nara_proto::clock_offset::{ClockEstimate, ClockOffset, ClockSample, MeshClock};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, Stamp};

use crate::clock::{ClockStep, monotonic_now as now};
use crate::metrics::Counted;
use crate::{defaults, metrics};

/// What all peers tell about the clock of this machine.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    pub(super) mesh: MeshClock<PublicKey>,
    /// Like `mesh`, plus unproven claims of peers: for metrics.
    pub(super) shown: MeshClock<PublicKey>,
    /// When it was last set.
    pub(super) step: Option<ClockStep>,
}

impl Clocks {
    /// Records the proven offset of the clock of a peer.
    pub(super) fn record(&mut self, key: PublicKey, nanos: i64, at: Instant) {
        self.mesh.record(key, nanos, at);
        self.shown.record(key, nanos, at);
    }

    /// Discards the offset of a peer.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        self.mesh.forget(key);
        self.shown.forget(key);
    }

    /// Discards the offsets of all peers.
    pub(super) fn forget_all(&mut self) {
        self.mesh = MeshClock::default();
        self.shown = MeshClock::default();
    }
}

/// The clock of one peer.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    estimate: ClockEstimate,
    /// Whether to compensate for this peer; `None` for the default of the client.
    compensate: Option<bool>,
    /// Whether the last request was signed with the time of the peer.
    compensated: bool,
    /// Timestamps of requests to this peer signed with its time.
    stamp: Stamp,
    /// Held while its clock is too far from ours.
    skewed: Option<Counted>,
    /// Held while its clock claims to be too far from ours, and no offset is proven.
    said_skewed: Option<Counted>,
}

impl PeerClock {
    /// Records a sample. Returns the offset, and whether to warn about it now.
    pub(super) fn learn(&mut self, sample: ClockSample, at: Instant) -> Option<(ClockOffset, bool)> {
        let offset = self.estimate.record(sample, at)?;
        self.said_skewed = None;
        let warns = self.skewed.is_none() && offset.at_least() >= defaults::CLOCK_WARNING;
        if warns {
            self.skewed = Some(Counted::new(metrics::CLOCKS_SKEWED));
        } else if offset.magnitude() < defaults::CLOCK_WARNING / 2 {
            // Hysteresis, so that a clock at the threshold does not cause repeated warnings.
            self.skewed = None;
        }
        Some((offset, warns))
    }

    /// Records a claimed offset. Returns whether it counts, that is, no offset is proven.
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

    /// Returns the timestamp for a request to the peer when it is `now_here` here; `None` for the regular one.
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

    /// Records that a request was refused because of its time. If it had the peer's time, the peer's clock was
    /// set meanwhile.
    pub(super) fn refused(&mut self) {
        if self.compensated {
            self.forget();
        }
    }

    /// Discards the offset; the next answer provides a new one.
    pub(super) fn forget(&mut self) {
        self.estimate = ClockEstimate::default();
        self.skewed = None;
        self.said_skewed = None;
    }

    /// Returns how far it is ahead of ours; `None` if unknown.
    pub(super) fn offset(&self) -> Option<ClockOffset> {
        self.estimate.offset(now())
    }

    /// Sets whether to compensate; `None` for the default of the client.
    pub(super) fn set_compensation(&mut self, compensate: Option<bool>) {
        self.compensate = compensate;
    }
}
