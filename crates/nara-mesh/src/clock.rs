//! The wall clock, as something that can be replaced.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds, go_duration};

/// The time of day. Timeouts use tokio's clock instead.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, in nanoseconds.
    fn now_nanos(&self) -> UnixNanos;

    /// Time since a moment in the past. Setting the time of day does not change it, so the difference of two readings
    /// shows how far the clock was set in between.
    fn monotonic(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let now = monotonic_now();
        now.saturating_duration_since(*BEGIN.get_or_init(|| now))
    }

    /// Now, in milliseconds.
    fn now_millis(&self) -> UnixMillis {
        self.now_nanos().to_millis()
    }

    /// Now, in seconds.
    fn now_seconds(&self) -> UnixSeconds {
        self.now_nanos().to_seconds()
    }
}

/// The clock of this machine was set while a nara ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// How far ahead it was set, in **nanoseconds**; negative: back.
    pub nanos: i64,
    /// When that was noticed, by the new time.
    pub at: UnixMillis,
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.nanos < 0 { "back" } else { "forward" };
        // To the second: nobody reads more of it.
        let by = Duration::from_secs(Duration::from_nanos(self.nanos.unsigned_abs()).as_secs());
        write!(f, "set {direction} by {}", go_duration(by, false))
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

    /// By the operating system as well: paused time of a test must not look like a clock that was set.
    fn monotonic(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        now.saturating_duration_since(*BEGIN.get_or_init(|| now))
    }
}

impl SystemClock {
    /// Whether HTTP can write the time of this machine. The HTTP server of hyper writes it into its answers, and panics where it
    /// cannot, so connections are closed then.
    pub fn can_be_dated() -> bool {
        is_http_date(SystemTime::now())
    }
}

/// HTTP has four digits for the year.
fn is_http_date(time: SystemTime) -> bool {
    let since = time.duration_since(UNIX_EPOCH);
    since.is_ok_and(|since| since.as_secs() <= LAST_HTTP_DATE)
}

/// The last second of the year 9999.
const LAST_HTTP_DATE: u64 = 253_402_300_799;

/// A time as HTTP writes it; the nearest that it can, if it cannot write that one.
pub(crate) fn http_date(time: UnixSeconds) -> HttpDate {
    let seconds = u64::try_from(time.get()).unwrap_or(0).min(LAST_HTTP_DATE);
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

/// A clock that stands still until it is moved: for tests.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    /// Nanoseconds.
    monotonic: AtomicI64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: UnixNanos) -> Self {
        Self(Arc::new(Hands {
            wall: AtomicI64::new(now.get()),
            monotonic: AtomicI64::default(),
        }))
    }

    /// Sets the time of day to `now`, as an operator does; [`Clock::monotonic`] stays.
    pub fn set(&self, now: UnixNanos) {
        self.0.wall.store(now.get(), Ordering::SeqCst);
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.0.monotonic.fetch_add(nanos, Ordering::SeqCst);
        self.set(self.now_nanos().saturating_add(by));
    }
}

impl Clock for ManualClock {
    fn now_nanos(&self) -> UnixNanos {
        UnixNanos::new(self.0.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.0.monotonic.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// Now, on the clock that tokio's timers use, so that tests with paused time see it move.
pub(crate) fn monotonic_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hyper_can_write_as_a_date_is_what_it_is_asked_to_write() {
        let last = UNIX_EPOCH + Duration::from_secs(LAST_HTTP_DATE);
        for (time, can_be_written) in [
            (UNIX_EPOCH, true),
            (UNIX_EPOCH - Duration::from_nanos(1), false),
            (last + Duration::from_millis(999), true),
            (last + Duration::from_secs(1), false),
        ] {
            assert_eq!(is_http_date(time), can_be_written, "{time:?}");
            let written = std::panic::catch_unwind(|| httpdate::fmt_http_date(time));
            assert_eq!(written.is_ok(), can_be_written, "{time:?}");
        }
    }
}
