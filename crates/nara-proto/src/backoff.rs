//! Back-off: pauses between attempts.

use std::time::Duration;

/// Returns a random pause between half of `pause` and all of it, so that peers that failed together do not retry
/// together. `random` is any number; `u32::MAX` returns the whole pause.
pub fn spread(pause: Duration, random: u32) -> Duration {
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// An exponential back-off: the pause doubles after each failure, up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// Returns a back-off with this first pause and this longest pause. A limit below the first pause counts as the
    /// first pause.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
        }
    }

    /// Records a failure and returns the pause after it, [spread](spread()) by a random number.
    pub fn after_failure(&mut self, random: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        spread(doubled.min(self.limit.max(self.first)), random)
    }

    /// Records a success: the next pause is the first one again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_limit_and_start_over() {
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let mut pauses = || [(); 5].map(|()| backoff.after_failure(u32::MAX).as_secs());
        assert_eq!(pauses(), [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.after_failure(u32::MAX), SECOND);
    }

    #[test]
    fn a_pause_is_at_least_half_and_at_most_whole() {
        for (random, millis) in [(0, 500), (u32::MAX / 2, 750), (u32::MAX, 1000)] {
            let pause = spread(SECOND, random);
            assert!(pause.as_millis().abs_diff(millis) <= 1, "{random}: {pause:?}");
        }
    }

    #[test]
    fn no_number_of_failures_is_too_much() {
        let mut backoff = Backoff::new(SECOND, Duration::MAX);
        for _ in 0..100 {
            backoff.after_failure(0);
        }
        let mut short = Backoff::new(SECOND, Duration::ZERO);
        assert_eq!(short.after_failure(u32::MAX), SECOND);
    }
}
