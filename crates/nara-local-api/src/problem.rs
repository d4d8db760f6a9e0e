//! Errors of the API, as problems of RFC 9457.

use std::error::Error;
use std::fmt;

use http::StatusCode;
use nara_mesh::client::{ClientError, ClientErrorKind, InvalidPeerRef, SyncError};
use nara_mesh::ledger::LedgerError;
use nara_mesh::registry::{KeyConflict, KeyRefused, RegisterError};
use nara_proto::identity::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Conflict;

/// The prefix of every problem type.
const TYPE: &str = "urn:nara-mesh:problem:";

/// The class of a problem, for programs that need no more detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemClass {
    /// Any other failure.
    Failed,
    /// A peer could not be reached, or did not answer in time.
    Unreachable,
    /// Authentication failed, or the peer is not trusted.
    Untrusted,
    /// The request is invalid, or names an unknown peer.
    Usage,
}

/// Why a request to the local API failed (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{detail}")]
#[non_exhaustive]
pub struct Problem {
    /// `urn:nara-mesh:problem:` and a stable name, such as `unknown_peer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The type in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, as one sentence.
    pub detail: String,
    /// The class of the problem.
    pub class: ProblemClass,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The invalid field of the request, such as `payload.nonce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The peer that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The nara that is not trusted, or whose key is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nara: Option<String>,
    /// The pinned key and the other offered key, if that is the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<Conflict>,
    /// The key id of an untrusted key, if that is the cause. Its owner is `nara`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_key_id: Option<String>,
    /// The status with which the peer refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_status: Option<u16>,
    /// How long to wait before the peer is called again, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The causes, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

impl Problem {
    /// Creates a problem of this API.
    pub(crate) fn new(
        name: &str,
        status: StatusCode,
        class: ProblemClass,
        detail: impl fmt::Display,
    ) -> Self {
        Self {
            kind: format!("{TYPE}{name}"),
            title: name.replace('_', " "),
            status: status.as_u16(),
            detail: detail.to_string(),
            class,
            hint: None,
            field: None,
            peer: None,
            nara: None,
            conflict: None,
            refused_key_id: None,
            peer_status: None,
            retry_after_ms: None,
            causes: Vec::new(),
        }
    }

    /// Creates the problem of a malformed request.
    pub(crate) fn invalid(detail: impl fmt::Display) -> Self {
        let (status, class) = (StatusCode::BAD_REQUEST, ProblemClass::Usage);
        Self::new("invalid_request", status, class, detail)
    }

    /// Creates the problem of an invalid field.
    pub(crate) fn invalid_field(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        let field = field.into();
        let (status, class) = (StatusCode::UNPROCESSABLE_ENTITY, ProblemClass::Usage);
        Self {
            field: Some(field.clone()),
            ..Self::new(
                "invalid_request",
                status,
                class,
                format_args!("{field}: {reason}"),
            )
        }
    }

    /// Creates the problem of a peer that is not in the registry.
    pub(crate) fn unknown_peer(peer: &str) -> Self {
        let detail = format!("{peer} is unknown");
        let problem = Self::new("unknown_peer", StatusCode::NOT_FOUND, ProblemClass::Usage, detail);
        problem.hint("`nara-mesh peers` lists the known peers (GET /v1/peers)")
    }

    /// Creates the problem of a feature that the program around this nara does not offer.
    pub(crate) fn not_offered(what: &str) -> Self {
        let detail = format!("this nara offers no {what}");
        Self::new(
            "not_offered",
            StatusCode::NOT_IMPLEMENTED,
            ProblemClass::Failed,
            detail,
        )
    }

    /// Adds what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &dyn Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(causes(error));
        self
    }

    /// Returns the name in the type, such as `unknown_peer`.
    pub fn name(&self) -> &str {
        self.kind.strip_prefix(TYPE).unwrap_or(&self.kind)
    }
}

/// Returns the causes of an error, outermost first.
pub(crate) fn causes(error: &dyn Error) -> Vec<String> {
    std::iter::successors(error.source(), |&error| error.source())
        .map(ToString::to_string)
        .collect()
}

impl From<&ClientError> for Problem {
    fn from(error: &ClientError) -> Self {
        let (status, title) = outcome(error);
        let class = if error.is_unknown_peer() {
            ProblemClass::Usage
        } else if error.is_unauthenticated() || error.status() == Some(StatusCode::FORBIDDEN) {
            // The peer refused us: it does not trust our key, or its operator banned us.
            ProblemClass::Untrusted
        } else if error.is_timeout() || error.is_unreachable() || has_no_answer(error.kind()) {
            ProblemClass::Unreachable
        } else {
            ProblemClass::Failed
        };
        let (conflict, refused) = keys(error);
        let refused_name = refused.as_ref().map(|refused| refused.name.to_string());
        let retry_after = error.retry_after().map(|wait| wait.as_millis());
        Self {
            title,
            hint: error.hint().map(Into::into),
            peer: Some(error.peer().to_owned()),
            nara: error.nara().map(ToString::to_string).or(refused_name),
            conflict: conflict.as_ref().map(Conflict::of),
            refused_key_id: refused.map(|refused| KeyId::from(&refused.offered).to_string()),
            peer_status: error.status().map(|status| status.as_u16()),
            retry_after_ms: retry_after.and_then(|wait| u64::try_from(wait).ok()),
            causes: causes(error),
            ..Self::new(error.kind().as_str(), status, class, error)
        }
    }
}

/// Returns the key conflict or the untrusted key among the causes of an error.
fn keys(error: &(dyn Error + 'static)) -> (Option<KeyConflict>, Option<KeyRefused>) {
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let boxed = cause.downcast_ref::<Box<RegisterError>>().map(Box::as_ref);
        match cause.downcast_ref::<RegisterError>().or(boxed) {
            Some(RegisterError::KeyConflict(conflict)) => return (Some(conflict.clone()), None),
            Some(RegisterError::KeyRefused(refused)) => return (None, Some(refused.clone())),
            _ => {}
        }
        if let Some(refused) = cause.downcast_ref::<KeyRefused>() {
            return (None, Some(refused.clone()));
        }
    }
    (None, None)
}

/// Returns the status, and the outcome in a few words.
fn outcome(error: &ClientError) -> (StatusCode, String) {
    use ClientErrorKind as Kind;
    if error.kind() == Kind::InvalidPeer {
        (StatusCode::BAD_REQUEST, "unknown peer".to_owned())
    } else if error.is_unknown_peer() {
        (StatusCode::NOT_FOUND, "unknown peer".to_owned())
    } else if error.is_circuit_open() {
        (StatusCode::SERVICE_UNAVAILABLE, "down, not called".to_owned())
    } else if error.is_timeout() {
        (StatusCode::GATEWAY_TIMEOUT, "timeout".to_owned())
    } else if error.is_unreachable() {
        (StatusCode::BAD_GATEWAY, "unreachable".to_owned())
    } else if error.is_untrusted() {
        (StatusCode::FORBIDDEN, "banned".to_owned())
    } else if error.is_unauthenticated() {
        (StatusCode::BAD_GATEWAY, "not authenticated".to_owned())
    } else if error.is_rate_limited() {
        (StatusCode::SERVICE_UNAVAILABLE, "asked to wait".to_owned())
    } else if let Some(status) = error.status() {
        (StatusCode::BAD_GATEWAY, format!("status {}", status.as_u16()))
    } else {
        let status = match error.kind() {
            Kind::InvalidRequest => StatusCode::BAD_REQUEST,
            Kind::DuplicateMessage => StatusCode::CONFLICT,
            Kind::TooManyPending => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, "failed".to_owned())
    }
}

/// Returns whether the address answers, but not as a nara.
fn has_no_answer(kind: ClientErrorKind) -> bool {
    matches!(
        kind,
        ClientErrorKind::Broken | ClientErrorKind::NotHttp | ClientErrorKind::Tls
    )
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        Self::from(&error)
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        if let LedgerError::NotRetained = error {
            let (status, class) = (StatusCode::INSUFFICIENT_STORAGE, ProblemClass::Failed);
            return Self::new("event_not_kept", status, class, &error);
        }
        let (status, class) = (StatusCode::INTERNAL_SERVER_ERROR, ProblemClass::Failed);
        let problem = Self::new("ledger", status, class, "the ledger failed").caused_by(&error);
        // SQLite's messages do not say what to do.
        match error {
            LedgerError::Full(_) | LedgerError::ReadOnly(_) | LedgerError::Busy(_) => {
                problem.hint(error.to_string())
            }
            _ => problem,
        }
    }
}

impl From<SyncError> for Problem {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Peer(error) => error.into(),
            SyncError::Ledger(error) => error.into(),
            error => {
                let (status, class) = (StatusCode::BAD_GATEWAY, ProblemClass::Failed);
                Self::new("transfer", status, class, "the transfer failed").caused_by(&error)
            }
        }
    }
}

impl From<InvalidPeerRef> for Problem {
    fn from(error: InvalidPeerRef) -> Self {
        let (status, class) = (StatusCode::BAD_REQUEST, ProblemClass::Usage);
        let problem = Self::new("invalid_peer", status, class, &error).caused_by(&error.reason);
        problem.hint("refer to it by its id, its name or its address")
    }
}
