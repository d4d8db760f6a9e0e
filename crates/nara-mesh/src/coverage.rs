//! How much of a message is proven.

use std::fmt;

/// How much of a request its receiver can verify. Each proves what those before it prove, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Coverage {
    /// Method and path, by a signature of profile v1. An attacker on the path may have changed the query, other
    /// headers and the body.
    MethodAndPath,
    /// Method, path and query, by a signature of profile v2 that says that the body is a stream. Nothing proves the body
    /// and other headers.
    Head,
    /// Method, path, query and body, by a signature of profile v2. Other headers are not covered.
    Whole,
    /// All of it, by a TLS connection with the pinned key.
    Channel,
}

impl Coverage {
    /// The word for it in headers of programs behind a nara.
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
