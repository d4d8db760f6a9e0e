//! Explaining signatures: the exact bytes, the first differing byte, the likely cause.

mod cause;
mod claim;
mod event;
mod request;
mod v2;

pub(crate) use claim::{Claim, SignatureText, TimestampText};
pub(crate) use event::{EventReport, PrintedReport};
pub(crate) use request::Report;
pub(crate) use v2::{Receiver, V2Report};

use jiff::Timestamp;
use nara_proto::time::UnixMillis;

/// Renders bytes as text. Everything except printable ASCII and UTF-8 text is escaped.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => escaped.push_str("\\\\"),
                '"' => escaped.push_str("\\\""),
                ' '..='~' => escaped.push(character),
                _ => {
                    let mut buffer = [0; 4];
                    for byte in character.encode_utf8(&mut buffer).bytes() {
                        escaped.push_str(&format!("\\x{byte:02x}"));
                    }
                }
            }
        }
        for byte in chunk.invalid() {
            escaped.push_str(&format!("\\x{byte:02x}"));
        }
    }
    escaped
}

/// Renders bytes as hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Renders a time for people, or "no date" if it is out of the calendar's range.
pub(crate) fn date(at: UnixMillis) -> String {
    Timestamp::from_millisecond(at.get()).map_or_else(|_| "no date".to_owned(), |date| format!("{date:.3}"))
}

/// Where two byte strings first differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The index of the first differing byte, from 0.
    pub(crate) offset: usize,
    /// The expected byte; `None` past the end.
    pub(crate) expected: Option<u8>,
    /// The actual byte; `None` past the end.
    pub(crate) found: Option<u8>,
}

impl Difference {
    /// Returns the first difference, if any.
    pub(crate) fn between(expected: &[u8], found: &[u8]) -> Option<Self> {
        let offset = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
        let difference = Self {
            offset,
            expected: expected.get(offset).copied(),
            found: found.get(offset).copied(),
        };
        (expected.len() != offset || found.len() != offset).then_some(difference)
    }

    /// One line with the offset and the two bytes.
    pub(crate) fn summary(&self) -> String {
        let byte = |byte: Option<u8>| {
            byte.map_or_else(
                || "the end".to_owned(),
                |byte| format!("'{}' (0x{byte:02x})", escape(&[byte])),
            )
        };
        format!(
            "first differing byte: {} (from 0): expected {}, found {}",
            self.offset,
            byte(self.expected),
            byte(self.found)
        )
    }

    /// Two lines of context and one that marks the difference.
    pub(crate) fn context(&self, expected: &[u8], found: &[u8]) -> [String; 3] {
        const AROUND: usize = 24;
        let start = self.offset.saturating_sub(AROUND);
        let lead = if start > 0 { "…" } else { "" };
        let before = format!("{lead}{}", escape(&expected[start..self.offset]));
        let window = |bytes: &[u8]| {
            let end = bytes.len().min(self.offset + AROUND);
            let trail = if end < bytes.len() { "…" } else { "" };
            format!("{lead}{}{trail}", escape(&bytes[start..end]))
        };
        let mark = format!("{}^", " ".repeat(before.chars().count()));
        [window(expected), window(found), mark]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_also_at_the_end() {
        assert_eq!(Difference::between(b"abc", b"abc"), None);
        let at = |a: &[u8], b: &[u8]| Difference::between(a, b).unwrap();
        assert_eq!(at(b"abc", b"abd").offset, 2);
        assert_eq!(at(b"abc", b"ab").found, None);
        assert_eq!(at(b"ab", b"abc").expected, None);
        let difference = at(b"alice1POST/a", b"alice1post/a");
        assert_eq!(
            difference.context(b"alice1POST/a", b"alice1post/a"),
            ["alice1POST/a", "alice1post/a", "      ^"]
        );
    }

    #[test]
    fn escaping_shows_every_byte() {
        assert_eq!(escape("é\n\"\\ ok".as_bytes()), "\\xc3\\xa9\\x0a\\\"\\\\ ok");
        assert_eq!(escape(b"\xff"), "\\xff");
    }
}
