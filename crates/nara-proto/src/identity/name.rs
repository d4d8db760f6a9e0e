use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a nara: any UTF-8 text that can be sent in a header.
///
/// Names are compared byte by byte: the composed and the decomposed spelling of `é` are two names (docs/protocol/v1.md, section 1.1). Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NaraName(Arc<str>);

/// A text that cannot be the name of a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// A control character other than a tab, which no header can carry.
    #[error("the name has a control character")]
    Control,
    /// No text at all.
    #[error("the name is empty")]
    Empty,
    /// White space at the beginning or the end, which HTTP trims off a header (docs/protocol/v1.md, section 4.1).
    #[error("the name begins or ends with white space")]
    OuterSpace,
    /// More than [`NaraName::MAX_LEN`] bytes.
    #[error("the name is longer than {} bytes", NaraName::MAX_LEN)]
    TooLong,
}

impl NaraName {
    /// The longest name, in bytes of UTF-8. The wire sets no limit; a name is a key of many tables, and
    /// a header must hold it.
    pub const MAX_LEN: usize = 1024;

    /// Validates a name.
    ///
    /// # Errors
    /// [`InvalidName`] for a text that cannot be a name.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
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
        Ok(Self(text.into()))
    }

    /// The text of the name.
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
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for NaraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_a_header_can_carry() {
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
}
