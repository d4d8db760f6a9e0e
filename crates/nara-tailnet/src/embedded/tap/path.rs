//! The round-trip time to a peer, and the queueing delay in it.
//!
//! All connections with a peer share these measurements, since a connection that starts beside others never sees an
//! empty queue. If no round trip without a queue was measured for a while, all connections reduce their windows
//! together until the queue is empty and the path can be measured again.

use std::time::{Duration, Instant};

/// The target queueing delay: long enough to keep a link busy, short enough not to delay other traffic noticeably.
pub(super) const QUEUE: Duration = Duration::from_millis(20);
/// The minimum round-trip time expires after this time without a similar measurement.
const KNOWN: Duration = Duration::from_secs(10);
/// A measured queueing delay expires after this time.
const RECENT: Duration = Duration::from_secs(1);

/// The path to a peer; see the module.
#[derive(Debug, Default)]
pub(super) struct Path {
    is_direct: bool,
    shortest: Option<Shortest>,
    /// While the queue drains: the end of that phase, and the shortest round trip in it.
    draining: Option<(Instant, Duration)>,
    /// The last queueing delay that lasted a whole round trip, and its time.
    queue: Option<(Duration, Instant)>,
    /// When the last connection began.
    began: Option<Instant>,
}

/// How a new connection relates to others on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Alone,
    /// Others began within the last round trip.
    Together,
    /// Others already saturate the path.
    Beside,
}

#[derive(Clone, Copy, Debug)]
struct Shortest {
    round_trip: Duration,
    /// The time of the last similar round trip.
    seen: Instant,
}

impl Path {
    /// Starts over if the path has changed.
    pub(super) fn follow(&mut self, is_direct: bool) {
        if self.is_direct != is_direct {
            *self = Self {
                is_direct,
                ..Self::default()
            };
        }
    }

    pub(super) const fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Returns whether all connections reduce their windows to drain the queue.
    pub(super) const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Records a measured round trip.
    pub(super) fn measured(&mut self, round_trip: Duration, now: Instant) {
        if let Some((until, shortest)) = &mut self.draining {
            *shortest = round_trip.min(*shortest);
            if now >= *until {
                self.shortest = Some(Shortest {
                    round_trip: *shortest,
                    seen: now,
                });
                self.draining = None;
            }
        }
        match &mut self.shortest {
            Some(shortest) if round_trip > shortest.round_trip => {
                let about = shortest.round_trip + QUEUE.min(shortest.round_trip / 2) / 4;
                if round_trip <= about {
                    shortest.seen = now;
                } else if self.draining.is_none() && now.saturating_duration_since(shortest.seen) >= KNOWN {
                    // The queue drains within one round trip; the next one measures the path.
                    self.draining = Some((now + round_trip * 2, round_trip));
                }
            }
            shortest => {
                *shortest = Some(Shortest {
                    round_trip,
                    seen: now,
                });
            }
        }
    }

    /// Records the smallest queueing delay of a round trip.
    pub(super) fn record_queue(&mut self, queue: Duration, now: Instant) {
        self.queue = Some((queue, now));
    }

    /// Returns the queueing delay in this round trip.
    pub(super) fn queue_of(&self, round_trip: Duration) -> Duration {
        let shortest = self.shortest.map_or(round_trip, |shortest| shortest.round_trip);
        round_trip.saturating_sub(shortest)
    }

    /// Returns the window that would halve the target queueing delay, given that `window` results in this round trip.
    pub(super) fn fitting(&self, window: usize, round_trip: Duration) -> usize {
        let without = round_trip - self.queue_of(round_trip);
        scaled(window, without + QUEUE / 2, round_trip).min(window)
    }

    /// Returns how much of its window a connection may use now.
    pub(super) fn usable(&self, window: usize, now: Instant) -> usize {
        match (&self.draining, &self.shortest) {
            (Some((until, _)), Some(shortest)) if now < *until => {
                // Slightly below the capacity of the path: sending the difference at once afterwards is a burst.
                let without = shortest.round_trip;
                let less = without - (without / 8).min(QUEUE / 2);
                scaled(window, less, without + QUEUE)
            }
            _ => window,
        }
    }

    /// Returns the round-trip time without a queue, or zero if it is unknown.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest
            .map_or(Duration::ZERO, |shortest| shortest.round_trip)
    }

    /// Returns whether this queueing delay is at most the round-trip time without a queue.
    pub(super) fn is_free(&self, queue: Duration) -> bool {
        self.shortest.is_some_and(|shortest| queue <= shortest.round_trip)
    }

    /// Returns whether a queue exists, as opposed to a burst.
    pub(super) fn is_crowded(&self) -> bool {
        // Packets are not paced: on a long direct path, bursts of several connections queue for a part of a round trip.
        let burst = if self.is_direct {
            self.shortest() / 8
        } else {
            Duration::ZERO
        };
        self.queue.is_some_and(|(queue, _)| queue > burst.max(QUEUE / 2))
    }

    /// Records the start of a connection, and returns how it relates to others.
    pub(super) fn begin_connection(&mut self, now: Instant) -> First {
        let before = self.began.replace(now);
        let since = before.map(|began| now.saturating_duration_since(began));
        if self.is_full(now) {
            First::Beside
        } else if since.is_some_and(|since| since <= self.shortest()) {
            First::Together
        } else {
            First::Alone
        }
    }

    /// Returns whether other connections saturate the path.
    fn is_full(&self, now: Instant) -> bool {
        let is_recent = |(_, seen)| now.saturating_duration_since(seen) < RECENT;
        self.is_crowded() && self.queue.is_some_and(is_recent)
    }
}

/// Scales a size by `part / whole`.
pub(super) fn scaled(size: usize, part: Duration, whole: Duration) -> usize {
    let scaled = size as u128 * part.as_nanos() / whole.as_nanos().max(1);
    usize::try_from(scaled).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_excess_over_the_shortest_round_trip_is_a_queue() {
        let (mut path, now) = (Path::default(), Instant::now());
        path.measured(ms(50), now);
        assert_eq!(path.queue_of(ms(50)), ms(0));
        path.measured(ms(20), now);
        assert_eq!(path.queue_of(ms(50)), ms(30));
        path.record_queue(ms(0), now);
        assert!(!path.is_full(now));
        path.record_queue(ms(30), now);
        assert!(path.is_full(now));
        assert!(!path.is_full(now + RECENT), "the measurement has expired");
        assert_eq!(path.fitting(1000, ms(60)), 500);
        assert_eq!(path.fitting(1000, ms(30)), 1000);
    }

    #[test]
    fn an_expired_minimum_drains_the_queue_and_is_measured_again() {
        let (mut path, start) = (Path::default(), Instant::now());
        path.measured(ms(20), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        path.measured(ms(60), at(9));
        assert_eq!(path.usable(1000, at(9)), 1000);
        path.measured(ms(60), at(11));
        assert_eq!(path.usable(1000, at(11)), 437);
        path.measured(ms(40), at(11) + ms(90));
        assert_eq!(path.queue_of(ms(60)), ms(40), "the phase has not ended yet");
        path.measured(ms(45), at(12));
        assert_eq!(path.queue_of(ms(60)), ms(20));
        assert_eq!(path.usable(1000, at(12)), 1000);
    }

    #[test]
    fn windows_stay_open_while_there_is_no_queue() {
        let (mut path, start) = (Path::default(), Instant::now());
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            path.measured(ms(20 + second % 2), now);
            assert_eq!(path.usable(1000, now), 1000);
        }
    }

    #[test]
    fn connections_that_begin_within_a_round_trip_begin_together() {
        let (mut path, now) = (Path::default(), Instant::now());
        path.measured(ms(200), now);
        assert_eq!(path.begin_connection(now), First::Alone);
        assert_eq!(path.begin_connection(now + ms(50)), First::Together);
        assert_eq!(path.begin_connection(now + ms(500)), First::Alone);
        path.record_queue(ms(30), now + ms(900));
        assert_eq!(path.begin_connection(now + ms(900)), First::Beside);
    }

    #[test]
    fn a_new_path_discards_measurements() {
        let (mut path, now) = (Path::default(), Instant::now());
        path.measured(ms(1), now);
        path.follow(true);
        path.measured(ms(80), now);
        assert_eq!(path.queue_of(ms(80)), ms(0));
    }
}
