//! Unix time in the three units that the wire mixes.
//!
//! Headers carry milliseconds, events nanoseconds, and zines, hops, observations and checkpoints seconds
//! (docs/protocol/v1.md, section 15 no. 11). Each unit has its own type, so that they cannot be confused; conversions
//! are explicit and document their rounding.

use std::fmt;
use std::time::Duration;

macro_rules! unix_time {
    ($(#[$doc:meta])* $name:ident, $unit:literal, $per_second:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            #[doc = concat!("Returns the time `value` ", $unit, " since 1970-01-01T00:00:00Z.")]
            pub const fn new(value: i64) -> Self {
                Self(value)
            }

            #[doc = concat!("Returns the number of ", $unit, " since 1970-01-01T00:00:00Z.")]
            pub const fn get(self) -> i64 {
                self.0
            }

            /// Returns this time moved forward; saturates at the end of the range.
            pub fn saturating_add(self, by: Duration) -> Self {
                let units = by.as_nanos() / (1_000_000_000 / $per_second);
                Self(self.0.saturating_add(i64::try_from(units).unwrap_or(i64::MAX)))
            }

            /// Returns this time moved back; saturates at the beginning of the range.
            pub fn saturating_sub(self, by: Duration) -> Self {
                let units = by.as_nanos() / (1_000_000_000 / $per_second);
                Self(self.0.saturating_sub(i64::try_from(units).unwrap_or(i64::MAX)))
            }

            /// Returns the absolute difference between two times.
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
    /// Returns the time in nanoseconds; saturates (the range of 64-bit nanoseconds ends in 2262).
    pub const fn to_nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(1_000_000_000))
    }

    /// Returns the time in milliseconds; saturates.
    pub const fn to_millis(self) -> UnixMillis {
        UnixMillis(self.0.saturating_mul(1_000))
    }
}

impl UnixMillis {
    /// Returns the second that contains this time (rounds towards the past).
    pub const fn to_seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000))
    }

    /// Returns the time in nanoseconds; saturates.
    pub const fn to_nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(1_000_000))
    }
}

impl UnixNanos {
    /// Returns the second that contains this time (rounds towards the past).
    pub const fn to_seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000_000_000))
    }

    /// Returns the millisecond that contains this time (rounds towards the past).
    pub const fn to_millis(self) -> UnixMillis {
        UnixMillis(self.0.div_euclid(1_000_000))
    }
}

/// Formats a duration like v1 peers, for texts in HTTP bodies (docs/protocol/v1.md, section 4.3): `1h0m0s`, `-5m1.25s`,
/// `30.001s`, `1.5ms`. Like theirs, it is limited to 2^63 nanoseconds, about 292 years.
///
/// ```
/// # use std::time::Duration;
/// assert_eq!(nara_proto::time::go_duration(Duration::from_millis(30_001), false), "30.001s");
/// ```
pub fn go_duration(magnitude: Duration, negative: bool) -> String {
    let limit = i64::MAX.unsigned_abs() + u64::from(negative);
    let nanos = u64::try_from(magnitude.as_nanos()).unwrap_or(limit).min(limit);
    let text = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..NANOS => format!("{}ms", decimal(nanos, 1_000_000)),
        _ => {
            let (minutes, seconds) = (nanos / (60 * NANOS), decimal(nanos % (60 * NANOS), NANOS));
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    if negative { format!("-{text}") } else { text }
}

const NANOS: u64 = 1_000_000_000;

/// Formats `value / unit` in decimal, exactly, without trailing zeros. `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{fraction:0width$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_other_naras_print_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (1_500_000, "1.5ms"),
            (2_000_000, "2ms"),
            (1_000_000_000, "1s"),
            (30_001_000_000, "30.001s"),
            (60_000_000_000, "1m0s"),
            (301_250_000_000, "5m1.25s"),
            (1_800_000_000_000, "30m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (90_061_000_000_001, "25h1m1.000000001s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos), false), text);
        }
        assert_eq!(go_duration(Duration::from_secs(3_600), true), "-1h0m0s");
        assert_eq!(go_duration(Duration::ZERO, true), "0s");
        assert_eq!(go_duration(Duration::MAX, false), "2562047h47m16.854775807s");
        assert_eq!(go_duration(Duration::MAX, true), "-2562047h47m16.854775808s");
    }

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
