//! Chooses the stack of a new connection by the round trip to the peer: the far stack has longer buffers.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::admission::share;
use crate::embedded::device::Distance;
use crate::embedded::settings::FAR;

/// The maximum number of connections in the far stack, per peer while there are few others, and in all; see [`share`]. Their buffers take two thirds of what those of
/// all possible others with a peer take, and a third of what all possible others take.
const PER_PEER: usize = 16;
const IN_ALL: usize = 64;

/// What is known about peers before a connection has measured a round trip; see the module.
#[derive(Debug, Default)]
pub(super) struct Distances {
    /// The addresses of peers with a long round trip at their last handshake.
    far: watch::Sender<HashSet<IpAddr>>,
}

impl Distances {
    /// Sets the addresses of peers with a long round trip.
    pub(super) fn set_far(&self, addresses: HashSet<IpAddr>) {
        self.far.send_replace(addresses);
    }

    /// Returns a receiver of these addresses.
    pub(super) fn far(&self) -> watch::Receiver<HashSet<IpAddr>> {
        self.far.subscribe()
    }

    /// Returns the stack for a new connection with this peer, whose node has `addresses`. `measured` is the round trip of
    /// its other connections, zero if unknown; `others` are the peer and the stack of each existing connection.
    pub(super) fn choose(
        &self,
        peer: IpAddr,
        addresses: &[IpAddr],
        measured: Duration,
        others: impl Iterator<Item = (IpAddr, Distance)>,
    ) -> Distance {
        let is_far = measured >= FAR || measured.is_zero() && self.far.borrow().contains(&peer);
        if !is_far {
            return Distance::Near;
        }
        let (mut of_peer, mut in_all) = (0, 0);
        for (other, _) in others.filter(|(_, distance)| *distance == Distance::Far) {
            in_all += 1;
            of_peer += usize::from(addresses.contains(&other));
        }
        if of_peer < share(PER_PEER, in_all, IN_ALL) {
            Distance::Far
        } else {
            Distance::Near
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> IpAddr {
        [100, 64, 0, n].into()
    }

    #[test]
    fn a_measured_round_trip_counts_more_than_that_of_the_handshake() {
        let distances = Distances::default();
        let choose = |measured| distances.choose(peer(1), &[peer(1)], measured, std::iter::empty());
        assert_eq!(choose(Duration::ZERO), Distance::Near, "nothing is known");
        assert_eq!(choose(FAR), Distance::Far);
        distances.set_far(HashSet::from([peer(1)]));
        assert_eq!(choose(Duration::ZERO), Distance::Far);
        assert_eq!(choose(Duration::from_millis(5)), Distance::Near);
    }

    #[test]
    fn long_buffers_are_bounded_per_node_and_leave_some_for_others() {
        let distances = Distances::default();
        let mut others = Vec::new();
        let mut counts = Vec::new();
        for n in 1..=8 {
            // Each node has two addresses, of which the first has many connections already.
            let addresses = [peer(n), peer(n + 100)];
            let count = others.len();
            for address in addresses.into_iter().cycle() {
                match distances.choose(address, &addresses, FAR, others.iter().copied()) {
                    Distance::Far => others.push((address, Distance::Far)),
                    Distance::Near => break,
                }
            }
            counts.push(others.len() - count);
        }
        assert_eq!(counts, [11, 8, 6, 5, 4, 3, 3, 2], "each leaves some for others");
    }
}
