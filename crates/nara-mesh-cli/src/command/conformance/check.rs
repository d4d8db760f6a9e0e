//! What a check is.

use futures_util::future::BoxFuture;

use super::peer::Peer;
pub(super) use super::verdict::{Fault, Need, Verdict, differs, ensure};

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
