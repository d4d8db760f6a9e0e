//! The wall clock, as something that can be replaced.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
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

    /// By the operating system as well: paused time of a test must not look like a clock that was set, nor must a sleep of
    /// the machine.
    fn monotonic(&self) -> Duration {
        static BEGIN: OnceLock<Instant> = OnceLock::new();
        let now = Instant::now();
        let now = now + slept_by(now);
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

/// How long this machine has slept (suspend to memory or disk) since this was first called, in whole **seconds**.
///
/// Neither [`Instant`] nor a timer of tokio moves meanwhile, but to peers, relays and NATs the time passes. Setting the time of day
/// does not change it. Zero where [`Instant`] counts sleep itself, and where the system does not tell. A reading of a clock is not
/// free, and calls ask often, so it looks every 10 ms.
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
        // To the second: two clocks are not read at the same moment.
        SLEPT.store(slept.as_secs(), Ordering::Relaxed);
        LOOKED.store(look, Ordering::Release);
    }
    Duration::from_secs(SLEPT.load(Ordering::Relaxed))
}

/// The time of a clock that moves while the machine sleeps, and that nobody sets.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn counting_sleep() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(not(target_vendor = "apple"))]
    let clock = ClockId::Boottime;
    // `Instant` is another clock there.
    #[cfg(target_vendor = "apple")]
    let clock = ClockId::Monotonic;
    clock_gettime(clock).try_into().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
const fn counting_sleep() -> Option<Duration> {
    None
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

/// Now, on the clock that tokio's timers use, so that tests with paused time see it move; a sleep of the machine counts.
pub(crate) fn monotonic_now() -> Instant {
    with_sleep(tokio::time::Instant::now())
}

/// A moment since the machine last slept, as [`monotonic_now`] would have given it then.
pub(crate) fn with_sleep(at: tokio::time::Instant) -> Instant {
    let at = at.into_std();
    at + slept_by(at)
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
