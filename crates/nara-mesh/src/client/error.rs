//! What can go wrong with a call.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::StatusCode;
use nara_proto::breaker::CircuitOpen;
use nara_proto::go_json::JsonError;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::ReconcileError;
use nara_proto::stream::HelloError;
use nara_proto::sync::PageError;
use nara_proto::v1::ResponseAuthError;
use nara_proto::v2::SignatureError;

use super::clock_skew::{ClockSkew, Skewed};
use super::retry_after::AskedToWait;
use super::status_answer::StatusAnswer;
use crate::registry::{RegisterError, retrust_command};
use crate::tls::TlsFailure;

/// A call that did not give a verified answer.
///
/// `Display` says which peer, what happened and what to do; the cause, if there is one, is its
/// [`source`](Error::source) and not repeated.
#[derive(Debug)]
pub struct ClientError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    peer: String,
    kind: ErrorKind,
}

#[derive(Debug)]
pub(super) enum ErrorKind {
    /// The peer asked for a pause.
    AskedToWait(AskedToWait),
    /// The connection broke before the answer was complete.
    Broken(hyper::Error),
    /// The breaker of the peer is open.
    CircuitOpen(CircuitOpen),
    /// The clocks are too far apart.
    ClockSkew(ClockSkew),
    /// The body of the answer is not what the endpoint answers.
    Decode(JsonError),
    /// No connection.
    Dial(io::Error),
    /// No connection in time.
    DialTimeout(Duration),
    /// A message with the same id waits for its reply already.
    DuplicateMessage,
    /// The opening of a stream does not prove who serves it.
    Hello(HelloError),
    /// Signed by a key that contradicts what the registry knows.
    Identity(RegisterError),
    /// The inner signature of the answer does not verify.
    InnerSignature,
    /// The answer of `/ping` does not tell a name and a key.
    Discovery(DiscoveryProblem),
    /// The request has no valid form.
    InvalidRequest(http::Error),
    /// Nobody knows the nara that was searched for.
    NobodyKnows {
        /// How many were asked.
        asked: usize,
    },
    /// The peer sent pages that break the rules.
    Page(PageError),
    /// The peer has proven that it speaks v2, and the answer is not v2.
    Downgrade,
    /// The peer breaks the rules of reconciliation.
    Reconcile(ReconcileError),
    /// The reply to a runtime message did not come.
    NoReply(Duration),
    /// An answer with another status than 200.
    Status(StatusAnswer),
    /// The connection did not become secure.
    Tls(TlsFailure),
    /// There is no secure connection to a peer that has proven that it speaks TLS, so it is not called at all.
    TlsGone(io::Error),
    /// The deadline passed.
    Timeout(Stage),
    /// The answer is too large.
    TooLarge(usize),
    /// Too many runtime messages wait for replies.
    TooManyPending(usize),
    /// The v2 signature of the answer.
    Signature(SignatureError),
    /// The inherited signature of the answer.
    Unauthenticated(ResponseAuthError),
    /// The key with which the answer is signed cannot be learned.
    UnknownKey {
        responder: NaraName,
        /// Why `/ping` did not tell it; `None`: only pinned keys are trusted.
        discovery: Option<ClientError>,
    },
    /// The registry does not have the peer, or not its address.
    UnknownPeer,
    /// The operator does not trust the peer.
    Untrusted(NaraName),
}

/// Why the answer of `/ping` does not tell the key of a nara.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryProblem {
    #[error("its /ping answer has no valid public key")]
    NoKey,
    #[error("its /ping answer has no valid name")]
    NoName,
    #[error("its /ping answer names {got} instead of {expected}")]
    OtherNara { expected: NaraName, got: NaraName },
}

/// What a call was doing when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Answer,
    Dial,
    Queue,
    Verify,
}

impl ClientError {
    pub(super) fn new(peer: impl fmt::Display, kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            peer: peer.to_string(),
            kind,
        }))
    }

    pub(super) fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The peer, as messages call it.
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// A deadline passed: that of the call, of dialling, or of waiting for a reply.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::DialTimeout(_) | ErrorKind::NoReply(_) | ErrorKind::Timeout(_)
        )
    }

    /// No connection to the peer came about, now or when it was last tried: see also
    /// [`ClientError::is_circuit_open`].
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::CircuitOpen(_)
                | ErrorKind::Dial(_)
                | ErrorKind::DialTimeout(_)
                | ErrorKind::Timeout(Stage::Dial)
        )
    }

    /// The peer is known to be down and was not called.
    pub fn is_circuit_open(&self) -> bool {
        matches!(self.kind(), ErrorKind::CircuitOpen(_))
    }

    /// The registry does not have the peer, or not its address, and nothing was sent; or nobody knows the
    /// nara that was searched for.
    pub fn is_unknown_peer(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::NobodyKnows { .. } | ErrorKind::UnknownPeer
        )
    }

    /// We could not verify the peer, or the peer could not verify us (status 401).
    pub fn is_unauthenticated(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::ClockSkew(_)
                | ErrorKind::Discovery(_)
                | ErrorKind::Downgrade
                | ErrorKind::Hello(_)
                | ErrorKind::Identity(_)
                | ErrorKind::InnerSignature
                | ErrorKind::Signature(_)
                | ErrorKind::Tls(TlsFailure::OtherKey(_))
                | ErrorKind::Unauthenticated(_)
                | ErrorKind::UnknownKey { .. }
                | ErrorKind::Untrusted(_)
        ) || self.status() == Some(StatusCode::UNAUTHORIZED)
    }

    /// The peer refused because we ask too often or it has too much to do (status 429 or 503 with `Retry-After`), or
    /// it was not called because it did so a moment ago. See [`ClientError::retry_after`].
    pub fn is_rate_limited(&self) -> bool {
        matches!(self.kind(), ErrorKind::AskedToWait(_))
    }

    /// How long the peer asked to wait, from the moment of the error on; at most
    /// [`RETRY_AFTER_MAX`](crate::defaults::RETRY_AFTER_MAX). Until then it is not called.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind() {
            ErrorKind::AskedToWait(asked) => Some(asked.retry_after),
            _ => None,
        }
    }

    /// The operator of this nara does not trust the peer, and nothing of it is used.
    pub fn is_untrusted(&self) -> bool {
        matches!(self.kind(), ErrorKind::Untrusted(_))
    }

    /// The answer does less than the peer has proven that it can: somebody may be taking the better signature away.
    pub fn is_downgrade(&self) -> bool {
        matches!(self.kind(), ErrorKind::Downgrade)
    }

    /// The clock of the peer and ours are too far apart: it refused the request, or its answer is not fresh. The message
    /// says what both clocks say and which one seems wrong.
    pub fn is_clock_skew(&self) -> bool {
        matches!(self.kind(), ErrorKind::ClockSkew(_))
    }

    /// A world message was taken in, but could not travel on from there (docs/protocol/v1.md, section 7.6). The status
    /// is 400 then, as if it had been refused.
    pub fn is_stuck_journey(&self) -> bool {
        self.status() == Some(StatusCode::BAD_REQUEST)
            && self.text().is_some_and(|text| {
                text.starts_with("journey stuck") || text.starts_with("failed to forward")
            })
    }

    /// The status of the answer, if it was another one than 200.
    pub fn status(&self) -> Option<StatusCode> {
        self.answer().map(|answer| answer.status)
    }

    /// What the answer said, if its status was another one than 200; cut at 4 KiB.
    pub fn text(&self) -> Option<&str> {
        self.answer().map(|answer| answer.text.as_str())
    }

    /// Whether an answer with another status than 200 was signed by the peer. Status 401 never is.
    pub fn is_status_verified(&self) -> bool {
        self.answer().is_some_and(|answer| answer.verified)
    }

    /// What to call the outcome in traces.
    pub(super) fn outcome(&self) -> &'static str {
        match self.kind() {
            ErrorKind::AskedToWait(_) => "asked_to_wait",
            ErrorKind::Broken(_) => "broken",
            ErrorKind::CircuitOpen(_) => "circuit_open",
            ErrorKind::ClockSkew(_) => "clock_skew",
            ErrorKind::Decode(_) => "decode",
            ErrorKind::Dial(_) => "dial",
            ErrorKind::DialTimeout(_) => "dial_timeout",
            ErrorKind::Discovery(_) => "discovery",
            ErrorKind::Downgrade => "downgrade",
            ErrorKind::DuplicateMessage => "duplicate_message",
            ErrorKind::Hello(_) => "hello",
            ErrorKind::Identity(_) => "identity",
            ErrorKind::InnerSignature => "inner_signature",
            ErrorKind::InvalidRequest(_) => "invalid_request",
            ErrorKind::NobodyKnows { .. } => "nobody_knows",
            ErrorKind::NoReply(_) => "no_reply",
            ErrorKind::Page(_) => "page",
            ErrorKind::Reconcile(_) => "reconcile",
            ErrorKind::Signature(_) => "signature",
            ErrorKind::Status(_) => "status",
            ErrorKind::Tls(TlsFailure::OtherKey(_)) => "other_key",
            ErrorKind::Tls(TlsFailure::Handshake(_)) | ErrorKind::TlsGone(_) => "tls",
            ErrorKind::Timeout(_) => "timeout",
            ErrorKind::TooLarge(_) => "too_large",
            ErrorKind::TooManyPending(_) => "too_many_pending",
            ErrorKind::Unauthenticated(_) => "unauthenticated",
            ErrorKind::UnknownKey { .. } => "unknown_key",
            ErrorKind::UnknownPeer => "unknown_peer",
            ErrorKind::Untrusted(_) => "untrusted",
        }
    }

    fn answer(&self) -> Option<&StatusAnswer> {
        match self.kind() {
            ErrorKind::AskedToWait(asked) => asked.answer.as_ref(),
            ErrorKind::ClockSkew(ClockSkew {
                what: Skewed::Request(answer),
                ..
            })
            | ErrorKind::Status(answer) => Some(answer),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.peer, self.0.kind)
    }
}

impl ErrorKind {
    /// Whether an answer may be signed with another key than the known one.
    pub(super) fn may_be_another_key(&self) -> bool {
        matches!(
            self,
            Self::Signature(SignatureError::BadSignature | SignatureError::KeyId { .. })
                | Self::Unauthenticated(ResponseAuthError::BadSignature)
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskedToWait(asked) => asked.fmt(f),
            Self::Broken(_) => f.write_str("the connection broke before the answer was complete; try again"),
            Self::CircuitOpen(_) => {
                f.write_str("not called, because it did not answer the last calls; wait for the next \
                     attempt, or for a call from it")
            }
            Self::ClockSkew(skew) => skew.fmt(f),
            Self::Decode(_) => f.write_str(
                "the answer cannot be decoded; check that both sides run compatible versions",
            ),
            Self::Dial(_) => {
                f.write_str("no connection; check that the peer is online and listens on this address")
            }
            Self::DialTimeout(limit) => write!(
                f,
                "no connection within {limit:?}; check that the peer is online and on the same mesh"
            ),
            Self::Downgrade => f.write_str(
                "the peer signed with v2 before, and this answer is not; if the peer went back to an \
                 older version on purpose, run `nara-mesh peers trust NAME --replace`",
            ),
            Self::DuplicateMessage => {
                f.write_str("another message with the same id waits for its reply; wait for that reply")
            }
            Self::Hello(_) => f.write_str(
                "the hello of the stream does not prove who serves it; check the address and the pinned key",
            ),
            Self::Identity(RegisterError::KeyRefused(_)) => {
                f.write_str("its key is not trusted; ask its operator whether the key is right before you trust it")
            }
            Self::Identity(_) => f.write_str(
                "its key contradicts the pinned key; ask its operator which key is right before you trust it",
            ),
            Self::InnerSignature => f.write_str(
                "the signature inside the answer does not verify; do not use the answer, and tell the \
                 peer's operator",
            ),
            Self::Discovery(_) => f.write_str("the peer gave no valid name and key; check the address"),
            Self::InvalidRequest(_) => {
                f.write_str("the request cannot be sent; check the path and the query of the endpoint")
            }
            Self::NobodyKnows { asked } => {
                write!(
                    f,
                    "none of {asked} peers knows this nara; ask again when more peers are online"
                )
            }
            Self::Page(_) => f.write_str("the peer violates the paging protocol; fetch from another peer"),
            Self::Reconcile(_) => f.write_str(
                "the peer violates the reconciliation protocol; fetch its events by page, or from another peer",
            ),
            Self::NoReply(limit) => {
                write!(
                    f,
                    "no reply to the message within {limit:?}; the peer may not know our id yet, try again later"
                )
            }
            Self::Status(answer) => answer.fmt(f),
            Self::Timeout(stage) => stage.fmt(f),
            Self::Tls(TlsFailure::OtherKey(_)) => f.write_str(
                "the peer at this address holds another key than the pinned one; ask its operator which \
                 key is right before you trust it",
            ),
            Self::Tls(TlsFailure::Handshake(_)) => f.write_str(
                "the TLS handshake failed; check that the peer accepts TLS on this port, or allow plain \
                 connections to it",
            ),
            Self::TlsGone(_) => f.write_str(
                "the peer spoke TLS before, and now the TLS handshake fails; it is not called without \
                 TLS, because an attacker on the path could cause this. Try again; if the peer went back \
                 to plain connections on purpose, forget it with `nara-mesh peers reset NAME`",
            ),
            Self::TooLarge(limit) => {
                write!(
                    f,
                    "the answer is larger than {limit} bytes; request fewer events at once"
                )
            }
            Self::TooManyPending(limit) => {
                write!(
                    f,
                    "{limit} messages already wait for replies; wait until some are answered"
                )
            }
            Self::Signature(_) | Self::Unauthenticated(_) => f.write_str(
                "the answer does not prove who sent it; check the address, the clocks and the pinned key",
            ),
            Self::UnknownKey {
                responder,
                discovery: None,
            } => write!(
                f,
                "{responder} answered, whose key is not pinned; pin the key, or use the trust policy first-use"
            ),
            Self::UnknownKey { responder, .. } => write!(
                f,
                "{responder} answered, and its key could not be fetched; pin the key, or try again"
            ),
            Self::UnknownPeer => f.write_str("the peer or its address is unknown; register it first"),
            Self::Untrusted(name) => write!(
                f,
                "the operator banned {name}; to lift the ban, run `{}`",
                retrust_command(name, false)
            ),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "no complete answer before the deadline; try again, or allow more time",
            Self::Dial => "no connection before the deadline; try again, or allow more time",
            Self::Queue => {
                "too many calls to this peer were in flight until the deadline; make fewer at once"
            }
            Self::Verify => "the answer could not be verified before the deadline; allow more time",
        })
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self.kind() {
            ErrorKind::Broken(error) => Some(error),
            ErrorKind::CircuitOpen(error) => Some(error),
            ErrorKind::ClockSkew(skew) => match &skew.what {
                Skewed::Answer(error) => Some(&**error),
                Skewed::Request(_) => None,
            },
            ErrorKind::Decode(error) => Some(error),
            ErrorKind::Dial(error) => Some(error),
            ErrorKind::Discovery(error) => Some(error),
            ErrorKind::Hello(error) => Some(error),
            ErrorKind::Identity(error) => Some(error),
            ErrorKind::InvalidRequest(error) => Some(error),
            ErrorKind::Page(error) => Some(error),
            ErrorKind::Reconcile(error) => Some(error),
            ErrorKind::Signature(error) => Some(error),
            ErrorKind::Tls(TlsFailure::OtherKey(error)) => Some(error),
            ErrorKind::Tls(TlsFailure::Handshake(error)) | ErrorKind::TlsGone(error) => Some(error),
            ErrorKind::Unauthenticated(error) => Some(error),
            ErrorKind::UnknownKey { discovery, .. } => discovery.as_ref().map(|error| error as _),
            ErrorKind::AskedToWait(_)
            | ErrorKind::DialTimeout(_)
            | ErrorKind::Downgrade
            | ErrorKind::DuplicateMessage
            | ErrorKind::InnerSignature
            | ErrorKind::NobodyKnows { .. }
            | ErrorKind::NoReply(_)
            | ErrorKind::Status(_)
            | ErrorKind::Timeout(_)
            | ErrorKind::TooLarge(_)
            | ErrorKind::TooManyPending(_)
            | ErrorKind::UnknownPeer
            | ErrorKind::Untrusted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
