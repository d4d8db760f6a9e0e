//! The exit codes: a promise to scripts, documented in `--help`.

use std::process::ExitCode;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// It failed in a way that no other code names.
    Failed = 1,
    /// The command line, a setting or a file of settings is wrong.
    Usage = 2,
    /// A peer could not be reached, or did not answer in time.
    Unreachable = 3,
    /// Somebody could not prove who it is: a signature that does not verify, ours refused, or another key.
    Unauthenticated = 4,
    /// Some of what was asked succeeded, some did not; or the answer to `sync --check` or `conformance` is no.
    Partial = 5,
}

/// The part of `--help` about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  it did what was asked
  1  failed
  2  wrong command line, setting or file of settings
  3  a peer is unreachable, or did not answer in time
  4  not trusted: a signature does not verify, a key is not the expected one, or the peer refuses us
  5  partly done: some peers or events failed, others did not; sync --check: not in sync;
     conformance: the peer fails in what it must do";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code for several operations of which `ok` succeeded; `failed` are the codes of the others.
    pub(crate) fn of_many(ok: usize, failed: &[Self]) -> Self {
        match failed {
            [] => Self::Ok,
            _ if ok > 0 => Self::Partial,
            [first, others @ ..] if others.iter().all(|other| other == first) => *first,
            _ => Self::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_outcomes_give_one_code() {
        assert_eq!(Exit::of_many(2, &[]), Exit::Ok);
        assert_eq!(Exit::of_many(1, &[Exit::Unreachable]), Exit::Partial);
        assert_eq!(
            Exit::of_many(0, &[Exit::Unreachable, Exit::Unreachable]),
            Exit::Unreachable
        );
        assert_eq!(
            Exit::of_many(0, &[Exit::Unreachable, Exit::Unauthenticated]),
            Exit::Failed
        );
    }
}
