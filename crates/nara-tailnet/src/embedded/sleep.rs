//! Notices that the node did not run for a while, because its machine slept or its process was stopped, without I/O.
//!
//! Peers have given up on the node then, NATs have forgotten its ports, and servers have closed its connections. But its
//! timers say that nothing happened: while a machine sleeps, they stand still.

use std::time::Duration;

use nara_mesh::clock::{Clock as _, SystemClock};
use tokio::sync::watch;

/// A node that runs is seen this often at least.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// A longer pause is a sleep. Peers leave a direct path within 4 s, and a NAT may forget a port after 30 s. A busy machine lets
/// no process wait this long, and if one does, to begin anew costs a few round trips.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often the node has slept. What it holds open must be made anew when this changes.
pub(super) type Sleeps = watch::Receiver<u32>;

/// When the node was last seen running, by [`now`].
#[derive(Debug)]
pub(super) struct Pulse {
    last: Duration,
}

impl Pulse {
    pub(super) const fn new(now: Duration) -> Self {
        Self { last: now }
    }

    /// The node runs now. Returns how long it has slept, if it did.
    pub(super) fn beat(&mut self, now: Duration) -> Option<Duration> {
        let pause = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        (pause >= LONGEST_PAUSE).then_some(pause)
    }
}

/// Now, on a clock that counts sleep, and that nobody sets.
pub(super) fn now() -> Duration {
    SystemClock.monotonic()
}

/// Waits for the next sleep to be over.
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
        assert_eq!(beat(613_500), None, "it was said");
        assert_eq!(beat(623_500), Some(LONGEST_PAUSE));
        // Two clocks that are read one after the other may seem to go back.
        assert_eq!(beat(600_000), None);
        assert_eq!(beat(624_000), None);
    }
}
