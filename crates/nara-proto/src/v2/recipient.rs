use std::fmt;

use crate::endpoint::query_escape;
use crate::identity::{NaraId, NaraName};

/// The recipient of a request.
///
/// `Display` is the value of `X-Nara-To`: the id, or the name percent-encoded, because RFC 9421 signs fields of ASCII.
/// It has one spelling: every byte but letters, digits and `-._~` is encoded, in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The nara with this id.
    Id(NaraId),
    /// The nara with this name: where its id is not known.
    Name(NaraName),
}

impl Recipient {
    /// Whether this is how `X-Nara-To` spells the nara with this id and name.
    pub(super) fn is_spelled(field: &str, id: &NaraId, name: &NaraName) -> bool {
        field == id.as_str() || field == query_escape(name.as_str())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Name(name) => f.pad(&query_escape(name.as_str())),
        }
    }
}
