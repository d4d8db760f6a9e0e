//! Pauses between attempts.

use std::time::Duration;

use crate::jitter::with_jitter;

/// Doubles from attempt to attempt up to a limit; each pause is random between half of that and all of it.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit: limit.max(first),
            next: first,
        }
    }

    /// The next pause.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (self.next * 2).min(self.limit);
        with_jitter(whole)
    }

    /// It worked: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_start_over() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 4);
        for whole in [1, 2, 4, 4] {
            let pause = backoff.pause();
            assert!(
                pause >= second * whole / 2 && pause <= second * whole,
                "{pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= second);
    }
}
