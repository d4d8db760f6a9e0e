//! Rate-limited log lines for events that peers can cause.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The shortest interval between two lines of one warning.
const PAUSE: Duration = Duration::from_secs(10);

/// The maximum number of characters of a foreign text in the log.
const MAX_CHARS: usize = 64;

/// When a log line was last written, and how many were suppressed since.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<Option<(Instant, u64)>>);

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns how many lines were suppressed before this one; `None` if this one is suppressed, too.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        // A plain value is valid even if a thread panicked.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *last {
            Some((at, left_out)) if now.saturating_duration_since(*at) < PAUSE => {
                *left_out += 1;
                None
            }
            last => {
                let left_out = last.map_or(0, |(_, left_out)| left_out);
                *last = Some((now, 0));
                Some(left_out)
            }
        }
    }
}

/// `tracing::warn!` for events that a peer can cause at will: each call site logs its first line at once, and then one
/// in ten seconds, with the number of suppressed lines in its field `left_out`.
macro_rules! warn_seldom {
    ($($line:tt)*) => {
        $crate::seldom::seldom!(warn, $($line)*)
    };
}
pub(crate) use warn_seldom;

/// `tracing::error!` with the same limit.
macro_rules! error_seldom {
    ($($line:tt)*) => {
        $crate::seldom::seldom!(error, $($line)*)
    };
}
pub(crate) use error_seldom;

macro_rules! seldom {
    ($level:ident, $($line:tt)*) => {{
        static SELDOM: $crate::seldom::Seldom = $crate::seldom::Seldom::new();
        match SELDOM.due(::std::time::Instant::now()) {
            Some(0) => tracing::$level!($($line)*),
            Some(left_out) => tracing::$level!(left_out, $($line)*),
            None => {}
        }
    }};
}
pub(crate) use seldom;

/// Shortens a foreign text for the log and escapes invisible characters, so that it can neither begin a line nor change
/// how the surrounding text is displayed.
pub(crate) fn shown(text: &str) -> impl fmt::Display {
    struct Shown(String);
    impl fmt::Display for Shown {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            for character in self.0.chars() {
                match character {
                    '"' | '\'' => fmt::Write::write_char(f, character)?,
                    other => fmt::Display::fmt(&other.escape_debug(), f)?,
                }
            }
            Ok(())
        }
    }
    Shown(text.chars().take(MAX_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_line_is_counted_instead_of_written() {
        let seldom = Seldom::new();
        let start = Instant::now();
        assert_eq!(seldom.due(start), Some(0));
        for _ in 0..1_000 {
            assert_eq!(seldom.due(start + PAUSE / 2), None);
        }
        assert_eq!(seldom.due(start + PAUSE), Some(1_000));
        assert_eq!(seldom.due(start + PAUSE * 2), Some(0));
    }

    #[test]
    fn a_foreign_text_stays_on_its_line_and_its_hidden_characters_are_escaped() {
        for (text, logged) in [
            ("o'brien", "o'brien"),
            ("é", "é"),
            ("a\nERROR forged", "a\\nERROR forged"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{200b}b", "a\\u{200b}b"),
            ("\u{9b}", "\\u{9b}"),
            ("back\\slash", "back\\\\slash"),
        ] {
            assert_eq!(shown(text).to_string(), logged);
        }
        assert_eq!(shown(&"x".repeat(1_000)).to_string().len(), MAX_CHARS);
    }
}
