//! The wall clock, as something that can be replaced.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};

/// The time of day. Timeouts use tokio's clock instead.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, in nanoseconds.
    fn now_nanos(&self) -> UnixNanos;

    /// Now, in milliseconds.
    fn now_millis(&self) -> UnixMillis {
        self.now_nanos().to_millis()
    }

    /// Now, in seconds.
    fn now_seconds(&self) -> UnixSeconds {
        self.now_nanos().to_seconds()
    }
}

/// The clock of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_nanos(&self) -> UnixNanos {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixNanos::new(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: UnixNanos) -> Self {
        Self(Arc::new(AtomicI64::new(now.get())))
    }

    /// Sets the clock to `now`.
    pub fn set(&self, now: UnixNanos) {
        self.0.store(now.get(), Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.set(self.now_nanos().saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now_nanos(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

/// Now, on the clock that tokio's timers use, so that tests with paused time see it move.
pub(crate) fn monotonic_now() -> Instant {
    tokio::time::Instant::now().into_std()
}
