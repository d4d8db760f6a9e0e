//! The round-trip time to a peer, and the queueing delay in it.
//!
//! All connections with a peer share these measurements, since a connection that starts beside others never sees an
//! empty queue. If no round trip without a queue was measured for a while, all connections reduce their windows
//! together until the queue is empty and the path can be measured again.
//!
//! A relay link is a TCP connection. It repairs its losses, which delays all packets behind a lost one by at least a
//! round trip. So on a relay only a delay that lasts several round trips is a queue ([`Path::standing`]). After a loss,
//! that connection raises its rate only while packets wait for it, so the target queue is longer then
//! ([`Path::target`]).

use std::time::{Duration, Instant};

use crate::embedded::settings::FIRST_WINDOW;

/// The target queueing delay: long enough to keep a link busy, short enough not to delay other traffic noticeably.
pub(super) const QUEUE: Duration = Duration::from_millis(20);
/// The minimum round-trip time expires after this time without a similar measurement.
const KNOWN: Duration = Duration::from_secs(10);
/// A measured queueing delay expires after this time.
const RECENT: Duration = Duration::from_secs(1);
/// The number of round trips whose smallest delay counts as the queue on a relay (at least half of them), and the number
/// after a repaired loss: on a lossy line a delay often lasts longer.
const STANDS: u32 = 4;
const STANDS_LOSSY: u32 = 8;

/// The path to a peer; see the module.
#[derive(Debug, Default)]
pub(super) struct Path {
    is_direct: bool,
    shortest: Option<Shortest>,
    /// While the queue drains: the end of that phase, and the shortest round trip in it.
    draining: Option<(Instant, Duration)>,
    /// The last queueing delay that lasted a whole round trip, and its time.
    queue: Option<(Duration, Instant)>,
    standing: Standing,
    /// The last round trip.
    last: Option<Duration>,
    /// When the relay connection last repaired a loss, if recently.
    repaired: Option<Instant>,
    /// When the last connection began.
    began: Option<Instant>,
}

/// How a new connection relates to others on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    Alone,
    /// Others began within the last round trip, and their first windows together may be too large.
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

/// The smallest queueing delay of the last round trips.
#[derive(Debug, Default)]
struct Standing {
    /// The smallest one of the present period, and of the period before.
    least: (Option<Duration>, Option<Duration>),
    /// When the present period ends.
    until: Option<Instant>,
}

impl Standing {
    fn record(&mut self, queue: Duration, period: Duration, now: Instant) {
        let (present, before) = &mut self.least;
        if self.until.is_none_or(|until| now >= until) {
            let is_recent = self.until.is_some_and(|until| now < until + period);
            *before = present.take().filter(|_| is_recent);
            self.until = Some(now + period);
        }
        *present = Some(present.map_or(queue, |least| least.min(queue)));
    }

    /// Returns zero unless there are measurements of two periods.
    fn queue(&self) -> Duration {
        match self.least {
            (Some(present), Some(before)) => present.min(before),
            _ => Duration::ZERO,
        }
    }
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
        let without = self.shortest();
        // A queue does not grow this fast.
        let jump = QUEUE.max(without / 2);
        let is_jump = self.last.is_some_and(|last| round_trip >= last + jump);
        if is_jump && !self.is_direct {
            self.repaired = Some(now);
        }
        self.repaired = self
            .repaired
            .filter(|at| now.saturating_duration_since(*at) <= KNOWN);
        self.last = Some(round_trip);
        let queue = self.queue_of(round_trip);
        let stands = if self.repairs() { STANDS_LOSSY } else { STANDS };
        self.standing.record(queue, without * stands / 2, now);
    }

    /// Returns the smallest queueing delay of the last round trips, [`STANDS`] or [`STANDS_LOSSY`].
    pub(super) fn standing(&self) -> Duration {
        self.standing.queue()
    }

    /// Returns whether the connection to the relay has repaired a loss recently.
    pub(super) const fn repairs(&self) -> bool {
        self.repaired.is_some()
    }

    /// Returns the target queueing delay: after a repaired loss, a round trip.
    pub(super) fn target(&self) -> Duration {
        if self.repairs() {
            self.shortest().max(QUEUE)
        } else {
            QUEUE
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
        scaled(window, without + self.target() / 2, round_trip).min(window)
    }

    /// Returns how much of its window a connection may use now.
    pub(super) fn usable(&self, window: usize, now: Instant) -> usize {
        match (&self.draining, &self.shortest) {
            (Some((until, _)), Some(shortest)) if now < *until => {
                // Slightly below the capacity of the path: sending the difference at once afterwards is a burst.
                let without = shortest.round_trip;
                let less = without - (without / 8).min(QUEUE / 2);
                scaled(window, less, without + self.target())
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

    /// Returns whether packets queue so that a window of this size must not double. After a repaired loss, a single
    /// delay does not show a queue, and up to [`FIRST_WINDOW`] only one that lasts does.
    pub(super) fn is_crowded_at(&self, window: usize) -> bool {
        let stands = window >= FIRST_WINDOW || !self.repairs() || self.standing() > self.target() / 2;
        self.is_crowded() && stands
    }

    /// Records the start of a connection, and returns how it relates to others.
    pub(super) fn begin_connection(&mut self, now: Instant) -> First {
        let before = self.began.replace(now);
        let since = before.map(|began| now.saturating_duration_since(began));
        let may_overflow = self.is_direct || self.repairs();
        if self.is_full(now) {
            First::Beside
        } else if may_overflow && since.is_some_and(|since| since <= self.shortest()) {
            First::Together
        } else {
            First::Alone
        }
    }

    /// Returns whether other connections saturate the path.
    fn is_full(&self, now: Instant) -> bool {
        let is_recent = |(_, seen)| now.saturating_duration_since(seen) < RECENT;
        let stands = self.is_direct || self.standing() > self.target() / 2;
        self.is_crowded() && stands && self.queue.is_some_and(is_recent)
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
        path.follow(true);
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
    fn a_delay_is_a_standing_queue_only_if_it_lasts() {
        // A jump by half of the round trip is a repaired loss, from which the longer limit applies.
        for (jump, stands) in [(ms(39), 4), (ms(40), 6)] {
            let (mut path, start) = (Path::default(), Instant::now());
            let at = |n| start + ms(80) * n;
            path.measured(ms(80), start);
            for n in 1..=stands {
                path.measured(ms(80) + jump * n.min(4), at(n));
                assert_eq!(path.standing() > ms(0), n == stands, "{n} of {stands}");
            }
            path.measured(ms(85), at(stands + 1));
            assert_eq!(path.standing(), ms(5));
            path.measured(ms(160), at(stands * 4));
            assert_eq!(path.standing(), ms(0), "the earlier measurements are too old");
        }
    }

    #[test]
    fn a_repaired_loss_makes_the_target_on_a_relay_a_round_trip() {
        let start = Instant::now();
        for is_direct in [false, true] {
            let mut path = Path::default();
            path.follow(is_direct);
            for n in 0..10 {
                path.measured(ms(80) + ms(30) * n, start);
            }
            assert_eq!(path.target(), QUEUE, "a queue grows steadily");
            path.measured(ms(80), start);
            path.measured(ms(160), start);
            assert_eq!(path.target(), if is_direct { QUEUE } else { ms(80) });
            path.measured(ms(160), start + KNOWN + ms(1));
            assert_eq!(path.target(), QUEUE);
        }
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
        path.follow(true);
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
