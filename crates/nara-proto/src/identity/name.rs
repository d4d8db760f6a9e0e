use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;

use unicode_security::confusable_detection::skeleton;

/// The name of a nara: any UTF-8 text that a header can carry.
///
/// A peer chose it, so `Display` and `Debug` escape each character that is invisible or that changes how the
/// surrounding text is displayed: tables, errors and logs show `a\u{202e}b`. The wire carries [`NaraName::as_str`].
///
/// Names are compared byte by byte: the composed and the decomposed spelling of `é` are two names (docs/protocol/v1.md,
/// section 1.1). Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NaraName(Arc<str>);

/// The error for a text that is not a valid name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It contains a control character other than a tab, which no header can carry.
    #[error("the name has a control character")]
    Control,
    /// It contains a character that is invisible or that reorders the surrounding text; refused only in the name of a
    /// new nara.
    #[error("the name has a character that cannot be seen: {}", .0.escape_unicode())]
    Hidden(char),
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// It begins or ends with white space, which HTTP trims off a header (docs/protocol/v1.md, section 4.1).
    #[error("the name begins or ends with white space")]
    OuterSpace,
    /// It has more than [`NaraName::MAX_LEN`] bytes.
    #[error("the name is longer than {} bytes", NaraName::MAX_LEN)]
    TooLong,
}

impl NaraName {
    /// The maximum length, in bytes of UTF-8. The wire sets no limit; a name is a key of many tables, and a header must
    /// hold it.
    pub const MAX_LEN: usize = 1024;

    /// Validates a name.
    ///
    /// # Errors
    /// [`InvalidName`] if the text is not a valid name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        Self::check(text)?;
        Ok(Self(text.into()))
    }

    /// Validates a text like [`NaraName::new`].
    pub(crate) fn check(text: &str) -> Result<(), InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidName::TooLong);
        }
        if text
            .bytes()
            .any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f)
        {
            return Err(InvalidName::Control);
        }
        if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
            return Err(InvalidName::OuterSpace);
        }
        Ok(())
    }

    /// Validates the name of a *new* nara: it must not contain invisible characters, so that it cannot be mistaken for
    /// another name. Names of existing naras are read with [`NaraName::new`].
    ///
    /// # Errors
    /// [`InvalidName`] if the text is not a valid new name.
    pub fn new_own(text: &str) -> Result<Self, InvalidName> {
        match text.chars().find(|&c| is_hidden(c)) {
            Some(hidden) => Err(InvalidName::Hidden(hidden)),
            None => Self::new(text),
        }
    }

    /// Returns the first character of this name that is invisible or that reorders the surrounding text. Unless
    /// configured, a nara with such a name is not contacted: its name can be mistaken for another.
    pub fn hidden(&self) -> Option<char> {
        self.as_str().chars().find(|&c| is_hidden(c))
    }

    /// Returns whether a person can mistake this name for the other: they are equal except for case, invisible
    /// characters, and characters that look alike in most fonts (Unicode Technical Standard 39, section 4).
    pub fn looks_like(&self, other: &Self) -> bool {
        let theirs = other.looks();
        self.looks().iter().any(|look| theirs.contains(look))
    }

    /// Returns the visual skeletons of this name, for an index: two names [look alike](Self::looks_like) if they share
    /// one.
    pub fn looks(&self) -> [String; 2] {
        let seen: String = self.as_str().chars().filter(|&c| !is_hidden(c)).collect();
        // `I` looks like `l`, and lower-cased it equals `i`.
        let of_lower: String = skeleton(&seen.to_lowercase()).collect();
        let of_seen: String = skeleton(&seen).collect();
        [of_lower, of_seen.to_lowercase()]
    }

    /// Returns the text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NaraName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl AsRef<str> for NaraName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NaraName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NaraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(&self.0))
    }
}

impl fmt::Display for NaraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.chars().any(is_hidden) {
            f.pad(&escape(&self.0).to_string())
        } else {
            f.pad(&self.0)
        }
    }
}

/// Displays a text that a peer chose: characters that are invisible or that change how the surrounding text is
/// displayed become `\u{…}`, line feeds become `\n`. All foreign text in tables, errors and logs must pass this
/// function.
pub fn escape(text: &str) -> impl fmt::Display + '_ {
    Escaped(text)
}

struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\n' | '\r' | '\t' => write!(f, "{}", c.escape_default()),
            hidden if is_hidden(hidden) => write!(f, "{}", hidden.escape_unicode()),
            seen => f.write_char(seen),
        })
    }
}

/// Returns whether a character is invisible or reorders the surrounding text: controls (C0 and C1), bidirectional and
/// other format characters, spaces other than U+0020, unassigned characters, and default-ignorable ones.
pub fn is_hidden(c: char) -> bool {
    // Most fonts draw these as nothing although Unicode classifies them as letters or marks.
    let is_ignorable = matches!(c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{16fe4}' | '\u{1d159}' | '\u{e0000}'..='\u{e0fff}');
    // The standard library knows which characters are printable. Marks are printable behind another character.
    let mut behind = [b'a', 0, 0, 0, 0];
    let len = 1 + c.encode_utf8(&mut behind[1..]).len();
    let shown = std::str::from_utf8(&behind[..len]).expect("a letter and a character");
    let is_printable = matches!(c, '"' | '\'' | '\\') || shown.escape_debug().count() == 2;
    is_ignorable || !is_printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_text_that_a_header_can_carry() {
        for good in [
            "a",
            "nara with spaces",
            "Ñandú",
            "emoji🦝nara",
            "a:b:c",
            "<b>&\"q\"</b>",
            "back\\slash",
        ] {
            assert_eq!(NaraName::new(good).unwrap().as_str(), good);
        }
        assert_eq!(NaraName::new(""), Err(InvalidName::Empty));
        assert_eq!(NaraName::new(" a"), Err(InvalidName::OuterSpace));
        assert_eq!(NaraName::new("a "), Err(InvalidName::OuterSpace));
        assert_eq!(NaraName::new("a\r\nb"), Err(InvalidName::Control));
        assert_eq!(NaraName::new("a\0"), Err(InvalidName::Control));
        assert_eq!(NaraName::new(&"x".repeat(1025)), Err(InvalidName::TooLong));
    }

    const HIDDEN: [char; 18] = [
        '\u{16fe4}',
        '\u{1d159}',
        '\t',
        '\u{80}',
        '\u{9b}',
        '\u{a0}',
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{200b}',
        '\u{200d}',
        '\u{202e}',
        '\u{2066}',
        '\u{2028}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{e0041}',
    ];

    #[test]
    fn a_new_nara_has_a_name_that_is_seen() {
        for good in [
            "alice",
            "nara with spaces",
            "Ñandú",
            "e\u{301}",
            "日本の狸",
            "emoji🦝nara",
            "o'brien",
            "a\\\"b",
        ] {
            assert_eq!(NaraName::new_own(good).unwrap().as_str(), good);
        }
        for hidden in HIDDEN {
            let text = format!("a{hidden}b");
            assert_eq!(
                NaraName::new_own(&text),
                Err(InvalidName::Hidden(hidden)),
                "{text:?}"
            );
            // The name of an existing nara, so it can be read.
            assert_eq!(NaraName::new(&text).unwrap().as_str(), text);
        }
        assert_eq!(NaraName::new_own("a\nb"), Err(InvalidName::Hidden('\n')));
        assert_eq!(NaraName::new_own(""), Err(InvalidName::Empty));
    }

    #[test]
    fn what_cannot_be_seen_is_shown_escaped() {
        for hidden in HIDDEN {
            let name = NaraName::new(&format!("a{hidden}b")).unwrap();
            let expected = match hidden {
                '\t' => "a\\tb".to_owned(),
                hidden => format!("a\\u{{{:x}}}b", u32::from(hidden)),
            };
            assert_eq!(name.to_string(), expected);
            assert_eq!(format!("{name:?}"), format!("\"{expected}\""));
        }
        assert_eq!(escape("x\r\n\u{1b}[2J").to_string(), "x\\r\\n\\u{1b}[2J");
        let name = NaraName::new("Ñandú 🦝").unwrap();
        assert_eq!(format!("[{name:>10}]"), "[   Ñandú 🦝]");
    }

    #[test]
    fn names_that_look_the_same_are_told() {
        let looks = |one: &str, other: &str| {
            let (one, other) = (NaraName::new(one).unwrap(), NaraName::new(other).unwrap());
            assert_eq!(one.looks_like(&other), other.looks_like(&one));
            one.looks_like(&other)
        };
        // The second names have Cyrillic letters, another normalisation form, another case, or invisible characters.
        for (one, other) in [
            ("alice", "аlice"),
            ("é", "e\u{301}"),
            ("alice", "Alice"),
            ("alice", "al\u{200b}ice"),
            ("bob", "bo\u{202e}b"),
            ("bill", "biII"),
        ] {
            assert!(looks(one, other), "{one:?} {other:?}");
        }
        for (one, other) in [
            ("alice", "alicia"),
            ("bob", "rob"),
            ("a b", "ab"),
            ("nara-1", "nara-2"),
        ] {
            assert!(!looks(one, other), "{one:?} {other:?}");
        }
    }
}
