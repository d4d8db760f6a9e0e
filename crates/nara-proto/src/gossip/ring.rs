use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// A position on the ring: the first bytes of the SHA-256 of a name.
///
/// It hashes the name and not the key, because a nara knows the names of its peers, but learns some keys only on first
/// contact, and two naras must agree on the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingPosition(u64);

impl RingPosition {
    /// Returns the position of a name.
    pub fn of(name: impl AsRef<[u8]>) -> Self {
        let digest: [u8; 32] = Sha256::digest(name).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// Peers in the order of their positions; the last is followed by the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring<P> {
    members: Vec<(RingPosition, P)>,
    /// The same peers, sorted, for lookups.
    sorted: Vec<P>,
    /// The known round trips to them.
    distances: BTreeMap<P, Duration>,
}

impl<P> Default for Ring<P> {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            sorted: Vec::new(),
            distances: BTreeMap::new(),
        }
    }
}

impl<P: Clone + Ord> Ring<P> {
    /// Returns the ring of these peers, without duplicates.
    pub fn new(members: impl IntoIterator<Item = (RingPosition, P)>) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort();
        members.dedup();
        let mut sorted: Vec<P> = members.iter().map(|(_, peer)| peer.clone()).collect();
        sorted.sort();
        Self {
            members,
            sorted,
            distances: BTreeMap::new(),
        }
    }

    /// Replaces the known round trips to peers. They only decide which of its candidates [`Gossip`](super::Gossip)
    /// prefers.
    pub fn set_distances(&mut self, distances: impl IntoIterator<Item = (P, Duration)>) {
        self.distances = distances.into_iter().collect();
    }

    /// Returns whether any distance is known.
    pub(super) fn has_distances(&self) -> bool {
        !self.distances.is_empty()
    }

    /// Returns the round trip to a peer, if known.
    pub fn distance(&self, peer: &P) -> Option<Duration> {
        self.distances.get(peer).copied()
    }

    /// Returns the number of peers.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether the ring is empty.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns whether the ring contains a peer.
    pub fn contains(&self, peer: &P) -> bool {
        self.sorted.binary_search(peer).is_ok()
    }

    /// Returns all peers once, in order, starting behind a position.
    pub fn behind(&self, position: RingPosition) -> impl Iterator<Item = &P> {
        let first = self.members.partition_point(|(place, _)| *place <= position);
        let (before, behind) = self.members.split_at(first);
        behind.iter().chain(before).map(|(_, peer)| peer)
    }

    /// Returns all peers.
    pub fn iter(&self) -> impl Iterator<Item = &P> {
        self.sorted.iter()
    }

    /// Returns the peer at this index, below [`Ring::len`].
    pub(super) fn at(&self, index: usize) -> &P {
        &self.sorted[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_begins_behind_the_position_and_visits_each_peer_once() {
        let ring = Ring::new([30, 10, 20].map(|place| (RingPosition(place), place)));
        let walk = |from| ring.behind(RingPosition(from)).copied().collect::<Vec<_>>();
        assert_eq!(walk(10), [20, 30, 10]);
        assert_eq!(walk(25), [30, 10, 20]);
        assert_eq!(walk(u64::MAX), [10, 20, 30]);
    }
}
