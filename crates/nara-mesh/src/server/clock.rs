//! The clock of a server, and what is done when somebody sets it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::clock::Clock;
use crate::clock_watch::{ClockWatch, Look};
use crate::metrics;
use crate::registry::PeerRegistry;

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
/// at the start and is set right neither opens the time before the start nor refuses what is signed now.
pub(in crate::server) fn is_from_before(age: Duration, uptime: Duration) -> bool {
    age > uptime
}
