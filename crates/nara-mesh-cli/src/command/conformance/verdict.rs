//! The requirements and results of a check.

use std::fmt;
use std::io;

/// A requirement of a check; if unmet, the check is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The peer announces that it signs with v2.
    V2,
    /// The peer announces TLS.
    Tls,
    /// The peer announces TLS with raw public keys.
    RawPublicKey,
    /// The peer serves `/events/stream`.
    Stream,
    /// The peer serves `/events/reconcile`.
    Reconcile,
    /// The peer accepts the key of the nara that signs with v1.
    KnowsV1,
    /// The peer accepts the key of the nara that signs with v2.
    KnowsV2,
    /// The user allows storing data at the peer.
    Write,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2 => "the peer does not announce v2",
            Self::Tls => "the peer does not announce TLS",
            Self::RawPublicKey => "the peer does not announce raw public keys",
            Self::Stream => "the peer does not serve /events/stream",
            Self::Reconcile => "the peer does not serve /events/reconcile",
            Self::KnowsV1 => "the peer does not accept the key of the nara that signs with v1",
            Self::KnowsV2 => "the peer does not accept the key of the nara that signs with v2",
            Self::Write => "it would store data at the peer (--write)",
        })
    }
}

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum Fault {
    /// The peer behaves differently.
    Differs(String),
    /// A requirement is unmet.
    Skip(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Differs(error.to_string())
    }
}

/// Creates a fault with a text.
pub(super) fn differs(text: impl Into<String>) -> Fault {
    Fault::Differs(text.into())
}

/// Fails with a text unless the condition holds.
pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Fault::Differs(otherwise()))
    }
}

/// The result of a check.
pub(super) type Verdict<T = ()> = Result<T, Fault>;
