//! Answers that say no.

use std::fmt;

use http::StatusCode;

/// The most characters of an answer that a message shows.
const MAX_SHOWN: usize = 200;

/// An answer with another status than 200.
#[derive(Debug)]
pub(super) struct StatusAnswer {
    pub(super) status: StatusCode,
    /// Its text, cut at 4 KiB.
    pub(super) text: String,
    /// Whether its signature verified with the pinned key of the peer.
    pub(super) verified: bool,
}

impl StatusAnswer {
    /// What was answered, without what to do.
    pub(super) fn fmt_what_happened(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered {}", self.status.as_u16())?;
        let text: String = self.text.trim().chars().take(MAX_SHOWN).collect();
        if !text.is_empty() {
            // Quoted: a peer must not write control characters to a terminal or a log.
            write!(f, " {text:?}")?;
        }
        f.write_str(if self.verified {
            " (verified)"
        } else {
            " (not verified)"
        })
    }
}

impl fmt::Display for StatusAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_what_happened(f)?;
        f.write_str(match self.status {
            StatusCode::UNAUTHORIZED => {
                "; check that our clock is right and that the peer has our name and key"
            }
            status if status.is_redirection() => "; redirects are not followed, check the address",
            status if status.is_server_error() => "; the peer failed, try again later",
            _ => "; change the request as the answer says",
        })
    }
}
