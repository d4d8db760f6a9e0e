//! Errors of calls.

mod kind;
#[cfg(test)]
mod tests;

pub use kind::ClientErrorKind;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use http::StatusCode;
use nara_proto::breaker::CircuitOpen;
use nara_proto::go_json::JsonError;
use nara_proto::identity::{NaraName, OpenError};
use nara_proto::reconcile::ReconcileError;
use nara_proto::stream::HelloError;
use nara_proto::sync::PageError;
use nara_proto::v1::ResponseAuthError;
use nara_proto::v2::SignatureError;

use super::refusal::{AskedToWait, ClockSkew, Skewed, StatusAnswer};
use super::request_problem::RequestProblem;
use super::resolve::InvalidPeerRef;
use crate::registry::{KeyRefused, RegisterError};
use crate::tls::{KeyMismatch, TlsFailure};

/// A call without a verified answer.
///
/// `Display` names the peer and the problem; the cause, if any, is the [`source`](Error::source) and not
/// repeated. [`ClientError::kind`] is for programs, [`ClientError::hint`] tells what to do.
#[derive(Debug)]
pub struct ClientError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    peer: String,
    problem: Problem,
}

/// The problem, with its cause.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    AskedToWait(AskedToWait),
    #[error("the connection broke before the answer was complete")]
    Broken(#[source] hyper::Error),
    #[error("not called, because it did not answer the last calls")]
    CircuitOpen(#[source] CircuitOpen),
    #[error(transparent)]
    ClockSkew(ClockSkew),
    #[error("the answer cannot be decoded")]
    Decode(#[source] JsonError),
    #[error("no connection")]
    Dial(#[source] io::Error),
    #[error("no connection within {0:?}")]
    DialTimeout(Duration),
    #[error("the peer gave no valid name and key")]
    Discovery(#[source] DiscoveryProblem),
    #[error("the peer has signed with v2 before, but not this answer")]
    Downgrade,
    #[error("another message with the same id waits for its reply")]
    DuplicateMessage,
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the connection was closed before the TLS handshake was complete")]
    HandshakeCut(#[source] io::Error),
    #[error("the hello of the stream does not authenticate its server")]
    Hello(#[source] HelloError),
    #[error("its key contradicts the pinned key")]
    Identity(#[source] RegisterError),
    #[error("the signature inside the answer does not verify")]
    InnerSignature,
    #[error(transparent)]
    InvalidPeer(InvalidPeerRef),
    #[error("the request cannot be sent")]
    InvalidRequest(#[from] RequestProblem),
    /// Asking the responder for its key failed.
    #[error("{responder} answered, but its key could not be fetched")]
    KeyNotLearned {
        responder: NaraName,
        #[source]
        discovery: ClientError,
    },
    /// Unknown keys are not learned: the trust policy accepts pinned keys only.
    #[error("{responder} answered, but its key is not pinned")]
    KeyNotPinned { responder: NaraName },
    #[error("its key was replaced or removed meanwhile")]
    KeyReplaced,
    #[error("its key is not trusted")]
    KeyRefused(#[source] KeyRefused),
    #[error("none of {asked} peers knows this nara")]
    NobodyKnows { asked: usize },
    #[error("no reply to the message within {0:?}")]
    NoReply(Duration),
    #[error("the peer at this address does not speak HTTP")]
    NotHttp(#[source] hyper::Error),
    #[error("the connection is not secure enough for a streamed body")]
    NotStreamable,
    #[error("the peer at this address holds a key other than the pinned one")]
    OtherKey(#[source] KeyMismatch),
    #[error("the message was answered by a {0}, which was not requested")]
    OtherReply(&'static str),
    #[error("the peer violates the paging protocol")]
    Page(#[source] PageError),
    #[error("the peer violates the reconciliation protocol")]
    Reconcile(#[source] ReconcileError),
    #[error("the answer does not prove who sent it")]
    Signature(#[source] SignatureError),
    /// Like `Broken`, on a pooled connection: it may have broken long before.
    #[error("the connection broke before the answer was complete")]
    Stale(#[source] hyper::Error),
    #[error("the returned stash is not ours, or was modified")]
    Stash(#[source] OpenError),
    #[error("it refused to keep the stash: {0:?}")]
    StashRefused(String),
    #[error(transparent)]
    Status(StatusAnswer),
    #[error("{0}")]
    Timeout(Stage),
    #[error(
        "the TLS handshake fails, although the peer spoke TLS before; there is no fallback to a plain connection, because \
         an attacker on the path could force it"
    )]
    TlsGone(#[source] io::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("{0} messages already wait for replies")]
    TooManyPending(usize),
    #[error("the answer does not prove who sent it")]
    Unauthenticated(#[source] ResponseAuthError),
    #[error("this nara itself, not a peer of it")]
    OwnNara,
    #[error("the peer or its address is unknown")]
    UnknownPeer,
    #[error("the operator banned {0}")]
    Untrusted(NaraName),
}

/// The reason why a `/ping` answer does not give the key of a nara.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiscoveryProblem {
    #[error("its /ping answer has no valid public key")]
    NoKey,
    #[error("its /ping answer has no valid name")]
    NoName,
    #[error("its /ping answer names {got} instead of {expected}")]
    OtherNara { expected: NaraName, got: NaraName },
}

/// The stage of a call at which its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stage {
    #[error("no complete answer before the deadline")]
    Answer,
    #[error("the body of the request was not complete before the deadline")]
    Body,
    #[error("no connection before the deadline")]
    Dial,
    #[error("too many calls to this peer were in flight until the deadline")]
    Queue,
    #[error("the answer arrived too slowly")]
    Slow,
    #[error("the answer could not be verified before the deadline")]
    Verify,
}

impl From<TlsFailure> for Problem {
    fn from(failure: TlsFailure) -> Self {
        match failure {
            TlsFailure::Busy => Self::AskedToWait(AskedToWait::before_tls()),
            TlsFailure::Cut(error) => Self::HandshakeCut(error),
            TlsFailure::Handshake(error) => Self::Handshake(error),
            TlsFailure::OtherKey(mismatch) => Self::OtherKey(mismatch),
        }
    }
}

impl From<hyper::Error> for Problem {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::NotHttp(error)
        } else {
            Self::Broken(error)
        }
    }
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::KeyRefused(refused) => Self::KeyRefused(refused),
            error => Self::Identity(error),
        }
    }
}

impl Problem {
    /// Returns whether no connection was established.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Dial(_) | Self::DialTimeout(_) | Self::Timeout(Stage::Dial)
        )
    }

    /// Returns whether the answer may be signed with a key other than the known one.
    pub(super) fn may_be_another_key(&self) -> bool {
        matches!(
            self,
            Self::Signature(SignatureError::BadSignature | SignatureError::KeyId { .. })
                | Self::Unauthenticated(ResponseAuthError::BadSignature)
        )
    }

    /// Returns the kind and the hint.
    fn describe(&self) -> (ClientErrorKind, Cow<'static, str>) {
        use ClientErrorKind as Kind;
        let (kind, hint) = match self {
            Self::AskedToWait(asked) => return (Kind::AskedToWait, asked.hint().into()),
            Self::Broken(_) | Self::Stale(_) => (Kind::Broken, "try again"),
            Self::CircuitOpen(_) => (
                Kind::CircuitOpen,
                "wait for the next attempt, or for a call from it",
            ),
            Self::ClockSkew(skew) => (Kind::ClockSkew, skew.hint()),
            Self::Decode(_) => (Kind::Decode, "check that both sides run compatible versions"),
            Self::Dial(_) => (
                Kind::Dial,
                "check that the peer is online and listens on this address",
            ),
            Self::DialTimeout(_) => (
                Kind::DialTimeout,
                "check that the peer is online and on the same mesh",
            ),
            Self::Discovery(_) => (Kind::Discovery, "check the address"),
            Self::Downgrade => (
                Kind::Downgrade,
                "if the peer went back to an older version on purpose, trust its key again",
            ),
            Self::DuplicateMessage => (Kind::DuplicateMessage, "wait for that reply"),
            Self::Handshake(_) => (
                Kind::Tls,
                "check that the peer accepts TLS on this port, or allow plain connections to it",
            ),
            Self::HandshakeCut(_) => (
                Kind::Tls,
                "try again; if it persists, ask the operator of the peer whether it is overloaded, or which middlebox \
                 closes the connection",
            ),
            Self::Hello(_) => (Kind::Hello, "check the address and the pinned key"),
            Self::Identity(_) => (
                Kind::Identity,
                "ask its operator which key is right before you trust it",
            ),
            Self::InnerSignature => (
                Kind::InnerSignature,
                "do not use the answer, and tell the peer's operator",
            ),
            Self::InvalidPeer(_) => (Kind::InvalidPeer, "name it by its id, its name or its address"),
            Self::InvalidRequest(RequestProblem::NeverSigned(_)) => (
                Kind::InvalidRequest,
                "use the dedicated method of this endpoint, which reports what is verified",
            ),
            Self::InvalidRequest(_) => (Kind::InvalidRequest, "check its path, its headers and its body"),
            Self::KeyNotLearned { .. } => (Kind::UnknownKey, "pin the key, or try again"),
            Self::KeyNotPinned { .. } => (Kind::UnknownKey, "pin the key, or use the trust policy first-use"),
            Self::KeyRefused(_) => (
                Kind::KeyRefused,
                "ask its operator whether the key is right before you trust it",
            ),
            Self::KeyReplaced => (Kind::KeyReplaced, "ask again, if the new key is trusted"),
            Self::NobodyKnows { .. } => (Kind::NobodyKnows, "ask again when more peers are online"),
            Self::NoReply(_) => (Kind::NoReply, "the peer may not know our id yet, try again later"),
            Self::NotHttp(_) => (Kind::NotHttp, "check the address and the port"),
            Self::NotStreamable => (Kind::Tls, "try again, or send a body that fits into memory"),
            Self::OtherKey(_) => (
                Kind::OtherKey,
                "ask its operator which key is right before you trust it",
            ),
            Self::OtherReply(_) => (Kind::OtherReply, "check that both sides run compatible versions"),
            Self::Page(_) => (Kind::Page, "fetch from another peer"),
            Self::Reconcile(_) => (Kind::Reconcile, "fetch its events by page, or from another peer"),
            Self::Signature(_) => (
                Kind::Signature,
                "check the address, the clocks and the pinned key",
            ),
            Self::Stash(_) => (Kind::Stash, "fetch it from another peer"),
            Self::StashRefused(_) => (Kind::StashRefused, "store it with another peer, or store less"),
            Self::Status(answer) => (Kind::Status, answer.hint()),
            Self::Timeout(Stage::Answer | Stage::Body | Stage::Dial) => {
                (Kind::Timeout, "try again, or allow more time")
            }
            Self::Timeout(Stage::Queue) => (Kind::Timeout, "make fewer calls at once"),
            Self::Timeout(Stage::Slow) => (Kind::Timeout, "allow more time, or ask for less at once"),
            Self::Timeout(Stage::Verify) => (Kind::Timeout, "allow more time"),
            Self::TlsGone(_) => (
                Kind::TlsGone,
                "try again; if the peer went back to plain connections on purpose, forget it",
            ),
            Self::TooLarge(_) => (Kind::TooLarge, "ask for less at once"),
            Self::TooManyPending(_) => (Kind::TooManyPending, "wait until some are answered"),
            Self::Unauthenticated(_) => (
                Kind::Unauthenticated,
                "check the address, the clocks and the pinned key",
            ),
            Self::OwnNara => (Kind::OwnNara, "name another nara"),
            Self::UnknownPeer => (
                Kind::UnknownPeer,
                "register it with its address, or name it by its address",
            ),
            Self::Untrusted(_) => (Kind::Untrusted, "lift the ban to call it again"),
        };
        (kind, hint.into())
    }
}

impl ClientError {
    pub(super) fn new(peer: impl fmt::Display, problem: impl Into<Problem>) -> Self {
        Self(Box::new(Inner {
            peer: peer.to_string(),
            problem: problem.into(),
        }))
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// Returns the kind of the problem, for programs.
    pub fn kind(&self) -> ClientErrorKind {
        self.problem().describe().0
    }

    /// Returns what to do, as the end of a sentence without a full stop.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        Some(self.problem().describe().1)
    }

    /// Returns the label of the peer.
    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// Returns the nara that is not trusted or whose key is unknown, if that is the problem.
    pub fn nara(&self) -> Option<&NaraName> {
        match self.problem() {
            Problem::KeyNotLearned { responder, .. } | Problem::KeyNotPinned { responder } => Some(responder),
            Problem::Untrusted(name) => Some(name),
            _ => None,
        }
    }

    /// Returns whether a deadline passed: of the call, of dialling, or of waiting for a reply.
    pub fn is_timeout(&self) -> bool {
        use ClientErrorKind::{DialTimeout, NoReply, Timeout};
        matches!(self.kind(), DialTimeout | NoReply | Timeout)
    }

    /// Returns whether a smaller answer might have arrived in time: its head came, and the rest did not.
    pub(crate) fn is_too_slow(&self) -> bool {
        matches!(self.problem(), Problem::Timeout(Stage::Slow))
    }

    /// Returns whether no connection was established, now or at the last attempt: see also
    /// [`ClientError::is_circuit_open`].
    pub fn is_unreachable(&self) -> bool {
        self.problem().is_unreachable() || self.is_circuit_open()
    }

    /// Returns whether the peer was not called because its circuit breaker is open.
    pub fn is_circuit_open(&self) -> bool {
        self.kind() == ClientErrorKind::CircuitOpen
    }

    /// Returns whether the registry lacks the peer or its address, the text names no peer or this nara itself, or no
    /// peer knows the nara that was searched for. Nothing was sent to it.
    pub fn is_unknown_peer(&self) -> bool {
        use ClientErrorKind::{InvalidPeer, NobodyKnows, OwnNara, UnknownPeer};
        matches!(self.kind(), InvalidPeer | NobodyKnows | OwnNara | UnknownPeer)
    }

    /// Returns whether we could not authenticate the peer, or the peer could not authenticate us (status 401).
    pub fn is_unauthenticated(&self) -> bool {
        use ClientErrorKind as Kind;
        matches!(
            self.kind(),
            Kind::ClockSkew
                | Kind::Discovery
                | Kind::Downgrade
                | Kind::Hello
                | Kind::Identity
                | Kind::InnerSignature
                | Kind::KeyRefused
                | Kind::KeyReplaced
                | Kind::OtherKey
                | Kind::Signature
                | Kind::Unauthenticated
                | Kind::UnknownKey
                | Kind::Untrusted
        ) || self.status() == Some(StatusCode::UNAUTHORIZED)
    }

    /// Returns whether the peer refused because of a rate limit or overload (status 429, or 503 with
    /// `Retry-After`), or was not called because it recently did. See [`ClientError::retry_after`].
    pub fn is_rate_limited(&self) -> bool {
        self.kind() == ClientErrorKind::AskedToWait
    }

    /// Returns how long the peer asked us to wait, from the moment of the error on; at most 5 minutes. Until then
    /// it is not called.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.problem() {
            Problem::AskedToWait(asked) => Some(asked.retry_after),
            _ => None,
        }
    }

    /// Returns whether the operator of this nara banned the peer.
    pub fn is_untrusted(&self) -> bool {
        self.kind() == ClientErrorKind::Untrusted
    }

    /// Returns whether the answer proves less than the peer has proven before: an attacker may be stripping the
    /// better signature.
    pub fn is_downgrade(&self) -> bool {
        self.kind() == ClientErrorKind::Downgrade
    }

    /// Returns whether the two clocks are too far apart: the peer refused the request, or its answer is not
    /// fresh. The message gives both times, the hint which clock seems wrong.
    pub fn is_clock_skew(&self) -> bool {
        self.kind() == ClientErrorKind::ClockSkew
    }

    /// Returns whether the peer accepted a world message but could not forward it (docs/protocol/v1.md, section
    /// 7.6). The status is 400 then, as for a refusal.
    pub fn is_stuck_journey(&self) -> bool {
        self.status() == Some(StatusCode::BAD_REQUEST)
            && self.text().is_some_and(|text| {
                text.starts_with("journey stuck") || text.starts_with("failed to forward")
            })
    }

    /// Returns the status of the answer, if not 200.
    pub fn status(&self) -> Option<StatusCode> {
        self.answer().map(|answer| answer.status)
    }

    /// Returns the body of an answer with a status other than 200; truncated to 4 KiB.
    pub fn text(&self) -> Option<&str> {
        self.answer().map(|answer| answer.text.as_str())
    }

    /// Returns whether the peer signed an answer with a status other than 200. Status 401 is never signed.
    pub fn is_status_verified(&self) -> bool {
        self.answer().is_some_and(|answer| answer.verified)
    }

    fn answer(&self) -> Option<&StatusAnswer> {
        match self.problem() {
            Problem::AskedToWait(asked) => asked.answer(),
            Problem::ClockSkew(ClockSkew {
                what: Skewed::Request(answer),
                ..
            })
            | Problem::Status(answer) => Some(answer),
            _ => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.peer, self.0.problem)
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.problem().source()
    }
}
