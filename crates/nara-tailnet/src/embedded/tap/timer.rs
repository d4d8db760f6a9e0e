//! When what was not acknowledged is sent again (RFC 6298).
//!
//! The stack has such a timer too, but waits a second at least, doubles that up to a minute, and does not begin anew
//! when the peer answers: on a path that loses packets, connections stand still for most of the time.

use std::time::{Duration, Instant};

/// Before the round trip is known.
const FIRST: Duration = Duration::from_secs(1);
/// Peers like ours acknowledge after 10 ms at the latest.
const LEAST: Duration = Duration::from_millis(30);
/// Round trips vary by this much, though some did not: acknowledgements are late.
const VARIES: Duration = Duration::from_millis(20);
/// However often nothing came back.
const MOST: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// Smoothed round trip time, and how much it varies.
    measured: Option<(Duration, Duration)>,
    /// Since when the oldest of what is outstanding waits.
    since: Option<Instant>,
    /// How often something was sent again since the last measurement: until the next one, the round trip may be longer than
    /// any that was measured, and then all is sent again before it can be measured (RFC 6298, section 5).
    again: u32,
    /// Since the last answer, too.
    is_overdue: bool,
}

impl Timer {
    /// Something was sent. Returns whether nothing was outstanding.
    pub(super) fn sent(&mut self, now: Instant) -> bool {
        let is_first = self.since.is_none();
        self.since.get_or_insert(now);
        is_first
    }

    /// Something arrived. `round_trip`: how long it took, if that was measured.
    pub(super) fn arrived(&mut self, round_trip: Option<Duration>, is_outstanding: bool, now: Instant) {
        if let Some(took) = round_trip {
            self.measure(took);
            self.again = 0;
        }
        self.since = is_outstanding.then_some(now);
        self.is_overdue = false;
    }

    /// What a round trip usually takes.
    pub(super) fn usual(&self) -> Duration {
        self.measured.map_or(FIRST, |(smoothed, _)| smoothed)
    }

    /// Whether something is to be sent again now. Then it waits again.
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

    /// It is sent again, for another reason than the time.
    pub(super) fn resent(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Whether something was sent again, and that was not answered either.
    pub(super) const fn is_overdue(&self) -> bool {
        self.is_overdue
    }

    /// What comes now has nothing to do with what was.
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
        // The first time one packet is sent again, to learn what became of the others (RFC 8985, section 7.3).
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

    /// A timer that has seen some round trips of 200 ms, and the moment after the last one.
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
    fn it_waits_a_little_longer_than_a_round_trip() {
        let (mut timer, now) = measured(Instant::now());
        assert!(timer.sent(now));
        assert!(!timer.expired(now + ms(200)));
        assert!(timer.expired(now + ms(230)));
        assert!(!timer.expired(now + ms(230)), "it waits again");
    }

    #[test]
    fn it_waits_longer_each_time_but_not_without_limit() {
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
        assert!(!timer.expired(now + ms(230)), "that measured nothing");
        timer.arrived(Some(ms(200)), false, now + ms(200));
        timer.sent(now + ms(200));
        assert!(timer.expired(now + ms(430)), "a measurement begins anew");
    }

    #[test]
    fn without_anything_outstanding_it_does_not_run() {
        let (mut timer, now) = measured(Instant::now());
        assert!(!timer.is_running());
        assert!(!timer.expired(now + ms(60_000)));
    }

    #[test]
    fn an_answer_to_a_part_restarts_it() {
        let (mut timer, now) = measured(Instant::now());
        timer.sent(now);
        timer.arrived(None, true, now + ms(190));
        assert!(!timer.expired(now + ms(300)));
        assert!(timer.expired(now + ms(430)));
    }
}
