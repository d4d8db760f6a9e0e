//! The known offset of one peer's clock.

use std::time::{Duration, Instant};

use nara_proto::clock_offset::{ClockEstimate, ClockOffset, ClockSample, MeshClock};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, Stamp};

use crate::clock::{ClockStep, monotonic_now as now};
use crate::metrics::Counted;
use crate::{defaults, metrics};

/// The clocks of all peers, compared with the clock of this machine.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    pub(super) mesh: MeshClock<PublicKey>,
    /// The same, including unproven claims of peers: for metrics.
    pub(super) shown: MeshClock<PublicKey>,
    /// The last step of this machine's clock.
    pub(super) step: Option<ClockStep>,
}

impl Clocks {
    /// Records the proven offset of a peer's clock.
    pub(super) fn record(&mut self, key: PublicKey, nanos: i64, at: Instant) {
        self.mesh.record(key, nanos, at);
        self.shown.record(key, nanos, at);
    }

    /// Forgets the clock of a peer.
    pub(super) fn forget(&mut self, key: &PublicKey) {
        self.mesh.forget(key);
        self.shown.forget(key);
    }

    /// Forgets the clocks of all peers.
    pub(super) fn forget_all(&mut self) {
        self.mesh = MeshClock::default();
        self.shown = MeshClock::default();
    }
}

/// The clock of one peer.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    estimate: ClockEstimate,
    /// Whether this peer's clock is compensated; `None` for the client's setting.
    compensate: Option<bool>,
    /// Whether the last request was signed with the peer's time.
    compensated: bool,
    /// The signing times of requests that were signed with the peer's time.
    stamp: Stamp,
    /// Set while the offset is too large.
    skewed: Option<Counted>,
    /// The same for the claimed offset, while none is proven.
    claimed_skewed: Option<Counted>,
}

impl PeerClock {
    /// Adds a sample. Returns the offset, and whether to warn of it now.
    pub(super) fn learn(&mut self, sample: ClockSample, at: Instant) -> Option<(ClockOffset, bool)> {
        let offset = self.estimate.record(sample, at)?;
        self.claimed_skewed = None;
        let warns = self.skewed.is_none() && offset.at_least() >= defaults::CLOCK_WARNING;
        if warns {
            self.skewed = Some(Counted::new(metrics::CLOCKS_SKEWED));
        } else if offset.magnitude() < defaults::CLOCK_WARNING / 2 {
            // Half of the threshold, so that a clock near it does not cause repeated warnings.
            self.skewed = None;
        }
        Some((offset, warns))
    }

    /// Records the claimed offset. Returns whether it counts, because none is proven.
    pub(super) fn record_claim(&mut self, apart: Duration) -> bool {
        if self.offset().is_some() {
            return false;
        }
        if apart < defaults::CLOCK_WARNING || self.skewed.is_some() {
            self.claimed_skewed = None;
        } else {
            self.claimed_skewed
                .get_or_insert_with(|| Counted::new(metrics::CLOCKS_SKEWED));
        }
        true
    }

    /// Returns the signing time of a request to the peer at our time `now_here`; `None` for our own time.
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

    /// Records that a request was refused because of its time. If it was signed with the peer's time, the peer's clock
    /// was set since it was learned.
    pub(super) fn refused(&mut self) {
        if self.compensated {
            self.forget();
        }
    }

    /// Forgets the offset; the next answer provides a new one.
    pub(super) fn forget(&mut self) {
        self.estimate = ClockEstimate::default();
        self.skewed = None;
        self.claimed_skewed = None;
    }

    /// Returns how far it is ahead of ours; `None` if unknown.
    pub(super) fn offset(&self) -> Option<ClockOffset> {
        self.estimate.offset(now())
    }

    /// Sets whether this peer's clock is compensated; `None` for the client's setting.
    pub(super) fn set_compensation(&mut self, compensate: Option<bool>) {
        self.compensate = compensate;
    }
}
