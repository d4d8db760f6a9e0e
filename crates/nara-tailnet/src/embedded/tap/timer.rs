//! The retransmission timer (RFC 6298).
//!
//! The stack has such a timer too, but it waits at least a second, doubles that up to a minute, and does not reset when
//! the peer answers. On a lossy path, connections would be idle most of the time.

use std::time::{Duration, Instant};

/// The timeout before the round trip is known.
const FIRST: Duration = Duration::from_secs(1);
/// The minimum timeout. Peers of this implementation acknowledge within 10 ms.
const LEAST: Duration = Duration::from_millis(30);
/// The minimum allowance for variation, since peers delay acknowledgements.
const VARIES: Duration = Duration::from_millis(20);
/// The maximum timeout after any number of retransmissions.
const MOST: Duration = Duration::from_secs(3);

/// A retransmission timer; see the module.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// The smoothed round-trip time and its variation.
    measured: Option<(Duration, Duration)>,
    /// Since when the oldest outstanding packet has waited.
    since: Option<Instant>,
    /// The number of timeouts since the last measurement. The backoff persists until the next measurement: the round
    /// trip may have become longer than the timeout, and retransmitted packets cannot be measured (RFC 6298, section
    /// 5).
    again: u32,
    /// Whether the timer has also expired since the last answer.
    is_overdue: bool,
}

impl Timer {
    /// Records a transmission. Returns whether nothing was outstanding before.
    pub(super) fn sent(&mut self, now: Instant) -> bool {
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        is_first
    }

    /// Records an acknowledgement, with its round-trip time if measured.
    pub(super) fn arrived(&mut self, round_trip: Option<Duration>, is_outstanding: bool, now: Instant) {
        if let Some(took) = round_trip {
            self.measure(took);
            self.again = 0;
        }
        self.since = is_outstanding.then_some(now);
        self.is_overdue = false;
    }

    /// Returns the smoothed round-trip time.
    pub(super) fn usual(&self) -> Duration {
        self.measured.map_or(FIRST, |(smoothed, _)| smoothed)
    }

    /// Returns whether the timer has expired; if so, restarts it.
    pub(super) fn expired(&mut self, now: Instant) -> bool {
        let is_due = self
            .since
            .is_some_and(|since| now.saturating_duration_since(since) >= self.timeout());
        if is_due {
            self.resent(now);
            self.again = self.again.saturating_add(1);
            self.is_overdue = true;
        }
        is_due
    }

    /// Restarts the timer after a retransmission for another reason.
    pub(super) fn resent(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Returns whether a retransmission has gone unanswered.
    pub(super) const fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// Resets the timer and its backoff, since conditions have changed.
    pub(super) fn restart(&mut self, now: Instant) {
        self.resent(now);
        self.again = 0;
        self.is_overdue = false;
    }

    pub(super) const fn is_running(&self) -> bool {
        self.since.is_some()
    }

    fn timeout(&self) -> Duration {
        let once = self
            .measured
            .map_or(FIRST, |(smoothed, varies)| smoothed + (4 * varies).max(VARIES))
            .max(LEAST);
        // The first timeout retransmits only one packet, as a probe for the loss of others (RFC 8985, section 7.3).
        let doubled = self.again.saturating_sub(1).min(16);
        once.saturating_mul(1 << doubled).min(MOST)
    }

    fn measure(&mut self, took: Duration) {
        self.measured = Some(match self.measured {
            None => (took, took / 2),
            Some((smoothed, varies)) => (
                (smoothed * 7 + took) / 8,
                (varies * 3 + smoothed.abs_diff(took)) / 4,
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns a timer that measured several round trips of 200 ms, and the time after the last one.
    fn measured(start: Instant) -> (Timer, Instant) {
        let mut timer = Timer::default();
        let mut now = start;
        for _ in 1..30 {
            timer.sent(now);
            now += ms(200);
            timer.arrived(Some(ms(200)), false, now);
        }
        (timer, now)
    }

    #[test]
    fn the_timeout_is_slightly_longer_than_a_round_trip() {
        let (mut timer, now) = measured(Instant::now());
        assert!(timer.sent(now));
        assert!(!timer.expired(now + ms(200)));
        assert!(timer.expired(now + ms(230)));
        assert!(!timer.expired(now + ms(230)), "the timer restarts");
    }

    #[test]
    fn the_backoff_grows_up_to_a_limit() {
        let (mut timer, mut now) = measured(Instant::now());
        timer.sent(now);
        let mut waited = Vec::new();
        for _ in 0..8 {
            let begin = now;
            while !timer.expired(now) {
                now += ms(10);
            }
            waited.push(now - begin);
        }
        assert!(waited.is_sorted(), "{waited:?}");
        assert_eq!(waited.last(), Some(&MOST));
        timer.arrived(None, false, now);
        timer.sent(now);
        assert!(!timer.expired(now + ms(230)), "no round trip was measured");
        timer.arrived(Some(ms(200)), false, now + ms(200));
        timer.sent(now + ms(200));
        assert!(timer.expired(now + ms(430)), "a measurement resets the backoff");
    }

    #[test]
    fn the_timer_stops_when_nothing_is_outstanding() {
        let (mut timer, now) = measured(Instant::now());
        assert!(!timer.is_running());
        assert!(!timer.expired(now + ms(60_000)));
    }

    #[test]
    fn a_partial_acknowledgement_restarts_the_timer() {
        let (mut timer, now) = measured(Instant::now());
        timer.sent(now);
        timer.arrived(None, true, now + ms(190));
        assert!(!timer.expired(now + ms(300)));
        assert!(timer.expired(now + ms(430)));
    }
}
