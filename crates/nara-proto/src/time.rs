//! Unix time in the three units that the wire mixes.
//!
//! Headers carry milliseconds, events nanoseconds, zines, hops, observations and checkpoints seconds
//! (wire facts, section 15 no. 11). Each unit has its own type, so that they cannot be confused; converting
//! is explicit and says which way it rounds.

use std::fmt;
use std::time::Duration;

macro_rules! unix_time {
    ($(#[$doc:meta])* $name:ident, $unit:literal, $per_second:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            #[doc = concat!("A time of `value` ", $unit, " since 1970-01-01T00:00:00Z.")]
            pub const fn new(value: i64) -> Self {
                Self(value)
            }

            #[doc = concat!("The number of ", $unit, " since 1970-01-01T00:00:00Z.")]
            pub const fn get(self) -> i64 {
                self.0
            }

            /// This time moved forward; saturates at the end of the range.
            pub fn saturating_add(self, by: Duration) -> Self {
                let units = by.as_nanos() / (1_000_000_000 / $per_second);
                Self(self.0.saturating_add(i64::try_from(units).unwrap_or(i64::MAX)))
            }

            /// This time moved back; saturates at the beginning of the range.
            pub fn saturating_sub(self, by: Duration) -> Self {
                let units = by.as_nanos() / (1_000_000_000 / $per_second);
                Self(self.0.saturating_sub(i64::try_from(units).unwrap_or(i64::MAX)))
            }

            /// The distance between two times, whichever is later.
            pub fn abs_diff(self, other: Self) -> Duration {
                let units = u128::from(self.0.abs_diff(other.0));
                let nanos = units * (1_000_000_000 / $per_second);
                Duration::new(
                    u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX),
                    (nanos % 1_000_000_000) as u32,
                )
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unix_time!(
    /// Unix time in whole seconds: zines, hops, observations, checkpoints, import requests.
    UnixSeconds, "seconds", 1
);
unix_time!(
    /// Unix time in whole milliseconds: the `X-Nara-Timestamp` header.
    UnixMillis, "milliseconds", 1_000
);
unix_time!(
    /// Unix time in whole nanoseconds: event timestamps and the `t` of `/ping`.
    UnixNanos, "nanoseconds", 1_000_000_000
);

impl UnixSeconds {
    /// The same time in nanoseconds; saturates (the range of 64-bit nanoseconds ends in 2262).
    pub const fn to_nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(1_000_000_000))
    }

    /// The same time in milliseconds; saturates.
    pub const fn to_millis(self) -> UnixMillis {
        UnixMillis(self.0.saturating_mul(1_000))
    }
}

impl UnixMillis {
    /// The second in which this time lies (rounds towards the past).
    pub const fn to_seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000))
    }

    /// The same time in nanoseconds; saturates.
    pub const fn to_nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(1_000_000))
    }
}

impl UnixNanos {
    /// The second in which this time lies (rounds towards the past).
    pub const fn to_seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000_000_000))
    }

    /// The millisecond in which this time lies (rounds towards the past).
    pub const fn to_millis(self) -> UnixMillis {
        UnixMillis(self.0.div_euclid(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions_round_towards_the_past() {
        assert_eq!(UnixMillis::new(-1).to_seconds(), UnixSeconds::new(-1));
        assert_eq!(UnixMillis::new(1_999).to_seconds(), UnixSeconds::new(1));
        assert_eq!(UnixNanos::new(-1).to_millis(), UnixMillis::new(-1));
        assert_eq!(UnixSeconds::new(i64::MAX).to_nanos(), UnixNanos::new(i64::MAX));
    }

    #[test]
    fn distance_is_symmetric_even_at_the_ends_of_the_range() {
        let (low, high) = (UnixMillis::new(i64::MIN), UnixMillis::new(i64::MAX));
        assert_eq!(low.abs_diff(high), high.abs_diff(low));
        assert_eq!(
            UnixMillis::new(5).abs_diff(UnixMillis::new(-5)),
            Duration::from_millis(10)
        );
    }

    #[test]
    fn adding_uses_the_unit_of_the_type() {
        let by = Duration::from_millis(1_500);
        assert_eq!(UnixSeconds::new(0).saturating_add(by), UnixSeconds::new(1));
        assert_eq!(UnixMillis::new(0).saturating_add(by), UnixMillis::new(1_500));
        assert_eq!(
            UnixNanos::new(0).saturating_sub(by),
            UnixNanos::new(-1_500_000_000)
        );
        assert_eq!(
            UnixNanos::new(i64::MAX).saturating_add(Duration::MAX),
            UnixNanos::new(i64::MAX)
        );
    }
}
