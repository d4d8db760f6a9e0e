//! Detects steps of the machine's clock, and measures uptime independently of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nara_proto::time::{UnixMillis, UnixNanos};

use crate::clock::{Clock, ClockStep};

/// A smaller difference between the two clocks is clock discipline: NTP slews by 0.5 ms a second.
const SMALLEST_STEP: Duration = Duration::from_secs(1);

/// If reading both clocks took longer, they are not compared: the thread did not run in between.
const LONGEST_READING: Duration = Duration::from_millis(100);

/// A clock and its last reading.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    clock: Arc<dyn Clock>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    wall: UnixNanos,
    monotonic: Duration,
    uptime: Duration,
}

/// The result of one reading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) now: UnixMillis,
    /// How long the clock has been watched, independent of steps.
    pub(crate) uptime: Duration,
    /// The step since the last reading, if any.
    pub(crate) step: Option<ClockStep>,
}

impl ClockWatch {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let seen = Mutex::new(Seen {
            wall: clock.now_nanos(),
            monotonic: clock.monotonic(),
            uptime: Duration::ZERO,
        });
        Self { clock, seen }
    }

    pub(crate) fn look(&self) -> Look {
        // Plain values are valid even if a thread panicked.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let monotonic = self.clock.monotonic();
        let wall = self.clock.now_nanos();
        // Some virtual machines set even this clock back: then no time has passed.
        let passed = monotonic.saturating_sub(seen.monotonic);
        let uptime = seen.uptime + passed;
        let nanos = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
        let off = wall.get().saturating_sub(seen.wall.get()).saturating_sub(nanos);
        let now = wall.to_millis();
        let is_far = u128::from(off.unsigned_abs()) >= SMALLEST_STEP.as_nanos();
        // Read only then: a pause between the two readings that is shorter than a step does not look like one.
        let is_step = is_far && self.clock.monotonic().saturating_sub(monotonic) <= LONGEST_READING;
        if is_step || !is_far {
            *seen = Seen {
                wall,
                monotonic,
                uptime,
            };
        }
        Look {
            now,
            uptime,
            step: is_step.then_some(ClockStep { nanos: off, at: now }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const START: i64 = 1_769_100_000_000_000_000;
    const HOURS: i64 = 7_200_000_000_000;

    fn watched() -> (ManualClock, ClockWatch) {
        let clock = ManualClock::new(UnixNanos::new(START));
        (clock.clone(), ClockWatch::new(Arc::new(clock)))
    }

    #[test]
    fn a_running_clock_has_no_step_and_its_uptime_is_the_elapsed_time() {
        let (clock, watch) = watched();
        for seconds in 1..100 {
            clock.advance(Duration::from_secs(1));
            let look = watch.look();
            assert_eq!((look.step, look.uptime), (None, Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_and_its_uptime_goes_on() {
        for nanos in [HOURS, -HOURS, 1_000_000_000, -1_000_000_000] {
            let (clock, watch) = watched();
            clock.advance(Duration::from_secs(5));
            clock.set(UnixNanos::new(START + 5_000_000_000 + nanos));
            clock.advance(Duration::from_secs(1));
            let look = watch.look();
            assert_eq!(look.step.map(|step| step.nanos), Some(nanos));
            assert_eq!(look.uptime, Duration::from_secs(6));
            assert_eq!(watch.look().step, None);
        }
    }

    #[test]
    fn a_slewed_clock_was_not_set() {
        let (clock, watch) = watched();
        for second in 1..1_000 {
            clock.advance(Duration::from_secs(1));
            clock.set(UnixNanos::new(START + second * 1_000_500_000));
            assert_eq!(watch.look().step, None);
        }
    }

    #[test]
    fn a_step_says_its_direction_and_size() {
        let at = UnixMillis::new(0);
        for (nanos, said) in [
            (-HOURS, "set back by 2h0m0s"),
            (1_500_000_000, "set forward by 1s"),
        ] {
            assert_eq!(ClockStep { nanos, at }.to_string(), said);
        }
    }
}
