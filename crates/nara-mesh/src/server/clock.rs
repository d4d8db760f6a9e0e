//! The clock of a server, and what is done when somebody sets it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::clock_watch::{ClockWatch, Look};
use crate::metrics;
use crate::registry::PeerRegistry;

/// Of the times of requests.
const PRECISION: Duration = Duration::from_millis(1);

/// How often the clock of a server that nobody calls is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// The clock of a server.
#[derive(Debug)]
pub(in crate::server) struct ServerClock {
    watch: ClockWatch,
    registry: PeerRegistry,
}

impl ServerClock {
    pub(in crate::server) fn new(clock: Arc<dyn Clock>, registry: PeerRegistry) -> Self {
        let watch = ClockWatch::new(clock);
        Self { watch, registry }
    }

    /// The time now. If the clock was set, the operator is told.
    pub(in crate::server) fn look(&self) -> Look {
        let look = self.watch.look();
        if let Some(step) = look.step {
            let direction = if step.nanos < 0 { "back" } else { "forward" };
            ::metrics::counter!(metrics::CLOCK_STEPS, "direction" => direction).increment(1);
            tracing::warn!(
                direction,
                seconds = step.nanos / 1_000_000_000,
                "the clock of this machine was {step}; requests, answers and events that were signed by the old time are \
                 refused by those whose clock is right"
            );
            self.registry.note_clock_step(step);
        }
        look
    }

    /// Whether what was signed at `age` before a look may be from before the start of this server.
    pub(in crate::server) fn is_from_before(&self, age: Duration, look: Look) -> bool {
        // Asked again only then: the thread may have stood still behind the reading of the uptime, and before that of the time.
        is_from_before(age, look.uptime) && is_from_before(age, self.look().uptime)
    }

    /// Looks at the clock for ever.
    pub(in crate::server) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }
}

/// Whether something that was signed at `age` before now may have been accepted by a server that ran here before, whose
/// memory of requests is lost.
///
/// The age is judged by the time of day, as freshness is; the uptime by a monotonic clock. So a time of day that was wrong
/// at the start and is set right neither opens the time before the start nor refuses what is signed now. The age is that of
/// two times cut to milliseconds, and so up to [`PRECISION`] too large.
fn is_from_before(age: Duration, uptime: Duration) -> bool {
    age >= uptime + PRECISION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_since_the_start_is_not_from_before_however_times_are_cut() {
        // In microseconds: when the server started, when it was signed since, and when it came.
        for (start, signed, came) in [
            (0, 0, 0),
            (100, 200, 1_000),
            (999, 999, 1_000),
            (1_500, 1_600, 9_000),
        ] {
            let millis = Duration::from_millis(came / 1_000 - signed / 1_000);
            assert!(!is_from_before(millis, Duration::from_micros(came - start)));
        }
        assert!(is_from_before(Duration::from_millis(3), Duration::from_millis(2)));
    }
}
