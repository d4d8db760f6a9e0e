//! The offset of a peer's clock from ours, and which of the two is probably wrong.
//!
//! A peer reads its clock between two readings of ours, the sending of the request and the arrival of the answer, so
//! its offset lies between two bounds (Cristian's algorithm). The bounds of several answers are intersected; the
//! fastest answer gives the narrowest bounds. If bounds do not overlap, a clock was set in between, and only the newest
//! samples count.
//!
//! ```
//! use std::time::{Duration, Instant};
//!
//! use nara_proto::clock_offset::{ClockEstimate, ClockSample};
//! use nara_proto::time::UnixNanos;
//!
//! # let now = Instant::now();
//! let (sent, received) = (UnixNanos::new(1_000_000_000), UnixNanos::new(1_020_000_000));
//! let told = UnixNanos::new(8_010_000_000);
//! let sample = ClockSample::of_answer(told, Duration::ZERO, sent, received).expect("our clock ran on");
//! let mut clock = ClockEstimate::default();
//! clock.record(sample, now);
//! let offset = clock.offset(now).expect("one sample is enough");
//! assert_eq!(offset.nanos(), 7_000_000_000);
//! assert_eq!(offset.uncertainty(), Duration::from_millis(10));
//! assert_eq!(offset.to_string(), "+7s ± 10ms");
//! ```

mod fault;
mod mesh_clock;

pub use fault::{ClockFault, ClockRefusal, FAULT_HEADER, TIME_HEADER};
pub use mesh_clock::MeshClock;

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::time::{UnixMillis, UnixNanos, go_duration};

/// The offset of a peer's clock from which on a warning is logged: a sixth of the freshness window, and far more than
/// the difference between clocks that are synchronised over the network.
pub const CLOCK_WARNING: Duration = Duration::from_secs(5);

/// The number of samples in an estimate.
const SAMPLES: usize = 8;

/// A sample that does not improve the estimate is kept only if the last one is at least this old.
const SPACING: Duration = Duration::from_secs(1);

/// The age at which a sample expires.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The greatest assumed drift between two clocks, as a reciprocal: 1/5,000 is 200 ppm, twice the drift of uncorrected
/// clocks.
const DRIFT: u32 = 5_000;

/// The bounds of a clock's offset, from one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    low: i64,
    high: i64,
}

/// The offset of another clock from ours, in **nanoseconds**; positive if it is ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    nanos: i64,
    uncertainty: Duration,
}

/// An estimate of a clock's offset from its last samples.
#[derive(Clone, Debug, Default)]
pub struct ClockEstimate {
    samples: VecDeque<(Instant, ClockSample)>,
    /// The intersection of the samples when the last one was added.
    known: Option<(Instant, ClockSample)>,
}

impl ClockSample {
    /// Returns the sample of an answer that contains the peer's time, rounded down to a multiple of `resolution`.
    /// `sent` and `received` are the times of the request and the answer by our clock. `None` if our clock was set back
    /// in between.
    pub fn of_answer(
        told: UnixNanos,
        resolution: Duration,
        sent: UnixNanos,
        received: UnixNanos,
    ) -> Option<Self> {
        let latest = told.saturating_add(resolution.saturating_sub(Duration::from_nanos(1)));
        (sent <= received).then(|| Self {
            low: told.get().saturating_sub(received.get()),
            high: latest.get().saturating_sub(sent.get()),
        })
    }

    /// Returns the same sample, widened by the drift of `age`.
    fn aged(self, age: Duration) -> Self {
        let drift = i64::try_from((age / DRIFT).as_nanos()).unwrap_or(i64::MAX);
        Self {
            low: self.low.saturating_sub(drift),
            high: self.high.saturating_add(drift),
        }
    }

    /// Returns the overlap of both samples; `None` if they do not overlap.
    fn intersect(self, other: Self) -> Option<Self> {
        let both = Self {
            low: self.low.max(other.low),
            high: self.high.min(other.high),
        };
        (both.low <= both.high).then_some(both)
    }

    /// Returns whether the bounds of `other` lie within these bounds.
    const fn contains(self, other: Self) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    /// Returns the middle of the bounds.
    pub fn offset(self) -> ClockOffset {
        let (low, high) = (i128::from(self.low), i128::from(self.high));
        let nanos = i64::try_from((low + high).div_euclid(2)).unwrap_or(i64::MAX);
        // Rounded up, so that both bounds are within it.
        let uncertainty = u64::try_from((high - low + 1) / 2).unwrap_or(u64::MAX);
        ClockOffset {
            nanos,
            uncertainty: Duration::from_nanos(uncertainty),
        }
    }
}

impl ClockEstimate {
    /// Adds a sample, and returns the new estimate. Samples that contradict it date from before a clock was set, and
    /// are dropped. `None` if the sample adds nothing to the samples of the last second and would only displace one.
    pub fn record(&mut self, sample: ClockSample, now: Instant) -> Option<ClockOffset> {
        if let Some((at, known)) = self.known {
            let age = now.saturating_duration_since(at);
            if age < SPACING && sample.contains(known.aged(age)) {
                return None;
            }
        }
        self.samples.push_back((now, sample));
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let (agreed, agreeing) = self.agreeing(now);
        self.samples.drain(..self.samples.len() - agreeing);
        self.known = agreed.map(|agreed| (now, agreed));
        agreed.map(ClockSample::offset)
    }

    /// Returns the estimate; `None` without a sample of the last ten minutes.
    pub fn offset(&self, now: Instant) -> Option<ClockOffset> {
        self.agreeing(now).0.map(ClockSample::offset)
    }

    /// Returns the intersection of the newest samples that agree, and their number.
    fn agreeing(&self, now: Instant) -> (Option<ClockSample>, usize) {
        let mut common = None;
        let mut count = 0;
        for (at, sample) in self.samples.iter().rev() {
            let age = now.saturating_duration_since(*at);
            let sample = sample.aged(age);
            let both = match common {
                None => Some(sample),
                Some(common) => sample.intersect(common),
            };
            if age > MAX_AGE || both.is_none() {
                break;
            }
            common = both;
            count += 1;
        }
        (common, count)
    }
}

impl ClockOffset {
    /// Returns how far the other clock is ahead, in nanoseconds; negative if it is behind.
    pub const fn nanos(self) -> i64 {
        self.nanos
    }

    /// Returns the greatest difference between this offset and the true one.
    pub const fn uncertainty(self) -> Duration {
        self.uncertainty
    }

    /// Returns the absolute offset.
    pub const fn magnitude(self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }

    /// Returns the least absolute offset within the uncertainty.
    pub const fn at_least(self) -> Duration {
        self.magnitude().saturating_sub(self.uncertainty)
    }

    /// Returns the time of the other clock when ours shows `now`.
    pub fn apply(self, now: UnixMillis) -> UnixMillis {
        UnixMillis::new(now.get().saturating_add(self.nanos.div_euclid(1_000_000)))
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { "-" } else { "+" };
        write!(
            f,
            "{sign}{} ± {}",
            short(self.magnitude()),
            short(self.uncertainty)
        )
    }
}

/// Formats a duration with three decimals at most.
fn short(duration: Duration) -> String {
    let unit = match duration.as_nanos() {
        0..1_000_000 => 1_000,
        1_000_000..1_000_000_000 => 10_000,
        _ => 1_000_000,
    };
    let nanos = duration.as_nanos() / unit * unit;
    go_duration(
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
        false,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLI: i64 = 1_000_000;
    const SECOND: i64 = 1_000 * MILLI;

    #[expect(clippy::disallowed_methods, reason = "an Instant has no other source")]
    pub(super) fn some_instant() -> Instant {
        Instant::now()
    }

    /// A sample of a clock that is `offset` ahead, asked at `at` with two delays.
    fn sample(at: i64, offset: i64, there: i64, back: i64, resolution: i64) -> ClockSample {
        let told = (at + there + offset).div_euclid(resolution) * resolution;
        let resolution = Duration::from_nanos(resolution.unsigned_abs());
        let (sent, received) = (UnixNanos::new(at), UnixNanos::new(at + there + back));
        ClockSample::of_answer(UnixNanos::new(told), resolution, sent, received).unwrap()
    }

    fn contains(offset: ClockOffset, truth: i64) -> bool {
        offset.nanos().abs_diff(truth) <= u64::try_from(offset.uncertainty().as_nanos()).unwrap()
    }

    #[test]
    fn a_quick_answer_makes_the_estimate_better_and_a_slow_one_does_not_make_it_worse() {
        let start = some_instant();
        let mut clock = ClockEstimate::default();
        clock.record(sample(0, 7 * SECOND, 300 * MILLI, 100 * MILLI, 1), start);
        let rough = clock.offset(start).unwrap();
        assert_eq!(rough.nanos(), 7_100 * MILLI);
        assert_eq!(rough.uncertainty(), Duration::from_millis(200));
        clock.record(sample(SECOND, 7 * SECOND, MILLI, MILLI, 1), start);
        let fine = clock.offset(start).unwrap();
        assert_eq!(fine.nanos(), 7 * SECOND);
        assert_eq!(fine.uncertainty(), Duration::from_millis(1));
        clock.record(sample(2 * SECOND, 7 * SECOND, 300 * MILLI, 600 * MILLI, 1), start);
        assert_eq!(clock.offset(start).unwrap(), fine);
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let start = some_instant();
        let mut clock = ClockEstimate::default();
        for n in 0..8 {
            clock.record(sample(n, 7 * SECOND, MILLI, MILLI, 1), start);
        }
        clock.record(sample(9, 0, MILLI, MILLI, 1), start);
        assert_eq!(clock.offset(start).unwrap().nanos(), 0);
    }

    #[test]
    fn an_uninformative_sample_does_not_displace_another() {
        let start = some_instant();
        let mut clock = ClockEstimate::default();
        let narrow = sample(0, 7 * SECOND, MILLI, MILLI, 1);
        let wide = sample(0, 7 * SECOND, 2 * MILLI, 2 * MILLI, 1);
        assert!(clock.record(narrow, start).is_some());
        for _ in 0..2 * SAMPLES {
            assert_eq!(clock.record(wide, start), None);
        }
        assert_eq!(clock.offset(start), Some(narrow.offset()));
        assert!(clock.record(wide, start + SPACING).is_some(), "it was long ago");
        let narrower = sample(0, 7 * SECOND, MILLI / 2, MILLI / 2, 1);
        assert_eq!(clock.record(narrower, start + SPACING), Some(narrower.offset()));
    }

    #[test]
    fn an_estimate_becomes_less_certain_and_expires() {
        let start = some_instant();
        let mut clock = ClockEstimate::default();
        assert_eq!(clock.offset(start), None);
        clock.record(sample(0, SECOND, MILLI, MILLI, 1), start);
        let later = clock.offset(start + MAX_AGE).unwrap();
        assert_eq!(later.uncertainty(), Duration::from_millis(1) + MAX_AGE / DRIFT);
        assert_eq!(clock.offset(start + MAX_AGE + Duration::from_nanos(1)), None);
    }

    #[test]
    fn a_clock_that_was_set_back_meanwhile_gives_no_sample() {
        let (sent, received) = (UnixNanos::new(10), UnixNanos::new(9));
        assert_eq!(ClockSample::of_answer(sent, Duration::ZERO, sent, received), None);
    }

    #[test]
    fn offsets_are_for_people_too() {
        let offset = |nanos, uncertainty| ClockOffset {
            nanos,
            uncertainty: Duration::from_nanos(uncertainty),
        };
        assert_eq!(offset(-1_234_567_890, 1_234_567).to_string(), "-1.234s ± 1.23ms");
        assert_eq!(offset(999, 0).to_string(), "+0s ± 0s");
        assert_eq!(offset(i64::MIN, u64::MAX).magnitude().as_nanos(), 1 << 63);
        assert_eq!(offset(5 * SECOND, 6_000_000_000).at_least(), Duration::ZERO);
        assert_eq!(offset(-1, 0).apply(UnixMillis::new(7)), UnixMillis::new(6));
    }

    proptest! {
        /// Whatever the delays are, the true offset is within the uncertainty, as long as no clock is set.
        #[test]
        fn the_true_offset_is_within_the_uncertainty(
            offset in -100 * SECOND..100 * SECOND,
            answers in proptest::collection::vec(
                (0_i64..100 * SECOND, 0_i64..5 * SECOND, 0_i64..5 * SECOND, 0_usize..3),
                1..30,
            ),
        ) {
            let start = some_instant();
            let mut clock = ClockEstimate::default();
            let mut at = 0;
            for (pause, there, back, resolution) in answers {
                at += pause;
                let now = start + Duration::from_nanos(at.unsigned_abs());
                clock.record(sample(at, offset, there, back, [1, MILLI, SECOND][resolution]), now);
                let estimate = clock.offset(now).unwrap();
                prop_assert!(contains(estimate, offset), "{estimate} for {offset}");
                prop_assert!(estimate.uncertainty() <= Duration::from_nanos((there + back + SECOND).unsigned_abs()));
                prop_assert!(clock.samples.len() <= SAMPLES);
            }
        }

        /// A drift up to the assumed one does not invalidate the bounds.
        #[test]
        fn a_drift_is_allowed_for(
            per_million in -200_i64..=200,
            pauses in proptest::collection::vec((0_i64..200 * SECOND, 0_i64..SECOND, 0_i64..SECOND), 1..30),
        ) {
            let start = some_instant();
            let mut clock = ClockEstimate::default();
            let mut at = 0;
            for (pause, there, back) in pauses {
                at += pause;
                // The offset at the moment when the peer reads its clock.
                let offset = (at + there) / 1_000_000 * per_million;
                let now = start + Duration::from_nanos(at.unsigned_abs());
                clock.record(sample(at, offset, there, back, 1), now);
                let offset_now = at / 1_000_000 * per_million;
                let estimate = clock.offset(now).unwrap();
                let slack = u64::try_from(there / 1_000).unwrap() + 1_000;
                prop_assert!(
                    estimate.nanos().abs_diff(offset_now)
                        <= u64::try_from(estimate.uncertainty().as_nanos()).unwrap() + slack,
                    "{estimate} for {offset_now}"
                );
            }
        }

        /// Arbitrary times from a peer cause no panic.
        #[test]
        fn no_time_makes_it_panic(
            told in any::<i64>(),
            sent in any::<i64>(),
            received in any::<i64>(),
            resolution in any::<u64>(),
        ) {
            let now = some_instant();
            let sample = ClockSample::of_answer(
                UnixNanos::new(told),
                Duration::from_nanos(resolution),
                UnixNanos::new(sent),
                UnixNanos::new(received),
            );
            prop_assert_eq!(sample.is_some(), sent <= received);
            if let Some(sample) = sample {
                let mut clock = ClockEstimate::default();
                clock.record(sample, now);
                let offset = clock.offset(now).unwrap();
                let _ = (offset.to_string(), offset.apply(UnixMillis::new(told)), offset.at_least());
            }
        }
    }
}
