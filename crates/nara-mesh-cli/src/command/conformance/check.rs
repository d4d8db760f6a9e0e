//! The definition of a check.

use futures_util::future::BoxFuture;

use super::peer::Peer;
pub(super) use super::verdict::{Fault, Need, Verdict, differs, ensure};

/// The requirement level of a statement of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// A violation breaks interoperability or security.
    Must,
    /// Peers tolerate another behaviour.
    Should,
    /// The specification records what v1 peers do; implementations are known to be stricter on purpose.
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

/// Runs a check.
pub(super) type Run = for<'a> fn(&'a Peer) -> BoxFuture<'a, Verdict>;

/// A statement of the specification, and how to test it.
#[derive(Debug)]
pub(super) struct Check {
    /// `group/name`: stable, for scripts.
    pub(super) id: &'static str,
    pub(super) level: Level,
    /// The section, as a link below `docs/protocol/`.
    pub(super) section: &'static str,
    /// The statement of the specification.
    pub(super) says: &'static str,
    pub(super) needs: &'static [Need],
    pub(super) run: Run,
}

/// Creates a check of a MUST.
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

/// Creates a check of a SHOULD.
pub(super) const fn should(id: &'static str, section: &'static str, says: &'static str, run: Run) -> Check {
    Check {
        level: Level::Should,
        ..must(id, section, says, run)
    }
}

/// Creates a check of behaviour of v1 peers from which others deviate on purpose.
pub(super) const fn known(id: &'static str, section: &'static str, says: &'static str, run: Run) -> Check {
    Check {
        level: Level::DeviationKnown,
        ..must(id, section, says, run)
    }
}

impl Check {
    /// Adds requirements to those of the group.
    pub(super) const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }
}

/// Wraps an asynchronous body that returns a [`Verdict`] as the function of a check: `run!(|peer| …)`.
macro_rules! run {
    (|$peer:ident| $body:block) => {
        |$peer| Box::pin(async move $body)
    };
    (|$peer:ident| $body:expr) => {
        |$peer| Box::pin(async move { $body })
    };
}

pub(super) use run;

/// Checks with the same requirements, in one file.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) needs: &'static [Need],
    pub(super) checks: &'static [Check],
}
