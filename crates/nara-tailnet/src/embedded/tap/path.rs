//! How long the way to a peer is, and how much of a round trip is a queue.
//!
//! All connections with a peer share this: one that begins beside others sees no round trip without their queue. When
//! none was seen for a while, all of them hold back together, until the queue has gone and the way can be measured anew.

use std::time::{Duration, Instant};

/// How long packets may wait in queues on the way: enough to keep a link busy, too little to be felt beside a transfer.
pub(super) const QUEUE: Duration = Duration::from_millis(20);
/// The shortest round trip counts for this long without another one like it.
const KNOWN: Duration = Duration::from_secs(10);
/// A queue that was seen longer ago says nothing about now.
const RECENT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Path {
    is_direct: bool,
    shortest: Option<Shortest>,
    /// Until when all hold back, and the shortest round trip meanwhile.
    draining: Option<(Instant, Duration)>,
    /// The last queue that was there for a whole round trip, and when.
    queue: Option<(Duration, Instant)>,
    /// When a connection began.
    began: Option<Instant>,
}

/// Whether a connection that begins is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Alone,
    /// Others began just before.
    Together,
    /// Others use the path up.
    Beside,
}

#[derive(Clone, Copy, Debug)]
struct Shortest {
    round_trip: Duration,
    /// When a round trip took about as long.
    seen: Instant,
}

impl Path {
    /// On another path nothing is known.
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

    /// Whether all hold back.
    pub(super) const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// A round trip took this long.
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
                    // The queue empties within a round trip, and another one is measured.
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

    /// Even the luckiest packet of a connection waited so long in a round trip.
    pub(super) fn waits(&mut self, queue: Duration, now: Instant) {
        self.queue = Some((queue, now));
    }

    /// How much of this round trip was a queue.
    pub(super) fn queue_of(&self, round_trip: Duration) -> Duration {
        let shortest = self.shortest.map_or(round_trip, |shortest| shortest.round_trip);
        round_trip.saturating_sub(shortest)
    }

    /// With this window a round trip takes so long: the window with which the queue is half as long as it may be.
    pub(super) fn fitting(&self, window: usize, round_trip: Duration) -> usize {
        let without = round_trip - self.queue_of(round_trip);
        scaled(window, without + QUEUE / 2, round_trip).min(window)
    }

    /// What a connection may use of its window now.
    pub(super) fn usable(&self, window: usize, now: Instant) -> usize {
        match (&self.draining, &self.shortest) {
            (Some((until, _)), Some(shortest)) if now < *until => {
                // A little less than the way carries: what is missing at once afterwards is a burst.
                let without = shortest.round_trip;
                let less = without - (without / 8).min(QUEUE / 2);
                scaled(window, less, without + QUEUE)
            }
            _ => window,
        }
    }

    /// What a round trip takes without a queue, if that is known.
    pub(super) fn shortest(&self) -> Duration {
        self.shortest
            .map_or(Duration::ZERO, |shortest| shortest.round_trip)
    }

    /// Whether such a queue is no more than what the way itself takes.
    pub(super) fn is_free(&self, queue: Duration) -> bool {
        self.shortest.is_some_and(|shortest| queue <= shortest.round_trip)
    }

    /// Whether there is a queue, and not only a burst.
    pub(super) fn is_crowded(&self) -> bool {
        // Nothing is paced: on a long direct path, what several connections send at once waits for a part of a round trip.
        let burst = if self.is_direct {
            self.shortest() / 8
        } else {
            Duration::ZERO
        };
        self.queue.is_some_and(|(queue, _)| queue > burst.max(QUEUE / 2))
    }

    /// A connection begins.
    pub(super) fn begins(&mut self, now: Instant) -> First {
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

    /// Whether others use it up.
    fn is_full(&self, now: Instant) -> bool {
        let is_recent = |(_, seen)| now.saturating_duration_since(seen) < RECENT;
        self.is_crowded() && self.queue.is_some_and(is_recent)
    }
}

/// A part of a size.
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
    fn what_is_longer_than_the_shortest_round_trip_is_a_queue() {
        let (mut path, now) = (Path::default(), Instant::now());
        path.measured(ms(50), now);
        assert_eq!(path.queue_of(ms(50)), ms(0));
        path.measured(ms(20), now);
        assert_eq!(path.queue_of(ms(50)), ms(30));
        path.waits(ms(0), now);
        assert!(!path.is_full(now));
        path.waits(ms(30), now);
        assert!(path.is_full(now));
        assert!(!path.is_full(now + RECENT), "it may have gone since");
        assert_eq!(path.fitting(1000, ms(60)), 500);
        assert_eq!(path.fitting(1000, ms(30)), 1000);
    }

    #[test]
    fn after_a_while_all_hold_back_and_the_way_is_measured_anew() {
        let (mut path, start) = (Path::default(), Instant::now());
        path.measured(ms(20), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        path.measured(ms(60), at(9));
        assert_eq!(path.usable(1000, at(9)), 1000);
        path.measured(ms(60), at(11));
        assert_eq!(path.usable(1000, at(11)), 437);
        path.measured(ms(40), at(11) + ms(90));
        assert_eq!(path.queue_of(ms(60)), ms(40), "not measured yet");
        path.measured(ms(45), at(12));
        assert_eq!(path.queue_of(ms(60)), ms(20));
        assert_eq!(path.usable(1000, at(12)), 1000);
    }

    #[test]
    fn nobody_holds_back_while_there_is_no_queue() {
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
        assert_eq!(path.begins(now), First::Alone);
        assert_eq!(path.begins(now + ms(50)), First::Together);
        assert_eq!(path.begins(now + ms(500)), First::Alone);
        path.waits(ms(30), now + ms(900));
        assert_eq!(path.begins(now + ms(900)), First::Beside);
    }

    #[test]
    fn on_another_path_nothing_is_known() {
        let (mut path, now) = (Path::default(), Instant::now());
        path.measured(ms(1), now);
        path.follow(true);
        path.measured(ms(80), now);
        assert_eq!(path.queue_of(ms(80)), ms(0));
    }
}
