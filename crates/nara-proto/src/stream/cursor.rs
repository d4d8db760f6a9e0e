use std::fmt;
use std::str::FromStr;

/// The identity of a ledger for as long as its positions keep their meaning: drawn at random when the ledger is
/// created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerEpoch(u64);

impl LedgerEpoch {
    /// Returns the epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Formats the epoch as 16 lower-case hexadecimal digits.
impl fmt::Display for LedgerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A position in a ledger's order of arrival. Its text is `"{epoch}:{seq}"`.
///
/// Unlike a [`Cursor`](crate::sync::Cursor), which is a position in time, it does not miss events that arrive late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArrivalCursor {
    /// The ledger.
    pub epoch: LedgerEpoch,
    /// The number of the event that it is behind; 0 if it is before all events.
    pub seq: i64,
}

/// The error for a text that is not an arrival cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of a stream (expected 16 hexadecimal digits, a colon and a number)")]
pub struct InvalidArrivalCursor;

impl ArrivalCursor {
    /// Returns the position behind event number `seq` of a ledger.
    pub const fn new(epoch: LedgerEpoch, seq: i64) -> Self {
        Self { epoch, seq }
    }
}

impl fmt::Display for ArrivalCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

impl FromStr for ArrivalCursor {
    type Err = InvalidArrivalCursor;

    /// Parses the canonical spelling only, so that equal positions have equal texts.
    fn from_str(text: &str) -> Result<Self, InvalidArrivalCursor> {
        let (epoch, seq) = text.split_once(':').ok_or(InvalidArrivalCursor)?;
        let epoch = u64::from_str_radix(epoch, 16).map_err(|_| InvalidArrivalCursor)?;
        let seq: i64 = seq.parse().map_err(|_| InvalidArrivalCursor)?;
        let cursor = Self::new(LedgerEpoch(epoch), seq);
        if seq < 0 || cursor.to_string() != text {
            return Err(InvalidArrivalCursor);
        }
        Ok(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_spelling() {
        let cursor = ArrivalCursor::new(LedgerEpoch(0xab), 17);
        assert_eq!(cursor.to_string(), "00000000000000ab:17");
        assert_eq!("00000000000000ab:17".parse(), Ok(cursor));
        for text in [
            "",
            ":",
            "ab:17",
            "00000000000000AB:17",
            "00000000000000ab:+17",
            "00000000000000ab:-1",
            "00000000000000ab:017",
            "00000000000000ab:17 ",
            "1769100000000000000:0123456789abcdef",
        ] {
            assert_eq!(
                text.parse::<ArrivalCursor>(),
                Err(InvalidArrivalCursor),
                "{text:?}"
            );
        }
    }
}
