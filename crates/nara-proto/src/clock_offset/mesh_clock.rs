use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::ClockFault;

/// The number of peers whose offsets are kept: the last ones measured.
const PEERS: usize = 64;

/// The age at which an offset expires.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// The fewest peers for a judgement: with fewer, a single wrong clock would decide.
const MIN_PEERS: usize = 3;

/// An estimate of the mesh's time from the offsets of the peers that were measured last. An offset that most of them
/// share is an error of our own clock.
#[derive(Clone, Debug)]
pub struct MeshClock<K> {
    offsets: VecDeque<(K, i64, Instant)>,
}

impl<K> Default for MeshClock<K> {
    fn default() -> Self {
        Self {
            offsets: VecDeque::new(),
        }
    }
}

impl<K: PartialEq> MeshClock<K> {
    /// Records the offset of a peer, in **nanoseconds** ahead of our clock.
    pub fn record(&mut self, peer: K, nanos: i64, now: Instant) {
        self.offsets.retain(|(known, _, _)| *known != peer);
        self.offsets.push_back((peer, nanos, now));
        while self.offsets.len() > PEERS {
            self.offsets.pop_front();
        }
    }

    /// Forgets the offset of a peer.
    pub fn forget(&mut self, peer: &K) {
        self.offsets.retain(|(known, _, _)| known != peer);
    }

    /// Returns the median of the offsets of all peers, in nanoseconds; `None` without any. Of two middle values it is
    /// the one nearer to 0: as long as half of the peers agree with our clock, our clock counts as right.
    pub fn median(&self, now: Instant) -> Option<i64> {
        let offsets = self.sorted_without(None, now);
        let middle = [offsets.len().checked_sub(1)? / 2, offsets.len() / 2];
        middle
            .into_iter()
            .filter_map(|index| offsets.get(index).copied())
            .min_by_key(|nanos| nanos.unsigned_abs())
    }

    /// Returns the median of the offsets of all peers but one, in nanoseconds; `None` if there are too few peers.
    pub fn median_without(&self, peer: Option<&K>, now: Instant) -> Option<i64> {
        if self.offsets.len() < MIN_PEERS {
            return None;
        }
        let offsets = self.sorted_without(peer, now);
        if offsets.len() < MIN_PEERS {
            return None;
        }
        let middle = offsets.len() / 2;
        let (low, high) = (offsets[(offsets.len() - 1) / 2], offsets[middle]);
        i64::try_from((i128::from(low) + i128::from(high)) / 2).ok()
    }

    fn sorted_without(&self, peer: Option<&K>, now: Instant) -> Vec<i64> {
        let young = |at: &Instant| now.saturating_duration_since(*at) <= MAX_AGE;
        let offsets = self
            .offsets
            .iter()
            .filter(|(known, _, at)| Some(known) != peer && young(at))
            .map(|(_, nanos, _)| *nanos);
        let mut offsets: Vec<i64> = offsets.collect();
        offsets.sort_unstable();
        offsets
    }

    /// Returns which clock is probably wrong if the clock of `peer` is `nanos` ahead of ours.
    pub fn judge(&self, peer: Option<&K>, nanos: i64, now: Instant) -> Option<ClockFault> {
        ClockFault::judge(nanos, self.median_without(peer, now)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::some_instant;
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn it_takes_three_others_for_a_judgement() {
        let now = some_instant();
        let mut clock = MeshClock::default();
        for peer in 0..3 {
            assert_eq!(clock.judge(Some(&9), 40 * SECOND, now), None);
            clock.record(peer, 0, now);
            clock.record(9, 40 * SECOND, now);
        }
        assert_eq!(clock.judge(Some(&9), 40 * SECOND, now), Some(ClockFault::Theirs));
        assert_eq!(
            clock.judge(Some(&0), 40 * SECOND, now),
            Some(ClockFault::Theirs),
            "9 is outvoted"
        );
        assert_eq!(
            clock.judge(Some(&9), 40 * SECOND, now + MAX_AGE * 2),
            None,
            "long ago"
        );
    }

    #[test]
    fn an_offset_that_all_share_is_ours() {
        let now = some_instant();
        let mut clock = MeshClock::default();
        for peer in 0..5 {
            clock.record(peer, 39 * SECOND + i64::from(peer), now);
        }
        assert_eq!(clock.judge(None, 40 * SECOND, now), Some(ClockFault::Ours));
        assert_eq!(
            clock.judge(None, 80 * SECOND, now),
            None,
            "both are as far from the mesh"
        );
    }

    #[test]
    fn one_peer_that_is_off_shows_and_half_of_them_that_agree_with_us_outvote_the_others() {
        let now = some_instant();
        let mut clock = MeshClock::default();
        assert_eq!(clock.median(now), None);
        clock.record(1, 3_600 * SECOND, now);
        assert_eq!(clock.median(now), Some(3_600 * SECOND));
        assert_eq!(
            clock.judge(None, 3_600 * SECOND, now),
            None,
            "either may be wrong"
        );
        clock.record(2, -1, now);
        assert_eq!(clock.median(now), Some(-1));
        clock.record(3, 3_601 * SECOND, now);
        assert_eq!(clock.median(now), Some(3_600 * SECOND));
        clock.record(4, i64::MIN, now);
        assert_eq!(clock.median(now), Some(-1));
        assert_eq!(clock.median(now + MAX_AGE * 2), None, "long ago");
        for peer in 1..=4 {
            clock.forget(&peer);
        }
        assert_eq!(clock.median(now), None);
    }

    #[test]
    fn the_last_ones_count_and_are_bounded() {
        let now = some_instant();
        let mut clock = MeshClock::default();
        for peer in 0..1_000 {
            clock.record(peer, peer, now);
        }
        assert_eq!(clock.offsets.len(), PEERS);
        assert_eq!(clock.median_without(None, now), Some(967));
        for _ in 0..100 {
            clock.record(5, i64::MAX, now);
        }
        assert_eq!(
            clock.median_without(None, now),
            Some(968),
            "one peer has one vote"
        );
    }
}
