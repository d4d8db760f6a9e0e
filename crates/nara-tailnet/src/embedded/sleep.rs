//! Detects that the node did not run for a while, because its machine slept or its process was stopped. Without I/O.
//!
//! By then, peers have given up on the node, NATs have expired its mappings, and servers have closed its connections.
//! Its own timers do not notice: they stop while a machine sleeps.

use std::time::Duration;

use nara_mesh::clock::{Clock as _, SystemClock};
use tokio::sync::watch;

/// The maximum interval between two beats of a running node.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// A longer pause counts as a sleep. Peers leave a direct path within 4 s, and a NAT may expire a mapping after 30 s. A
/// busy machine does not delay a process this long; if it does, a needless reset costs only a few round trips.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The number of sleeps so far. When it changes, open connections must be replaced.
pub(super) type Sleeps = watch::Receiver<u32>;

/// The time at which the node last ran, by [`now`].
#[derive(Debug)]
pub(super) struct Pulse {
    last: Duration,
}

impl Pulse {
    pub(super) const fn new(now: Duration) -> Self {
        Self { last: now }
    }

    /// Records that the node runs. Returns the length of the sleep, if there was one.
    pub(super) fn beat(&mut self, now: Duration) -> Option<Duration> {
        let pause = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        (pause >= LONGEST_PAUSE).then_some(pause)
    }
}

/// Returns the time of a clock that includes sleep and that cannot be set.
pub(super) fn now() -> Duration {
    SystemClock.monotonic()
}

/// Waits until the next sleep has ended.
pub(super) async fn slept(sleeps: &mut Sleeps) {
    if sleeps.changed().await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_sleep_once_and_only_if_it_was_long() {
        let begin = Duration::from_secs(1);
        let mut pulse = Pulse::new(begin);
        let mut beat = |millis| pulse.beat(begin + Duration::from_millis(millis));
        for millis in [0, 1000, 2000, 3500, 3500, 3000, 13_499] {
            assert_eq!(beat(millis), None, "{millis}");
        }
        assert_eq!(beat(613_499), Some(Duration::from_secs(600)));
        assert_eq!(beat(613_500), None, "each sleep is reported once");
        assert_eq!(beat(623_500), Some(LONGEST_PAUSE));
        // Consecutive readings of two clocks may appear to go backwards.
        assert_eq!(beat(600_000), None);
        assert_eq!(beat(624_000), None);
    }
}
