//! The clock of a server, and the reaction to its steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::clock_watch::{ClockWatch, Look};
use crate::metrics;
use crate::registry::PeerRegistry;

/// The precision of the times of requests.
const PRECISION: Duration = Duration::from_millis(1);

/// The interval at which the clock of an idle server is checked.
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

    /// Reads the clock, and warns the operator of a step.
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

    /// Returns whether a message that was signed `age` before a reading may precede the start of this server.
    pub(in crate::server) fn is_from_before(&self, age: Duration, look: Look) -> bool {
        // Read again in that case only: the thread may have been suspended between the readings of the time and of the
        // uptime.
        is_from_before(age, look.uptime) && is_from_before(age, self.look().uptime)
    }

    /// Checks the clock for ever.
    pub(in crate::server) async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }
}

/// Returns whether a message that was signed `age` ago may have been accepted by an earlier server here, whose replay
/// cache is lost.
///
/// The age is measured by the wall clock, like freshness; the uptime by a monotonic clock. So correcting a wrong wall
/// clock after the start neither admits requests from before the start nor refuses current ones. Both times are
/// truncated to milliseconds, so the age is up to [`PRECISION`] too large.
fn is_from_before(age: Duration, uptime: Duration) -> bool {
    age >= uptime + PRECISION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_signed_after_the_start_never_counts_as_earlier() {
        // In microseconds: the start of the server, the signing after it, and the arrival.
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
