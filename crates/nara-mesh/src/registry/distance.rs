//! How far peers are: round trips that were measured, and network coordinates, from which follows an estimate of the
//! others (`nara_proto::coordinates`).

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::coordinates::{NetworkCoordinates, estimate};
use nara_proto::peer::Coordinates;

use super::peer::Peer;
use super::table::PeerRegistry;
use crate::random::random;

impl PeerRegistry {
    /// The network coordinates of this nara, which follow the round trips that its client measures.
    pub fn coordinates(&self) -> Coordinates {
        self.own_coordinates().get().clone()
    }

    /// The estimated round trip to a peer; `None` if it has not told its coordinates. A peer may lie about them, so
    /// nothing but the order of peers may depend on it.
    pub fn estimated_rtt(&self, peer: &Peer) -> Option<Duration> {
        let told = peer.noted_distance()?.told.clone()?;
        estimate(self.own_coordinates().get(), &told)
    }

    /// The round trip to a peer as it was last measured, or else as it is estimated. Only the order of peers may depend on
    /// it.
    pub(crate) fn distance(&self, peer: &Peer) -> Option<Duration> {
        peer.measured_rtt().or_else(|| self.estimated_rtt(peer))
    }

    /// Takes in a measured round trip to a peer, and the coordinates that it told with it, if it did.
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
            // A sample that is of no use changes nothing.
            let _ = self.own_coordinates().observe(&told, rtt, direction);
        }
    }

    fn own_coordinates(&self) -> MutexGuard<'_, NetworkCoordinates> {
        // Every method of coordinates leaves them valid.
        self.coordinates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// The round trip to it as it was last measured by this process.
    pub fn measured_rtt(&self) -> Option<Duration> {
        self.noted_distance()?.measured
    }

    /// Where it says that it is in the network. It may lie: see [`PeerRegistry::estimated_rtt`].
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
    fn estimates_follow_what_is_measured() {
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
    fn a_peer_that_tells_nonsense_has_no_estimate_and_moves_nobody() {
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
