//! What a check is.

use std::fmt;
use std::io;

use futures_util::future::BoxFuture;

use super::peer::Peer;

/// How binding a statement of the specification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// Who does otherwise does not interoperate, or is not safe.
    Must,
    /// Peers cope with another behaviour.
    Should,
    /// The specification records what v1 peers do, and implementations are known to be stricter on purpose.
    DeviationKnown,
}

impl Level {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::DeviationKnown => "deviation-known",
        }
    }
}

/// Without which a check is skipped.
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
    /// The user allows it to store something at the peer.
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
            Self::Write => "it would store something at the peer (--write)",
        })
    }
}

/// Why a check did not pass.
#[derive(Debug)]
pub(super) enum Fault {
    /// The peer does something else.
    Differs(String),
    /// The check needs what the peer does not have.
    Skip(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Differs(error.to_string())
    }
}

/// A fault with a text.
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

/// What a check finds.
pub(super) type Verdict<T = ()> = Result<T, Fault>;

/// Carries a check out.
pub(super) type Run = for<'a> fn(&'a Peer) -> BoxFuture<'a, Verdict>;

/// One statement of the specification, and how to find out whether it holds.
#[derive(Debug)]
pub(super) struct Check {
    /// `group/what`: stable, for scripts.
    pub(super) id: &'static str,
    pub(super) level: Level,
    /// The section, as a link below `docs/protocol/`.
    pub(super) section: &'static str,
    /// What the specification says.
    pub(super) says: &'static str,
    pub(super) needs: &'static [Need],
    pub(super) run: Run,
}

/// A check of what an implementation must do.
pub(super) const fn must(id: &'static str, section: &'static str, says: &'static str, run: Run) -> Check {
    Check {
        id,
        level: Level::Must,
        section,
        says,
        needs: &[],
        run,
    }
}

/// A check of what an implementation should do.
pub(super) const fn should(id: &'static str, section: &'static str, says: &'static str, run: Run) -> Check {
    Check {
        level: Level::Should,
        ..must(id, section, says, run)
    }
}

/// A check of what v1 peers do, and others do not on purpose.
pub(super) const fn known(id: &'static str, section: &'static str, says: &'static str, run: Run) -> Check {
    Check {
        level: Level::DeviationKnown,
        ..must(id, section, says, run)
    }
}

impl Check {
    /// The same check, with what it needs beside what its group needs.
    pub(super) const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }
}

/// The function of a check: `run!(|peer| …)` with an asynchronous body that gives a [`Verdict`].
macro_rules! run {
    (|$peer:ident| $body:block) => {
        |$peer| Box::pin(async move $body)
    };
    (|$peer:ident| $body:expr) => {
        |$peer| Box::pin(async move { $body })
    };
}

pub(super) use run;

/// Checks with the same needs, in one file.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) needs: &'static [Need],
    pub(super) checks: &'static [Check],
}
