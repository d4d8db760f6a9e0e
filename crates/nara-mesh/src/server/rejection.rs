//! The one table from what went wrong to what the peer is told.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use nara_proto::auth::RequestAuthError;
use nara_proto::event::Service;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{InvalidScope, ReconcileError};
use nara_proto::stream::InvalidStreamRequest;
use nara_proto::world::ChainError;

use crate::ledger::LedgerError;

/// The longest text that a peer is told, in bytes: some texts repeat what the peer sent.
const MAX_TEXT: usize = 2048;

/// A request that is not served. `Display` is what the peer is told; what only we should know goes to the log
/// where the rejection is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// `/mesh/message` without a readable body.
    #[error("Bad request")]
    BadRequest,
    /// The connection broke while the body was read.
    #[error("The request body ended early")]
    BodyBroken,
    /// The body did not come in time.
    #[error("The request body came too slowly")]
    BodyTooSlow,
    /// The body is larger than the endpoint takes.
    #[error("The request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// A hop of a world message does not verify.
    #[error("chain verification failed: {0}")]
    Chain(#[from] ChainError),
    /// An event carries an id that does not follow from its content.
    #[error("The event id does not belong to the event: recompute it from ts, svc and content, then sign")]
    ForgedId,
    /// The next nara of a world message could not be reached.
    #[error("failed to forward to {nara}: {reason}")]
    Forward {
        /// Who was to get it.
        nara: String,
        /// What failed.
        reason: String,
    },
    /// A body without `from`.
    #[error("from is required")]
    FromRequired,
    /// The body names another nara as sender than the one that signed the request.
    #[error("{field} does not match the authenticated sender {sender}")]
    SenderMismatch {
        /// The field of the body.
        field: &'static str,
        /// Who signed the request.
        sender: NaraName,
    },
    /// A `Last-Event-ID` that is not one, or several.
    #[error("Last-Event-ID is not a cursor of a stream: send the id of the last message, or leave it out")]
    InvalidCursor,
    /// A query that cannot be read.
    #[error("Invalid query: {0}")]
    InvalidQuery(#[from] InvalidStreamRequest),
    /// A scope that is none.
    #[error("{0}")]
    Scope(#[from] InvalidScope),
    /// Not the JSON that the endpoint takes.
    #[error("Invalid JSON")]
    InvalidJson,
    /// A signature inside the body does not verify.
    #[error("Invalid signature")]
    InvalidSignature,
    /// The ledger failed; the peer cannot help it.
    #[error("Ledger unavailable, try again later")]
    Ledger(#[source] LedgerError),
    /// A frame that is none.
    #[error("{0}")]
    Frame(#[from] ReconcileError),
    /// Another method than the endpoint's.
    #[error("Method not allowed")]
    MethodNotAllowed,
    /// An event without the payload of its service.
    #[error("The event has no {0} payload")]
    MissingPayload(Service),
    /// All streams of this server are taken.
    #[error("No stream left: fetch pages from /events/sync, or try again in a minute")]
    NoStreamLeft,
    /// Nothing is here.
    #[error("404 page not found")]
    NotFound,
    /// A handler panicked.
    #[error("Internal error")]
    Panicked,
    /// The replay cache is full: to accept the request would be to accept its replay.
    #[error("Too many signed requests within the last minute, try again later")]
    ReplayCacheFull,
    /// A world message with an id on which the naras already out there abort.
    #[error("The message id is shorter than {} bytes", nara_proto::world::MIN_ID_LEN)]
    ShortWorldId,
    /// Nobody is left to whom a world message could go.
    #[error("journey stuck - no next nara available")]
    Stuck,
    /// More ids than an answer may have events.
    #[error("Ask for at most {} events at once", nara_proto::sync::MAX_EVENTS)]
    TooManyIds,
    /// `/peer/query` without `target`.
    #[error("target parameter required")]
    TargetRequired,
    /// The request is not authenticated.
    #[error("Authentication failed: {0}")]
    Unauthenticated(#[from] RequestAuthError),
    /// The request came over a plain connection, where only TLS will do.
    #[error("This nara answers over TLS only: connect again with TLS 1.3 and your Ed25519 key")]
    TlsRequired,
    /// The request came over a plain connection, from a peer that is to use TLS.
    #[error("{0} is known to use TLS only: connect again with TLS 1.3 and your Ed25519 key")]
    TlsRequiredOf(NaraName),
    /// The connection belongs to the holder of another key than the sender's.
    #[error("This connection is not one of {0}: it was opened with another key")]
    OtherKey(NaraName),
    /// The peer has as many streams as it may have.
    #[error("You have {0} streams open, which is the limit: close one, or try again in a minute")]
    TooManyStreams(usize),
    /// The key of the emitter of an event is not known.
    #[error("Unknown emitter")]
    UnknownEmitter,
    /// An event without emitter or signature.
    #[error("Unsigned event rejected")]
    UnsignedEvent,
}

impl From<LedgerError> for Rejection {
    fn from(error: LedgerError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the ledger failed");
        Self::Ledger(error)
    }
}

impl Rejection {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest
            | Self::BodyBroken
            | Self::Chain(_)
            | Self::ForgedId
            | Self::Frame(_)
            | Self::Forward { .. }
            | Self::FromRequired
            | Self::InvalidCursor
            | Self::InvalidJson
            | Self::InvalidQuery(_)
            | Self::MissingPayload(_)
            | Self::Scope(_)
            | Self::ShortWorldId
            | Self::Stuck
            | Self::TargetRequired
            | Self::TooManyIds
            | Self::UnsignedEvent => StatusCode::BAD_REQUEST,
            Self::OtherKey(_) | Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::InvalidSignature
            | Self::SenderMismatch { .. }
            | Self::TlsRequired
            | Self::TlsRequiredOf(_)
            | Self::UnknownEmitter => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Ledger(_) | Self::NoStreamLeft | Self::ReplayCacheFull | Self::TooManyStreams(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        text(self.status(), &self.to_string())
    }
}

/// An error answer as the naras already out there spell it: the text and a newline.
fn text(status: StatusCode, reason: &str) -> Response {
    let mut end = reason.len().min(MAX_TEXT);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let body: Cow<'static, str> = format!("{}\n", &reason[..end]).into();
    (
        status,
        [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            ),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            ),
        ],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_text_is_cut_at_a_character() {
        let rejection = Rejection::Chain(ChainError::UnknownKey {
            nara: "é".repeat(5000),
        });
        let body = axum::body::to_bytes(rejection.into_response().into_body(), 10_000)
            .await
            .unwrap();
        assert!(body.len() <= MAX_TEXT + 1);
        assert!(std::str::from_utf8(&body).unwrap().ends_with("é\n"));
    }
}
