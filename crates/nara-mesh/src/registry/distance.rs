//! The distances of peers: measured round trips, and network coordinates (`nara_proto::coordinates`), from which other
//! round trips are estimated.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::coordinates::{NetworkCoordinates, estimate};
use nara_proto::peer::Coordinates;

use super::peer::Peer;
use super::table::PeerRegistry;
use crate::random::random;

impl PeerRegistry {
    /// Returns the network coordinates of this nara, which follow the round trips that its client measures.
    pub fn coordinates(&self) -> Coordinates {
        self.own_coordinates().get().clone()
    }

    /// Returns the estimated round trip to a peer; `None` if it has not reported its coordinates. A peer may lie about
    /// them, so the estimate may only decide the order of peers.
    pub fn estimated_rtt(&self, peer: &Peer) -> Option<Duration> {
        let told = peer.noted_distance()?.told.clone()?;
        estimate(self.own_coordinates().get(), &told)
    }

    /// Returns the last measured round trip to a peer, or else the estimate. It may only decide the order of peers.
    pub(crate) fn distance(&self, peer: &Peer) -> Option<Duration> {
        peer.measured_rtt().or_else(|| self.estimated_rtt(peer))
    }

    /// Records a measured round trip to a peer, and the coordinates that it reported, if any.
    pub(crate) fn learn_distance(&self, peer: &Peer, rtt: Duration, told: Option<&Coordinates>) {
        let told = {
            let mut distance = peer.distance();
            distance.measured = Some(rtt);
            if let Some(told) = told {
                distance.told = Some(told.clone());
            }
            distance.told.clone()
        };
        if let Some(told) = told {
            let direction = u32::from_le_bytes(random());
            // An unusable sample changes nothing.
            let _ = self.own_coordinates().observe(&told, rtt, direction);
        }
    }

    fn own_coordinates(&self) -> MutexGuard<'_, NetworkCoordinates> {
        // Every method leaves the coordinates valid.
        self.coordinates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Returns the round trip to it that this process last measured.
    pub fn measured_rtt(&self) -> Option<Duration> {
        self.noted_distance()?.measured
    }

    /// Returns the coordinates that it reports. It may lie: see [`PeerRegistry::estimated_rtt`].
    pub fn told_coordinates(&self) -> Option<Coordinates> {
        self.noted_distance()?.told.clone()
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::*;
    use crate::registry::PeerInfo;

    fn peer(registry: &PeerRegistry, name: &str) -> std::sync::Arc<Peer> {
        let key = KeyPair::from_soul(&Soul::bond([7; 32], name)).public_key();
        let info = PeerInfo::configured(name.parse().unwrap(), key);
        registry.register(info).unwrap()
    }

    #[test]
    fn estimates_follow_measurements() {
        let registry = PeerRegistry::default();
        let (near, far, silent) = (
            peer(&registry, "near"),
            peer(&registry, "far"),
            peer(&registry, "silent"),
        );
        let at = |x| Coordinates {
            x,
            y: 0.0,
            height: 1.0,
            error: 0.1,
        };
        for _ in 0..200 {
            registry.learn_distance(&near, Duration::from_millis(10), Some(&at(0.0)));
            registry.learn_distance(&far, Duration::from_millis(80), Some(&at(75.0)));
        }
        registry.learn_distance(&silent, Duration::from_millis(3), None);
        let estimated = |peer| registry.estimated_rtt(peer);
        assert!(estimated(&near) < estimated(&far));
        let off = estimated(&far).unwrap().abs_diff(Duration::from_millis(80));
        assert!(off < Duration::from_millis(12), "{off:?}");
        assert_eq!(
            (estimated(&silent), silent.measured_rtt()),
            (None, Some(Duration::from_millis(3)))
        );
    }

    #[test]
    fn invalid_coordinates_give_no_estimate_and_do_not_move_ours() {
        let registry = PeerRegistry::default();
        let liar = peer(&registry, "liar");
        let before = registry.coordinates();
        let nonsense = Coordinates {
            x: f64::NAN,
            y: 1e300,
            height: -1.0,
            error: 0.0,
        };
        registry.learn_distance(&liar, Duration::from_millis(5), Some(&nonsense));
        assert_eq!(registry.estimated_rtt(&liar), None);
        assert_eq!(registry.coordinates(), before);
    }
}
