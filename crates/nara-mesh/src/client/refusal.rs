//! Why a peer refused a request, from its answer or from the connection.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use nara_proto::clock_offset::ClockFault;
use nara_proto::succession::{KNOWN_KEY_HEADER, NO_KEY};
use nara_proto::time::{UnixMillis, go_duration};

use crate::clock::http_date;
use crate::registry::KnownKey;

/// Maximum number of characters of an answer shown in a message.
const MAX_SHOWN: usize = 200;

/// An answer with a status other than 200.
#[derive(Debug, thiserror::Error)]
pub(super) struct StatusAnswer {
    pub(super) status: StatusCode,
    /// Its text, truncated to 4 KiB.
    pub(super) text: String,
    /// Whether its signature verified with the pinned key of the peer.
    pub(super) verified: bool,
}

impl StatusAnswer {
    pub(super) fn hint(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => {
                "check that our clock is right and that the peer has our name and key"
            }
            StatusCode::FORBIDDEN => "the peer forbids it for the reason above; its operator decides",
            status if status.is_redirection() => "redirects are not followed, check the address",
            status if status.is_server_error() => "the peer failed, try again later",
            _ => "change the request as the answer says",
        }
    }
}

impl fmt::Display for StatusAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status.as_u16())?;
        let text: String = self.text.trim().chars().take(MAX_SHOWN).collect();
        if !text.is_empty() {
            // Quoted, so that a peer cannot write control characters to a terminal or a log.
            write!(f, " {text:?}")?;
        }
        f.write_str(if self.verified {
            " (verified)"
        } else {
            " (not verified)"
        })
    }
}

/// A call that was refused or not made because its peer asked for a pause.
#[derive(Debug, thiserror::Error)]
pub(super) struct AskedToWait {
    /// Remaining time from now.
    pub(super) retry_after: Duration,
    pub(super) how: Asking,
}

/// The way a peer asked for a pause.
#[derive(Debug)]
pub(super) enum Asking {
    /// With this answer.
    Answer(StatusAnswer),
    /// In an earlier answer; it was not called again.
    Before,
    /// With an alert instead of a TLS handshake.
    Alert,
}

impl AskedToWait {
    /// Creates the refusal of a peer without capacity for another TLS connection.
    pub(super) fn before_tls() -> Self {
        Self {
            retry_after: Duration::from_secs(1),
            how: Asking::Alert,
        }
    }

    pub(super) fn answer(&self) -> Option<&StatusAnswer> {
        match &self.how {
            Asking::Answer(answer) => Some(answer),
            Asking::Before | Asking::Alert => None,
        }
    }

    pub(super) fn hint(&self) -> String {
        // Rounded up, so that a caller who waits this long is not too early.
        let tenths = self.retry_after.as_millis().div_ceil(100);
        format!("try again in {}.{} s", tenths / 10, tenths % 10)
    }
}

impl fmt::Display for AskedToWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            Asking::Answer(answer) => answer.fmt(f),
            Asking::Before => f.write_str("not called, because it asked us to wait"),
            Asking::Alert => f.write_str(
                "it has too many connections from our address, and closed this one before the TLS handshake (not verified)",
            ),
        }
    }
}

/// A call that failed because of the time of its request or of its answer.
#[derive(Debug)]
pub(super) struct ClockSkew {
    pub(super) theirs: UnixMillis,
    pub(super) ours: UnixMillis,
    /// Whose clock seems wrong, from our point of view.
    pub(super) fault: Option<ClockFault>,
    /// Whether that is the unproven judgement of the peer, because we have none.
    pub(super) judged_by_peer: bool,
    pub(super) what: Skewed,
}

/// The part that failed.
#[derive(Debug)]
pub(super) enum Skewed {
    /// The peer refused the request.
    Request(StatusAnswer),
    /// The answer is properly signed, but outside the freshness window.
    Answer(Box<dyn Error + Send + Sync>),
}

impl ClockSkew {
    pub(super) fn hint(&self) -> &'static str {
        match (self.fault, self.judged_by_peer) {
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
        }
    }
}

impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.theirs > self.ours {
            "ahead of"
        } else {
            "behind"
        };
        let apart = go_duration(self.theirs.abs_diff(self.ours), false);
        let (theirs, ours) = (
            http_date(self.theirs.to_seconds()),
            http_date(self.ours.to_seconds()),
        );
        match &self.what {
            Skewed::Request(answer) => {
                write!(
                    f,
                    "{answer}: its clock is {apart} {side} ours ({theirs}, ours says {ours})"
                )
            }
            Skewed::Answer(_) => write!(
                f,
                "its answer was signed {apart} {side} our clock ({theirs}, ours says {ours}): one of the two clocks is \
                 wrong, or an old answer was replayed"
            ),
        }
    }
}

impl Error for ClockSkew {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.what {
            Skewed::Answer(error) => Some(&**error),
            Skewed::Request(_) => None,
        }
    }
}

/// Returns the key that a peer knows for us, as its refusal says.
pub(super) fn known_key(headers: &HeaderMap) -> Option<KnownKey> {
    let mut values = headers.get_all(KNOWN_KEY_HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    match value {
        _ if values.next().is_some() => None,
        NO_KEY => Some(KnownKey::NoneHolds),
        key => key.parse().ok().map(KnownKey::Other),
    }
}
