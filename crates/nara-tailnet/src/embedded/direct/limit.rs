//! A rate limit for work that a peer can cause.

use std::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Limit {
    capacity: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Limit {
    /// Creates a full bucket.
    pub(super) fn new(capacity: f64, per_second: f64, now: Instant) -> Self {
        Self {
            capacity,
            per_second,
            tokens: capacity,
            filled: now,
        }
    }

    /// Takes a token. Returns whether one was available.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.capacity);
        self.filled = now;
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_than_the_rate_is_taken() {
        let begin = Instant::now();
        let mut limit = Limit::new(20.0, 10.0, begin);
        let mut taken = |now| (0..100).filter(|_| limit.take(now)).count();
        assert_eq!(taken(begin), 20);
        assert_eq!(taken(begin + Duration::from_millis(500)), 5);
        assert_eq!(taken(begin + Duration::from_secs(60)), 20);
    }
}
