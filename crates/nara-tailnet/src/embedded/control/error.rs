//! The errors of sessions with the control server.

use std::fmt;
use std::time::Duration;

use crate::embedded::chain::chain;
use crate::embedded::keys::KeyFileError;
use crate::embedded::netmap::MalformedMap;
use crate::status::NotReadyReason;

/// The maximum length of a quoted error page, in characters.
const MAX_QUOTE: usize = 200;

/// The error with which a session with the control server failed or ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error("no answer from {server}")]
    Dial { server: String, source: std::io::Error },
    #[error("the TLS handshake with {server} failed")]
    Tls { server: String, source: std::io::Error },
    #[error("{step}: {detail}")]
    Protocol { step: &'static str, detail: String },
    #[error("{step}: no answer within {after:?}")]
    TimedOut { step: &'static str, after: Duration },
    #[error("{detail}")]
    Refused { detail: String },
    #[error("the key of the node has expired")]
    KeyExpired,
    #[error("log in at {url}")]
    LoginNeeded { url: String },
    #[error("an administrator must approve the node")]
    ApprovalNeeded,
    #[error(transparent)]
    Map(#[from] MalformedMap),
    #[error("the connection was closed")]
    Ended(#[source] std::io::Error),
    #[error("the new node key cannot be stored")]
    Keys(#[from] KeyFileError),
}

impl ControlError {
    pub(super) fn reason(&self) -> NotReadyReason {
        let detail = chain(self);
        match self {
            Self::Refused { .. } => NotReadyReason::KeyRefused { detail },
            Self::KeyExpired => NotReadyReason::KeyExpired,
            Self::LoginNeeded { url } => NotReadyReason::NeedsLogin {
                url: Some(url.clone()),
            },
            Self::ApprovalNeeded => NotReadyReason::NeedsApproval,
            Self::Keys(_) => NotReadyReason::Other { detail },
            Self::Dial { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::TimedOut { .. }
            | Self::Map(_)
            | Self::Ended(_) => NotReadyReason::ControlUnreachable { detail },
        }
    }
}

/// Formats the text of an error answer for display, with a leading colon: one line of bounded length.
pub(super) fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text
        .trim()
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(MAX_QUOTE)
        .collect();
    if text.is_empty() {
        text
    } else {
        format!(": {text}")
    }
}

pub(super) fn protocol(step: &'static str, detail: impl fmt::Display) -> ControlError {
    ControlError::Protocol {
        step,
        detail: detail.to_string(),
    }
}
