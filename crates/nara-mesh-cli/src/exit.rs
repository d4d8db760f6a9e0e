//! The exit codes: stable for scripts, documented in `--help`.

use std::process::ExitCode;

/// The exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Success.
    Ok = 0,
    /// Any failure without a more specific code.
    Failed = 1,
    /// An invalid command line, setting or settings file.
    Usage = 2,
    /// A peer could not be reached, or did not answer in time.
    Unreachable = 3,
    /// Authentication failed: an invalid signature, a refusal of ours, or a different key.
    Unauthenticated = 4,
    /// Partial success; or a negative result of `sync --check` or `conformance`.
    Partial = 5,
}

/// The section of `--help` about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  success
  1  failed
  2  invalid command line, setting or settings file
  3  a peer is unreachable, or did not answer in time
  4  not trusted: a signature does not verify, a key is not the expected one, or the peer refuses us
  5  partly done: some peers or events failed, others did not; sync --check: not in sync;
     conformance: the peer violates a MUST";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Returns the code for several operations of which `ok` succeeded; `failed` are the codes of the others.
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
