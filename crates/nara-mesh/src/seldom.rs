//! Log lines that others can cause.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// A warning that anybody can repeat is written so often.
const PAUSE: Duration = Duration::from_secs(10);

/// The most characters of a foreign text that are logged.
const MAX_CHARS: usize = 64;

/// When a log line was written last, and how often it was not since.
#[derive(Debug)]
pub(crate) struct Seldom(Mutex<Option<(Instant, u64)>>);

impl Seldom {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// How many lines were left out before this one; `None` if it is to be left out, too.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        // A plain value: valid whatever happened.
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

/// `tracing::warn!` for what a peer can cause as often as it likes: each place in the source writes its first line at
/// once, and then one in ten seconds, which counts the others in its field `left_out`.
macro_rules! warn_seldom {
    ($($line:tt)*) => {
        $crate::seldom::seldom!(warn, $($line)*)
    };
}
pub(crate) use warn_seldom;

/// `tracing::error!` in the same way.
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

/// The beginning of a foreign text for the log: what is no visible character is escaped, so that it can neither begin a
/// line nor change what stands around it.
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
    fn a_foreign_text_stays_on_its_line_and_shows_what_it_hides() {
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
