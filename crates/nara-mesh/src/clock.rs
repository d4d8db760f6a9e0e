//! The wall clock behind a trait, so that it can be replaced.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds, go_duration};

/// A wall clock. Timeouts use tokio's clock instead.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time, in nanoseconds.
    fn now_nanos(&self) -> UnixNanos;

    /// Returns the time since a fixed moment in the past. Setting the wall clock does not change it, so comparing
    /// readings of both shows by how much the wall clock was set.
    fn monotonic(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let now = monotonic_now();
        now.saturating_duration_since(*BEGIN.get_or_init(|| now))
    }

    /// Returns the current time, in milliseconds.
    fn now_millis(&self) -> UnixMillis {
        self.now_nanos().to_millis()
    }

    /// Returns the current time, in seconds.
    fn now_seconds(&self) -> UnixSeconds {
        self.now_nanos().to_seconds()
    }
}

/// A step of this machine's clock while a nara was running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// The size of the step, in **nanoseconds**; negative if the clock was set back.
    pub nanos: i64,
    /// The time of detection, by the new clock.
    pub at: UnixMillis,
}

impl fmt::Display for ClockStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.nanos < 0 { "back" } else { "forward" };
        // Rounded down to seconds; more precision is noise.
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

    /// Taken from the operating system as well: neither paused time in a test nor a suspend of the machine must look
    /// like a clock step.
    fn monotonic(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        let now = now + slept_by(now);
        now.saturating_duration_since(*BEGIN.get_or_init(|| now))
    }
}

impl SystemClock {
    /// Returns whether the current time of this machine has an HTTP date. hyper's server writes it into its answers and
    /// panics if it cannot, so connections are closed then.
    pub fn can_be_dated() -> bool {
        is_http_date(SystemTime::now())
    }
}

/// Returns how long this machine was suspended (to memory or disk) since the first call, in whole **seconds**.
///
/// Neither [`Instant`] nor tokio's timers advance meanwhile, but for peers, relays and NATs the time passes. Setting the wall clock does
/// not change it. Zero where [`Instant`] includes suspend itself, and where the system does not report it. Reading a clock is not free
/// and calls are frequent, so it reads every 10 ms.
pub(crate) fn slept_by(now: Instant) -> Duration {
    static BEGIN: OnceLock<Option<(Duration, Instant)>> = OnceLock::new();
    static LOOKED: AtomicU64 = AtomicU64::new(u64::MAX);
    static SLEPT: AtomicU64 = AtomicU64::new(0);
    let Some((began, at)) = BEGIN.get_or_init(|| Some((counting_sleep()?, Instant::now()))) else {
        return Duration::ZERO;
    };
    let look = now.saturating_duration_since(*at).as_millis() / 10;
    let look = u64::try_from(look).unwrap_or_default();
    if LOOKED.load(Ordering::Acquire) != look {
        let counted = counting_sleep().unwrap_or_default();
        let slept = counted.saturating_sub(*began).saturating_sub(at.elapsed());
        // Rounded down to seconds: two clocks are not read at the same moment.
        SLEPT.store(slept.as_secs(), Ordering::Relaxed);
        LOOKED.store(look, Ordering::Release);
    }
    Duration::from_secs(SLEPT.load(Ordering::Relaxed))
}

/// Returns the time of a clock that includes suspend and is never set.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn counting_sleep() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(not(target_vendor = "apple"))]
    let clock = ClockId::Boottime;
    // `Instant` uses another clock there.
    #[cfg(target_vendor = "apple")]
    let clock = ClockId::Monotonic;
    clock_gettime(clock).try_into().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
const fn counting_sleep() -> Option<Duration> {
    None
}

/// Returns whether HTTP can format a time: its year has four digits.
fn is_http_date(time: SystemTime) -> bool {
    let since = time.duration_since(UNIX_EPOCH);
    since.is_ok_and(|since| since.as_secs() <= LAST_HTTP_DATE)
}

/// The last second of the year 9999.
const LAST_HTTP_DATE: u64 = 253_402_300_799;

/// Formats a time as an HTTP date, or the nearest possible one.
pub(crate) fn http_date(time: UnixSeconds) -> HttpDate {
    let seconds = u64::try_from(time.get()).unwrap_or(0).min(LAST_HTTP_DATE);
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

/// A clock for tests that only moves when it is told to.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Hands>);

#[derive(Debug)]
struct Hands {
    wall: AtomicI64,
    /// Nanoseconds.
    monotonic: AtomicI64,
}

impl ManualClock {
    /// Returns a clock that shows `now`.
    pub fn new(now: UnixNanos) -> Self {
        Self(Arc::new(Hands {
            wall: AtomicI64::new(now.get()),
            monotonic: AtomicI64::default(),
        }))
    }

    /// Sets the wall clock to `now`, as an operator does; [`Clock::monotonic`] does not change.
    pub fn set(&self, now: UnixNanos) {
        self.0.wall.store(now.get(), Ordering::SeqCst);
    }

    /// Advances the clock.
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

/// Returns the current time of tokio's clock, which tests can pause, plus the time of suspend.
pub(crate) fn monotonic_now() -> Instant {
    with_sleep(tokio::time::Instant::now())
}

/// Converts a time since the last suspend to the clock of [`monotonic_now`].
pub(crate) fn with_sleep(at: tokio::time::Instant) -> Instant {
    let at = at.into_std();
    at + slept_by(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_an_http_date_exactly_if_hyper_can_write_it() {
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
