//! The resources that a measurement uses besides time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use stats_alloc::INSTRUMENTED_SYSTEM;

/// The resources used by this process so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resources {
    processor: Duration,
    allocations: usize,
}

/// The resources per round trip, both ends together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PerRoundTrip {
    /// CPU time in user and kernel mode, in microseconds.
    pub(crate) cpu_us: f64,
    /// `None`: this program does not count allocations.
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

    /// Returns the CPU time used since.
    pub(crate) fn processor_since(self) -> Duration {
        Self::now().processor - self.processor
    }

    /// Returns the resources used since, per round trip.
    pub(crate) fn per_round_trip(self, count: u64) -> PerRoundTrip {
        let now = Self::now();
        let allocations = now.allocations - self.allocations;
        PerRoundTrip {
            cpu_us: (now.processor - self.processor).as_secs_f64() * 1e6 / count as f64,
            allocations: (now.allocations > 0).then(|| allocations as f64 / count as f64),
        }
    }
}
