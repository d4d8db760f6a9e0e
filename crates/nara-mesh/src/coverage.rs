//! Which parts of a message are proven.

use std::fmt;

/// The parts of a request that its receiver can verify. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Coverage {
    /// Method and path, by a v1 signature. A man in the middle may have changed the query, other headers and the body.
    MethodAndPath,
    /// Method, path and query, by a v2 signature of a streamed body. Body and other headers are not proven.
    Head,
    /// Method, path, query and body, by a v2 signature. Other headers are not covered.
    Whole,
    /// The whole request, by a TLS connection with the pinned key.
    Channel,
}

impl Coverage {
    /// Returns the word in headers to programs behind a nara.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MethodAndPath => "method-and-path",
            Self::Head => "head",
            Self::Whole => "whole",
            Self::Channel => "channel",
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::MethodAndPath => "method and path",
            Self::Head => "method, path and query",
            Self::Whole => "method, path, query and body",
            Self::Channel => "everything",
        })
    }
}
