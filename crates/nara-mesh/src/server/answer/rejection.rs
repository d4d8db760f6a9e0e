//! The table from internal errors to the answers that peers receive.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use nara_proto::event::Service;
use nara_proto::identity::{KeyId, NaraName};
use nara_proto::reconcile::{InvalidScope, ReconcileError};
use nara_proto::stream::InvalidStreamRequest;
use nara_proto::succession::{KNOWN_KEY_HEADER, NO_KEY};
use nara_proto::time::UnixSeconds;
use nara_proto::v1::RequestAuthError;
use nara_proto::v2::SignatureError;
use nara_proto::world::{ChainError, ReadsAsEvent};

use crate::clock::http_date;
use crate::ledger::LedgerError;
use crate::metrics;
use crate::rate_limit::RateLimit;
use crate::seldom::error_seldom;
use crate::server::limits::body_bytes::OverBudget;

/// The maximum length of a refusal's text, in bytes: some texts quote the peer.
const MAX_TEXT: usize = 2048;

/// The kinds of requests that are rate-limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// All requests from one source address.
    Address,
    /// Requests for `/api/checkpoints/all` from one source address.
    Checkpoints,
    /// Requests from one verified peer.
    Peer,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "requests from your address",
            Self::Checkpoints => "requests for checkpoints from your address",
            Self::Peer => "requests from you",
        })
    }
}

/// A request that is refused. `Display` is the text that the peer receives; internal details are logged where the
/// rejection is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// The source address belongs to another nara than the claimed sender.
    #[error("The source address does not belong to the claimed sender")]
    AddressMismatch,
    /// The answer of a route is larger than the server signs, and is not a stream.
    #[error("The answer is larger than {0} bytes: ask for it as a stream (--stream)")]
    AnswerTooLarge(usize),
    /// A request to `/mesh/message` has no readable body.
    #[error("Bad request")]
    BadRequest,
    /// The request was signed before this server, and its replay cache, started.
    #[error("Authentication failed: signed before this nara started, so it may be a replay: sign it again")]
    BeforeStart,
    /// The clock of this nara was set back, and requests of this time were accepted and forgotten.
    #[error(
        "The clock of this nara was set back, and it cannot tell this request from a replay until {} by its clock: try again \
         then, or connect with TLS 1.3",
        http_date(*.0)
    )]
    ClockSetBack(UnixSeconds),
    /// The connection broke while the body was read.
    #[error("The request body ended early")]
    BodyBroken,
    /// There is no room for the body besides those already in memory.
    #[error(transparent)]
    BodyBudget(OverBudget),
    /// The body did not arrive in time.
    #[error("The request body arrived too slowly")]
    BodyTooSlow,
    /// The body exceeds the endpoint's limit.
    #[error("The request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// Too many of these are in progress.
    #[error("Too many {0} at once, try again in a second")]
    Busy(&'static str),
    /// A hop of a world message is invalid.
    #[error("chain verification failed: {0}")]
    Chain(#[from] ChainError),
    /// A peer that has proven to sign with v2, or an impostor, sent a v1 signature.
    #[error(
        "Authentication failed: you signed with RFC 9421 before, so a v1 signature is refused; if you \
         went back on purpose, the operator of this nara must reset what is stored about you"
    )]
    Downgrade,
    /// An event carries an id that does not follow from its content.
    #[error("The event id does not match the event: recompute it from ts, svc and content, then sign")]
    ForgedId,
    /// The next nara of a world message could not be reached.
    #[error("failed to forward to {nara}: {reason}")]
    Forward {
        /// The nara that should receive it.
        nara: String,
        /// The reason.
        reason: String,
    },
    /// The body has no `from`.
    #[error("from is required")]
    FromRequired,
    /// The body names another sender than the signer of the request.
    #[error("{field} does not match the authenticated sender {sender}")]
    SenderMismatch {
        /// The field of the body.
        field: &'static str,
        /// The signer of the request.
        sender: NaraName,
    },
    /// The `Last-Event-ID` is malformed or repeated.
    #[error("Last-Event-ID is not a stream cursor: send the id of the last message, or leave the header out")]
    InvalidCursor,
    /// The query cannot be parsed.
    #[error("Invalid query: {0}")]
    InvalidQuery(#[from] InvalidStreamRequest),
    /// The scope is malformed.
    #[error("{0}")]
    Scope(#[from] InvalidScope),
    /// A handler of the application did not answer in time.
    #[error("No answer in time, try again later")]
    HandlerTooSlow,
    /// The body is not the JSON of the endpoint.
    #[error("Invalid JSON")]
    InvalidJson,
    /// A signature inside the body is invalid.
    #[error("Invalid signature")]
    InvalidSignature,
    /// The operator removed the key while the request was in progress.
    #[error("The key of the sender was replaced or removed meanwhile")]
    KeyReplaced,
    /// The ledger failed, through no fault of the peer.
    #[error("Ledger unavailable, try again later")]
    Ledger(#[source] LedgerError),
    /// The frame is malformed.
    #[error("{0}")]
    Frame(#[from] ReconcileError),
    /// The method is not the endpoint's.
    #[error("Method not allowed")]
    MethodNotAllowed,
    /// The event lacks the payload of its service.
    #[error("The event has no {0} payload")]
    MissingPayload(Service),
    /// The body does not match its signed digest.
    #[error("The body does not match the signed Content-Digest")]
    OtherBody,
    /// The server has no free stream.
    #[error("All streams are taken: fetch pages from /events/sync, or try again in a minute")]
    NoStreamLeft,
    /// The sender stated that it retires.
    #[error("{0} stated that it retires: nothing signed with its key is accepted")]
    Retired(NaraName),
    /// Two statements of succession name two successors of the sender.
    #[error(
        "Two statements name two successors of {0}, so none is followed: ask the operator of this nara to decide which key \
         holds"
    )]
    TwoSuccessors(NaraName),
    /// The route requires a fully proven request.
    #[error(
        "This route requires a fully proven request: sign with RFC 9421 (profile v2), or connect with TLS 1.3 \
         and your Ed25519 key"
    )]
    NotWhole,
    /// The path is unknown.
    #[error("404 page not found")]
    NotFound,
    /// The server has too many requests in flight.
    #[error("Too many requests at once, try again in a second")]
    Overloaded,
    /// The network does not report the owner of the source address.
    #[error("The owner of the source address is unknown at the moment, try again later")]
    OwnerUnavailable,
    /// A handler panicked.
    #[error("Internal error")]
    Panicked,
    /// The replay cache is full: accepting the request would also accept its replay.
    #[error("Too many signed requests within the last minute, try again later")]
    ReplayCacheFull,
    /// The request has no valid signature of profile v2.
    #[error("Authentication failed: {0}")]
    Signature(SignatureError),
    /// The world message has an id on which v1 peers abort.
    #[error("The message id is shorter than {} bytes", nara_proto::world::MIN_ID_LEN)]
    ShortWorldId,
    /// The world message must not be signed.
    #[error(transparent)]
    WorldMessage(#[from] ReadsAsEvent),
    /// The body is streamed on a connection that does not prove it.
    #[error(
        "A body without a signed digest needs a secure connection: connect with TLS 1.3 and your Ed25519 \
         key, or send a body with Content-Digest"
    )]
    StreamedBody,
    /// No nara is left to forward the world message to.
    #[error("journey stuck - no next nara available")]
    Stuck,
    /// The request has more ids than an answer may have events.
    #[error("Ask for at most {} events at once", nara_proto::sync::MAX_EVENTS)]
    TooManyIds,
    /// The `/peer/query` has no `target`.
    #[error("target parameter required")]
    TargetRequired,
    /// The request is not authenticated.
    #[error("Authentication failed: {0}")]
    Unauthenticated(#[from] RequestAuthError),
    /// The source address has too many connections.
    #[error(
        "Too many connections from your address: at most {0} at once; close one, or try again in a second"
    )]
    TooManyConnections(usize),
    /// The peer has too many requests in flight.
    #[error("You have {0} requests in flight, which is the limit: wait for their answers")]
    TooManyInFlight(usize),
    /// The request exceeds a rate limit.
    #[error(
        "Too many {of}: at most {} a second, {} at once; try again in {} s",
        limit.per_second, limit.burst, whole_seconds(*retry_after)
    )]
    TooManyRequests {
        /// The kind of requests.
        of: Limit,
        /// The limit.
        limit: RateLimit,
        /// The time until the next request is allowed.
        retry_after: Duration,
    },
    /// The request used a plain connection, but the server requires TLS.
    #[error("This nara answers over TLS only: connect again with TLS 1.3 and your Ed25519 key")]
    TlsRequired,
    /// The request used a plain connection, but the operator requires TLS for this peer.
    #[error("{0} is set to TLS only: connect again with TLS 1.3 and your Ed25519 key")]
    TlsRequiredOf(NaraName),
    /// The connection belongs to the holder of another key than the sender's.
    #[error("This connection does not belong to {sender}: it was opened with another key")]
    OtherKey {
        /// The claimed sender.
        sender: NaraName,
        /// The key that is pinned for it.
        known: KeyId,
    },
    /// The peer has too many streams.
    #[error("You have {0} streams open, which is the limit: close one, or try again in a minute")]
    TooManyStreams(usize),
    /// The operator banned the sender.
    #[error("The operator of this nara banned you")]
    Untrusted,
    /// The key of an event's emitter is unknown.
    #[error("Unknown emitter")]
    UnknownEmitter,
    /// The event has no emitter or signature.
    #[error("Unsigned event rejected")]
    UnsignedEvent,
}

impl From<SignatureError> for Rejection {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Body => Self::OtherBody,
            error => Self::Signature(error),
        }
    }
}

impl From<LedgerError> for Rejection {
    fn from(error: LedgerError) -> Self {
        error_seldom!(error = &error as &dyn std::error::Error, "the ledger failed");
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
            | Self::OtherBody
            | Self::Scope(_)
            | Self::ShortWorldId
            | Self::Stuck
            | Self::TargetRequired
            | Self::TooManyIds
            | Self::UnsignedEvent
            | Self::WorldMessage(_) => StatusCode::BAD_REQUEST,
            Self::BeforeStart
            | Self::Downgrade
            | Self::KeyReplaced
            | Self::OtherKey { .. }
            | Self::Signature(_)
            | Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::AddressMismatch
            | Self::InvalidSignature
            | Self::NotWhole
            | Self::Retired(_)
            | Self::SenderMismatch { .. }
            | Self::StreamedBody
            | Self::TlsRequired
            | Self::TlsRequiredOf(_)
            | Self::TwoSuccessors(_)
            | Self::UnknownEmitter
            | Self::Untrusted => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::AnswerTooLarge(_) | Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
            Self::BodyBudget(OverBudget::OfSource(_))
            | Self::TooManyInFlight(_)
            | Self::TooManyRequests { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyBudget(OverBudget::All)
            | Self::Busy(_)
            | Self::ClockSetBack(_)
            | Self::HandlerTooSlow
            | Self::Ledger(_)
            | Self::NoStreamLeft
            | Self::Overloaded
            | Self::OwnerUnavailable
            | Self::ReplayCacheFull
            | Self::TooManyConnections(_)
            | Self::TooManyStreams(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns `Retry-After` in whole seconds (RFC 9110, section 10.2.3). Only for short waits: our client does not
    /// call the peer at all before.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::BodyBudget(_)
            | Self::Busy(_)
            | Self::Overloaded
            | Self::ReplayCacheFull
            | Self::TooManyConnections(_)
            | Self::TooManyInFlight(_) => Some(1),
            Self::TooManyRequests { retry_after, .. } => Some(whole_seconds(*retry_after)),
            _ => None,
        }
    }

    /// Returns the pinned key of the sender, if it is the reason, so that the sender's operator learns that its key is
    /// not accepted here.
    fn known_key(&self) -> Option<HeaderValue> {
        match self {
            Self::OtherKey { known, .. } | Self::Signature(SignatureError::KeyId { known, .. }) => {
                HeaderValue::try_from(known.to_string()).ok()
            }
            Self::Retired(_) | Self::TwoSuccessors(_) => Some(HeaderValue::from_static(NO_KEY)),
            _ => None,
        }
    }

    /// Returns the label in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest | Self::InvalidJson => "malformed_body",
            Self::AddressMismatch => "address_mismatch",
            Self::AnswerTooLarge(_) => "answer_too_large",
            Self::BeforeStart => "before_start",
            Self::BodyBroken => "body_broken",
            Self::BodyBudget(OverBudget::All) => "body_bytes",
            Self::BodyBudget(OverBudget::OfSource(_)) => "body_bytes_of_peer",
            Self::BodyTooSlow => "body_too_slow",
            Self::BodyTooLarge(_) => "body_too_large",
            Self::Busy(_) => "busy",
            Self::Chain(_) => "chain",
            Self::ClockSetBack(_) => "clock_set_back",
            Self::Downgrade => "downgrade",
            Self::ForgedId => "forged_id",
            Self::Forward { .. } | Self::Stuck => "stuck_journey",
            Self::Frame(_) | Self::Scope(_) => "reconcile",
            Self::FromRequired
            | Self::InvalidCursor
            | Self::InvalidQuery(_)
            | Self::MissingPayload(_)
            | Self::ShortWorldId
            | Self::TargetRequired
            | Self::TooManyIds
            | Self::WorldMessage(_) => "invalid_request",
            Self::HandlerTooSlow => "handler_too_slow",
            Self::InvalidSignature => "inner_signature",
            Self::KeyReplaced => "key_replaced",
            Self::Ledger(_) => "ledger",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoStreamLeft | Self::TooManyStreams(_) => "too_many_streams",
            Self::NotFound => "not_found",
            Self::NotWhole => "not_whole",
            Self::StreamedBody => "streamed_body",
            Self::OtherBody => "other_body",
            Self::OtherKey { .. } => "key_of_connection",
            Self::Overloaded => "overloaded",
            Self::OwnerUnavailable => "owner_unavailable",
            Self::Panicked => "panicked",
            Self::ReplayCacheFull => "replay_cache_full",
            Self::Retired(_) => "retired",
            Self::TwoSuccessors(_) => "two_successors",
            Self::SenderMismatch { .. } => "sender_mismatch",
            Self::Signature(error) => match error {
                SignatureError::BadSignature => "bad_signature",
                SignatureError::Channel => "other_connection",
                SignatureError::Expired { .. } | SignatureError::Stale { .. } => "stale",
                SignatureError::KeyId { .. } => "other_key",
                SignatureError::Recipient => "other_recipient",
                _ => "auth_headers",
            },
            Self::TlsRequired | Self::TlsRequiredOf(_) => "tls_required",
            Self::TooManyConnections(_) => "connections_of_address",
            Self::TooManyInFlight(_) => "in_flight_of_peer",
            Self::TooManyRequests { of, .. } => match of {
                Limit::Address => "rate_of_address",
                Limit::Checkpoints => "rate_of_checkpoints",
                Limit::Peer => "rate_of_peer",
            },
            Self::Unauthenticated(error) => match error {
                RequestAuthError::BadSignature => "bad_signature",
                RequestAuthError::Header(_) => "auth_headers",
                RequestAuthError::Replayed => "replayed",
                RequestAuthError::Stale { .. } => "stale",
                RequestAuthError::UnknownSender(_) => "unknown_sender",
                _ => "unauthenticated",
            },
            Self::UnknownEmitter => "unknown_emitter",
            Self::Untrusted => "untrusted",
            Self::UnsignedEvent => "unsigned_event",
        }
    }
}

/// Rounds up, so that no peer returns too early; at least 1.
fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        ::metrics::counter!(metrics::REQUESTS_REFUSED, "reason" => self.reason()).increment(1);
        let mut response = text(self.status(), &self.to_string());
        if let Some(seconds) = self.retry_after() {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(known) = self.known_key() {
            response.headers_mut().insert(KNOWN_KEY_HEADER, known);
        }
        response
    }
}

/// Returns an error answer in the form of v1 peers: the text and a newline.
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

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_never_too_short() {
        for (wait, told) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            let rejection = Rejection::TooManyRequests {
                of: Limit::Peer,
                limit: RateLimit::new(2, 3),
                retry_after: Duration::from_millis(wait),
            };
            let response = rejection.into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[header::RETRY_AFTER], told.to_string());
        }
        assert!(
            Rejection::NotFound
                .into_response()
                .headers()
                .get(header::RETRY_AFTER)
                .is_none()
        );
    }

    #[test]
    fn every_reason_is_a_series_from_the_start() {
        let source = include_str!("rejection.rs");
        let (_, reasons) = source.split_once("fn reason(&self)").unwrap();
        let (reasons, _) = reasons.split_once("\n    }\n").unwrap();
        let mut reasons: Vec<&str> = reasons.split('"').skip(1).step_by(2).collect();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons, metrics::REASONS);
    }

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
