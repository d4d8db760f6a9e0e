//! What a measurement takes of the machine, beside time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use stats_alloc::INSTRUMENTED_SYSTEM;

/// What this process has taken so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    processor: Duration,
    allocations: usize,
}

/// What one round trip takes, both ends together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoundTrip {
    /// Processor time in the program and in the kernel, in microseconds.
    pub(crate) cpu_us: f64,
    /// `None`: this program does not count them.
    pub(crate) allocations: Option<f64>,
}

impl Resources {
    pub(crate) fn now() -> Self {
        let taken = clock_gettime(ClockId::ProcessCPUTime);
        let allocated = INSTRUMENTED_SYSTEM.stats();
        Self {
            processor: Duration::try_from(taken).unwrap_or_default(),
            allocations: allocated.allocations + allocated.reallocations,
        }
    }

    /// The processor time that was taken since.
    pub(crate) fn processor_since(self) -> Duration {
        Self::now().processor - self.processor
    }

    /// What was taken since, for each of so many round trips.
    pub(crate) fn per_round_trip(self, count: u64) -> PerRoundTrip {
        let now = Self::now();
        let allocations = now.allocations - self.allocations;
        PerRoundTrip {
            cpu_us: (now.processor - self.processor).as_secs_f64() * 1e6 / count as f64,
            allocations: (now.allocations > 0).then(|| allocations as f64 / count as f64),
        }
    }
}
