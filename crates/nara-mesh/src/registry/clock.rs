//! What is known about the clocks of peers.

use std::sync::{MutexGuard, PoisonError};

use nara_proto::clock_offset::{ClockEstimate, ClockFault, ClockOffset, ClockSample, MeshClock};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, Stamp};

use super::peer::now;
use super::{Peer, PeerEvent, PeerRegistry};
use crate::metrics::Counted;
use crate::{defaults, metrics};

/// The clock of one peer.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    estimate: ClockEstimate,
    /// Whether the peer compensates; `None`: as the client does.
    compensate: Option<bool>,
    /// Times of requests to this peer that were signed by its clock.
    stamp: Stamp,
    /// As long as it is too far from ours.
    skewed: Option<Counted>,
}

impl PeerClock {
    /// Takes up a sample. Returns the offset if this is the moment to warn of it.
    fn learn(&mut self, sample: ClockSample) -> Option<ClockOffset> {
        self.estimate.record(sample, now());
        let offset = self.estimate.offset(now())?;
        if self.skewed.is_none() && offset.at_least() >= defaults::CLOCK_WARNING {
            self.skewed = Some(Counted::new(metrics::CLOCKS_SKEWED));
            return Some(offset);
        }
        // Half of it, so that a clock at the border is not warned of again and again.
        if offset.magnitude() < defaults::CLOCK_WARNING / 2 {
            self.skewed = None;
        }
        None
    }

    /// When it is `now` here, the time of a request to the peer; `None`: the same as for all others.
    fn signing_time(&mut self, now_here: UnixMillis, by_default: bool) -> Option<UnixMillis> {
        if !self.compensate.unwrap_or(by_default) {
            return None;
        }
        let offset = self.estimate.offset(now())?;
        let useful = defaults::CLOCK_COMPENSATION..=FRESHNESS_WINDOW;
        useful
            .contains(&offset.magnitude())
            .then(|| self.stamp.next(offset.apply(now_here)))
    }
}

impl Peer {
    /// How far its clock is ahead of ours, by its verified answers of the last ten minutes; `None`: there is none.
    pub fn clock_offset(&self) -> Option<ClockOffset> {
        self.clock().as_ref()?.estimate.offset(now())
    }

    /// Whether requests to it are signed with the time of its clock instead of ours, if they are known to differ by
    /// [`defaults::CLOCK_COMPENSATION`] or more; `None`: as
    /// [`MeshClientBuilder::compensate_clocks`](crate::client::MeshClientBuilder::compensate_clocks) says.
    pub fn set_clock_compensation(&self, compensate: Option<bool>) {
        self.clock().get_or_insert_default().compensate = compensate;
    }

    /// The time of a request to it, if that is not simply ours.
    pub(crate) fn signing_time(&self, now_here: UnixMillis, by_default: bool) -> Option<UnixMillis> {
        self.clock().as_mut()?.signing_time(now_here, by_default)
    }

    fn clock(&self) -> MutexGuard<'_, Option<Box<PeerClock>>> {
        // Every method of a clock leaves it valid.
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerRegistry {
    /// Notes what a **verified** answer says about the clock of the peer whose key verified it. From
    /// [`defaults::CLOCK_WARNING`] on it is warned of, once.
    pub(crate) fn learn_clock(&self, peer: &Peer, key: &PublicKey, sample: ClockSample) {
        let mut clock = peer.clock();
        let state = clock.get_or_insert_default();
        let warning = state.learn(sample);
        let offset = state.estimate.offset(now());
        drop(clock);
        if let Some(offset) = offset {
            let mut mesh = self.mesh_clock();
            mesh.record(*key, offset.nanos(), now());
            let median = mesh.median_without(None, now());
            drop(mesh);
            if let Some(nanos) = median {
                ::metrics::gauge!(metrics::CLOCK_OFFSET_SECONDS).set(nanos as f64 / 1e9);
            }
        }
        if let Some(offset) = warning {
            let info = peer.info();
            let fault = match self.judge_clocks(Some(key), offset.nanos()) {
                Some(ClockFault::Ours) => "ours seems wrong",
                Some(ClockFault::Theirs) => "its clock seems wrong",
                None => "one of the two is wrong",
            };
            tracing::warn!(peer = %info, %offset, "the clocks are apart: {fault}");
            self.emit(PeerEvent::ClockSkew { peer: info, offset });
        }
    }

    /// Whose clock seems wrong when that of somebody is `nanos` nanoseconds ahead of ours, by the clocks of the peers
    /// that were called last; `key`: whose, if it is known.
    pub(crate) fn judge_clocks(&self, key: Option<&PublicKey>, nanos: i64) -> Option<ClockFault> {
        self.mesh_clock().judge(key, nanos, now())
    }

    fn mesh_clock(&self) -> MutexGuard<'_, MeshClock<PublicKey>> {
        // Every method of it leaves it valid.
        self.mesh_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
