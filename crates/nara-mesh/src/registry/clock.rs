//! The clocks of all peers, and what they say about ours.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nara_proto::clock_offset::{ClockFault, ClockSample};
use nara_proto::identity::PublicKey;

use super::peer_clock::Clocks;
use super::{Peer, PeerEvent, PeerRegistry};
use crate::clock::{ClockStep, monotonic_now as now};
use crate::metrics;
use crate::seldom::warn_seldom;

impl PeerRegistry {
    /// Notes what a **verified** answer says about the clock of the peer whose key verified it. From
    /// [`defaults::CLOCK_WARNING`] on it is warned of, once. It came `at` that time.
    pub(crate) fn learn_clock(&self, peer: &Peer, key: &PublicKey, sample: ClockSample, at: Instant) {
        self.seen(peer);
        peer.note_alive(at);
        let learned = peer.clock().learn(sample, at);
        let Some((offset, warns)) = learned else { return };
        self.clocks().record(*key, offset.nanos(), at);
        self.show_offset();
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

    /// Notes that a peer **says** its clock is `nanos` nanoseconds ahead of ours, as in a refusal: whoever is in between could say
    /// so, so this shows in metrics alone, and only until the peer proves its time.
    pub(crate) fn clock_was_said(&self, peer: &Peer, nanos: i64) {
        let Some(key) = peer.key() else { return };
        let apart = Duration::from_nanos(nanos.unsigned_abs());
        if peer.clock().was_said(apart) {
            self.clocks().shown.record(key, nanos, now());
            self.show_offset();
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
        self.clocks().forget_all();
        for peer in self.peers() {
            peer.forget_clock();
        }
        self.show_offset();
    }

    /// Forgets the clock of a peer that is not known any more.
    pub(super) fn forget_clock_of(&self, peer: &Peer) {
        let Some(key) = peer.key() else { return };
        self.clocks().forget(&key);
        self.show_offset();
    }

    /// How far the clocks of peers are from ours in the middle, in nanoseconds; 0 if none is known.
    fn offset_of_all(&self) -> i64 {
        self.clocks().shown.median(now()).unwrap_or_default()
    }

    fn show_offset(&self) {
        ::metrics::gauge!(metrics::CLOCK_OFFSET_SECONDS).set(self.offset_of_all() as f64 / 1e9);
    }

    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        // Every method of them leaves them valid.
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixNanos;

    use super::*;
    use crate::registry::PeerInfo;

    const HOUR: i64 = 3_600_000_000_000;

    /// A nara that has proven a clock so far ahead.
    fn ahead(registry: &PeerRegistry, name: &str, nanos: i64) -> Arc<Peer> {
        let key = KeyPair::from_soul(&Soul::bond([name.as_bytes()[0]; 32], name)).public_key();
        let info = PeerInfo::configured(name.parse().unwrap(), key);
        let peer = registry.register(info).unwrap();
        let asked = UnixNanos::new(1);
        let told = UnixNanos::new(1 + nanos);
        let sample = ClockSample::of_answer(told, Duration::ZERO, asked, asked).unwrap();
        registry.learn_clock(&peer, &key, sample, now());
        peer
    }

    #[test]
    fn the_clock_of_the_only_peer_shows_until_it_is_outvoted_or_forgotten() {
        let registry = PeerRegistry::default();
        assert_eq!(registry.offset_of_all(), 0);
        let bob = ahead(&registry, "bob", HOUR);
        assert_eq!(registry.offset_of_all(), HOUR);
        let carol = ahead(&registry, "carol", 0);
        assert_eq!(registry.offset_of_all(), 0);
        registry.remove(&carol);
        assert_eq!(registry.offset_of_all(), HOUR);
        registry.remove(&bob);
        assert_eq!(registry.offset_of_all(), 0);
        ahead(&registry, "bob", HOUR);
        registry.clock_was_set();
        assert_eq!(registry.offset_of_all(), 0);
    }

    #[test]
    fn a_clock_that_a_peer_says_shows_until_it_proves_it_and_judges_nobody() {
        let registry = PeerRegistry::default();
        for name in ["alice", "bob", "carol", "dora"] {
            let key = KeyPair::from_soul(&Soul::bond([name.as_bytes()[0]; 32], name)).public_key();
            let peer = registry.register(PeerInfo::configured(name.parse().unwrap(), key));
            registry.clock_was_said(&peer.unwrap(), HOUR);
        }
        assert_eq!(registry.offset_of_all(), HOUR);
        assert_eq!(registry.judge_clocks(None, HOUR), None);
        for name in ["alice", "bob"] {
            let peer = ahead(&registry, name, 0);
            registry.clock_was_said(&peer, HOUR);
        }
        assert_eq!(registry.offset_of_all(), 0);
    }
}
