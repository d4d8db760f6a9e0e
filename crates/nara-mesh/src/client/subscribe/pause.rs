//! The backoff between attempts to open a stream.

use std::time::Duration;

use crate::defaults;

/// A stream that lasted this long resets the backoff. Shorter ones may come from a peer that closes every stream
/// at once.
const GOOD: Duration = Duration::from_secs(10);

/// Number of failures that a protocol violation counts for: it is likely to repeat.
const RULE_BROKEN: u32 = 6;

/// The shortest and the longest pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) min: Duration,
    pub(super) max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            min: defaults::STREAM_RECONNECT_MIN,
            max: defaults::STREAM_RECONNECT_MAX,
        }
    }
}

/// The backoff of one subscription.
#[derive(Debug)]
pub(super) struct Pauses {
    bounds: Bounds,
    failures: u32,
    /// The pause that the peer asked for.
    wish: Duration,
}

impl Pauses {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            failures: 0,
            wish: Duration::ZERO,
        }
    }

    /// Records how long a stream was open.
    pub(super) fn lasted(&mut self, open: Duration) {
        if open >= GOOD {
            self.failures = 0;
        }
    }

    /// Records a protocol violation.
    pub(super) fn rule_broken(&mut self) {
        self.failures = self.failures.max(RULE_BROKEN);
    }

    /// Records the pause that the peer asked for, in **milliseconds**.
    pub(super) fn wish(&mut self, retry_ms: u64) {
        self.wish = Duration::from_millis(retry_ms).min(self.bounds.max);
    }

    /// Returns the next pause: at least `least`, within the bounds. `random` spreads it over the upper half of
    /// its length, so that the subscribers of a returning nara do not all reconnect at once.
    pub(super) fn next(&mut self, least: Duration, random: u32) -> Duration {
        let Bounds { min, max } = self.bounds;
        let full = min.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        let spread = 0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX);
        full.mul_f64(spread).max(least).max(self.wish).max(min).min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_small_again() {
        let mut pauses = Pauses::new(Bounds::default());
        let next = |pauses: &mut Pauses| pauses.next(Duration::ZERO, u32::MAX).as_millis();
        let grown: Vec<_> = (0..10).map(|_| next(&mut pauses)).collect();
        assert_eq!(
            grown,
            [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]
        );
        pauses.lasted(Duration::from_secs(9));
        assert_eq!(next(&mut pauses), 30_000);
        pauses.lasted(Duration::from_secs(10));
        assert_eq!(next(&mut pauses), 200);
    }

    #[test]
    fn whatever_is_asked_for_stays_within_the_bounds() {
        let mut pauses = Pauses::new(Bounds::default());
        assert_eq!(pauses.next(Duration::ZERO, 0), Duration::from_millis(200));
        pauses.wish(5_000);
        assert_eq!(pauses.next(Duration::ZERO, 0), Duration::from_secs(5));
        pauses.wish(u64::MAX);
        assert_eq!(pauses.next(Duration::ZERO, 0), Duration::from_secs(30));
        assert_eq!(pauses.next(Duration::MAX, 0), Duration::from_secs(30));
    }
}
