//! Calls that failed because two clocks are apart.

use std::error::Error;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;
use nara_proto::clock_offset::ClockFault;
use nara_proto::time::{UnixMillis, go_duration};

use super::status_answer::StatusAnswer;

/// The last second that an HTTP date can name.
const LAST_DATE: u64 = 253_402_300_799;

/// A call that failed for the time of its request or of its answer.
#[derive(Debug)]
pub(super) struct ClockSkew {
    pub(super) theirs: UnixMillis,
    pub(super) ours: UnixMillis,
    /// Whose clock seems wrong, seen from here.
    pub(super) fault: Option<ClockFault>,
    /// Whether that is the judgement of the peer, which is not proven, for want of one of ours.
    pub(super) judged_by_peer: bool,
    pub(super) what: Skewed,
}

/// What failed.
#[derive(Debug)]
pub(super) enum Skewed {
    /// The peer refused the request.
    Request(StatusAnswer),
    /// The answer is properly signed, but with a time outside of the window.
    Answer(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.theirs > self.ours {
            "ahead of"
        } else {
            "behind"
        };
        let apart = go_duration(self.theirs.abs_diff(self.ours), false);
        let (theirs, ours) = (readable(self.theirs), readable(self.ours));
        match &self.what {
            Skewed::Request(answer) => {
                answer.fmt_what_happened(f)?;
                write!(
                    f,
                    ": its clock is {apart} {side} ours ({theirs}, ours says {ours}); "
                )?;
            }
            Skewed::Answer(_) => write!(
                f,
                "its answer was signed {apart} {side} our clock ({theirs}, ours says {ours}): one of the \
                 two clocks is wrong, or somebody replayed an old answer; "
            )?,
        }
        f.write_str(match (self.fault, self.judged_by_peer) {
            (Some(ClockFault::Ours), false) => {
                "the clocks of other peers contradict ours: set the clock of this machine"
            }
            (Some(ClockFault::Theirs), false) => {
                "the clocks of other peers contradict its clock: tell its operator to set it"
            }
            (Some(ClockFault::Ours), true) => {
                "it says that the clocks of its peers contradict ours: check the clock of this machine"
            }
            (Some(ClockFault::Theirs), true) => {
                "it says that the clocks of its peers contradict its own: tell its operator"
            }
            (None, _) => "compare both with a third clock, and set the wrong one",
        })
    }
}

/// A time as HTTP writes it, to the second.
fn readable(time: UnixMillis) -> HttpDate {
    let seconds = u64::try_from(time.get() / 1_000).unwrap_or(0).min(LAST_DATE);
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}
