use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Serialize, Serializer};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use super::field::{Field, Merge};
use crate::time::UnixNanos;

/// A time with a zone offset, as in runtime messages.
///
/// Its text is RFC 3339 in Go's canonical spelling: `Z` when the offset is zero, the fraction without trailing zeros
/// and absent when zero (docs/protocol/v1.md, sections 2 and 12.1). The offset is kept because the receiver formats the
/// time again before it verifies the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

/// The error for a text that is not an RFC 3339 time in the form that v1 peers accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time (expected the form 2026-01-22T23:10:56.5Z)")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// Returns the time `nanos` with an offset of whole seconds east of UTC. `None` if the year is not 0 to 9999 or the
    /// offset is a day or more.
    pub fn new(nanos: UnixNanos, offset_seconds: i32) -> Option<Self> {
        let offset = UtcOffset::from_whole_seconds(offset_seconds).ok()?;
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos.get())).ok()?;
        let time = time.checked_to_offset(offset)?;
        ((0..=9999).contains(&time.year())).then_some(Self(time))
    }

    /// Returns the time `nanos` in UTC. Every 64-bit count of nanoseconds is in range.
    pub fn utc(nanos: UnixNanos) -> Self {
        Self::new(nanos, 0).expect("64-bit nanoseconds lie between the years 1677 and 2262")
    }

    /// Returns the instant as Unix nanoseconds; `None` before 1677 or after 2262.
    pub fn to_nanos(self) -> Option<UnixNanos> {
        i64::try_from(self.0.unix_timestamp_nanos())
            .ok()
            .map(UnixNanos::new)
    }

    /// Parses RFC 3339 like v1 peers: upper-case `T` and `Z`, two-digit fields, seconds present and at most 59, an
    /// offset below 24 hours. A comma may precede the fraction; digits beyond the ninth are truncated.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] for any other text.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        Self::parse_bytes(text.as_bytes()).ok_or(InvalidTimestamp)
    }

    fn parse_bytes(text: &[u8]) -> Option<Self> {
        let (head, mut rest) = text.split_at_checked(19)?;
        let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if punctuation.iter().any(|&(at, expected)| head[at] != expected) {
            return None;
        }
        let date = Date::from_calendar_date(
            i32::try_from(digits(&head[..4])?).ok()?,
            Month::try_from(u8::try_from(digits(&head[5..7])?).ok()?).ok()?,
            u8::try_from(digits(&head[8..10])?).ok()?,
        )
        .ok()?;
        let [hour, minute, second] = [
            digits(&head[11..13])?,
            digits(&head[14..16])?,
            digits(&head[17..])?,
        ];

        let mut nanos = 0;
        if let [b'.' | b',', fraction @ ..] = rest {
            let len = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if len == 0 {
                return None;
            }
            let kept = &fraction[..len.min(9)];
            nanos = digits(kept)? * 10_u32.pow(9 - u32::try_from(kept.len()).ok()?);
            rest = &fraction[len..];
        }
        let time = Time::from_hms_nano(
            u8::try_from(hour).ok()?,
            u8::try_from(minute).ok()?,
            u8::try_from(second).ok()?,
            nanos,
        )
        .ok()?;

        let offset = match rest {
            b"Z" => UtcOffset::UTC,
            [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
                let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
                UtcOffset::from_whole_seconds(if *sign == b'-' { -seconds } else { seconds }).ok()?
            }
            _ => return None,
        };
        Some(Self(PrimitiveDateTime::new(date, time).assume_offset(offset)))
    }
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0_u32, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0'))
    })
}

impl Default for Timestamp {
    /// Returns Go's zero time, 0001-01-01T00:00:00Z.
    fn default() -> Self {
        Self(
            Date::from_ordinal_date(1, 1)
                .expect("year 1 has a first day")
                .midnight()
                .assume_utc(),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        )?;
        if time.nanosecond() != 0 {
            let fraction = format!("{:09}", time.nanosecond());
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        if time.offset().is_utc() {
            return f.write_str("Z");
        }
        // Seconds of an offset are truncated, and `-00:00` is never written.
        let minutes = time.offset().whole_minutes();
        let sign = if minutes < 0 { '-' } else { '+' };
        let minutes = minutes.unsigned_abs();
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Merge for Timestamp {
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        let mut text: Option<Box<String>> = Some(Box::default());
        text.merge(deserializer)?;
        if let Some(text) = text {
            *self = Self::parse(&text).map_err(D::Error::custom)?;
        }
        Ok(())
    }
}

impl Field for Timestamp {
    // Go never omits a struct value.
    fn is_zero(&self) -> bool {
        false
    }

    fn most_bytes(&self) -> usize {
        // The date, the time to a nanosecond, the zone and the quotes take 37 bytes.
        64
    }
}
