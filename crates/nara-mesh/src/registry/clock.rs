//! The clocks of all peers, and what they say about ours.

use std::sync::{MutexGuard, PoisonError};

use nara_proto::clock_offset::{ClockFault, ClockSample, MeshClock};
use nara_proto::identity::PublicKey;

use super::peer_clock::Clocks;
use super::{Peer, PeerEvent, PeerRegistry};
use crate::clock::{ClockStep, monotonic_now as now};
use crate::metrics;
use crate::seldom::warn_seldom;

impl PeerRegistry {
    /// Notes what a **verified** answer says about the clock of the peer whose key verified it. From
    /// [`defaults::CLOCK_WARNING`] on it is warned of, once.
    pub(crate) fn learn_clock(&self, peer: &Peer, key: &PublicKey, sample: ClockSample) {
        self.seen(peer);
        let at = now();
        peer.note_alive(at);
        let learned = peer.clock().learn(sample, at);
        let Some((offset, warns)) = learned else { return };
        let mut clocks = self.clocks();
        clocks.mesh.record(*key, offset.nanos(), at);
        let median = clocks.mesh.median_without(None, at);
        drop(clocks);
        if let Some(nanos) = median {
            ::metrics::gauge!(metrics::CLOCK_OFFSET_SECONDS).set(nanos as f64 / 1e9);
        }
        if warns {
            let info = peer.info();
            let fault = match self.judge_clocks(Some(key), offset.nanos()) {
                Some(ClockFault::Ours) => "ours seems wrong",
                Some(ClockFault::Theirs) => "its clock seems wrong",
                None => "one of the two is wrong",
            };
            warn_seldom!(peer = %info, %offset, "the clocks are apart: {fault}");
            self.emit(PeerEvent::ClockSkew { peer: info, offset });
        }
    }

    /// Whose clock seems wrong when that of somebody is `nanos` nanoseconds ahead of ours, by the clocks of the peers
    /// that were called last; `key`: whose, if it is known.
    pub(crate) fn judge_clocks(&self, key: Option<&PublicKey>, nanos: i64) -> Option<ClockFault> {
        self.clocks().mesh.judge(key, nanos, now())
    }

    /// The last time that the clock of this machine was set while the server of this nara ran.
    pub fn clock_step(&self) -> Option<ClockStep> {
        self.clocks().step
    }

    pub(crate) fn note_clock_step(&self, step: ClockStep) {
        self.clocks().step = Some(step);
        self.clock_was_set();
    }

    /// Notes that the clock of this machine was set: what was learned of the clocks of peers compared them with the
    /// clock as it was before.
    pub(crate) fn clock_was_set(&self) {
        self.clocks().mesh = MeshClock::default();
        for peer in self.peers() {
            peer.forget_clock();
        }
        ::metrics::gauge!(metrics::CLOCK_OFFSET_SECONDS).set(0.0);
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        // Every method of them leaves them valid.
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
