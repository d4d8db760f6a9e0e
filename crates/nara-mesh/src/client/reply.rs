//! Answers before verification.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::clocks::Asked;
use super::error::Problem;
use super::pool::Lease;
use super::refusal::{AskedToWait, Asking, StatusAnswer};
use super::sign::SentSignatures;
use crate::tls::SecureChannel;

/// The unverified head of an answer with any status.
#[derive(Debug)]
pub(super) struct ReplyHead {
    /// The address it came from.
    pub(super) address: SocketAddr,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// The interval, by our clock, in which it was made: it ends before the body arrives, which may take long.
    pub(super) asked: Asked,
    /// How long the peer asks not to be called.
    pub(super) retry_after: Option<Duration>,
    /// The signatures of the request that it answers.
    pub(super) sent: SentSignatures,
    /// What the connection has proven about the responder.
    pub(super) channel: Option<SecureChannel>,
}

impl ReplyHead {
    /// Returns whether it claims to be proven. A server does not sign refusals sent before it has authenticated
    /// the request.
    pub(super) fn claims_proof(&self) -> bool {
        self.sent.are_answered_by(&self.headers)
    }
}

/// An answer with any status, neither verified nor decoded.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) head: Box<ReplyHead>,
    pub(super) body: Bytes,
    /// Whether `body` is the whole body.
    pub(super) complete: bool,
    /// When it was complete.
    pub(super) at: Instant,
    pub(super) rtt: Duration,
    pub(super) dial: Option<Duration>,
}

impl Reply {
    /// Converts an answer with a status other than 200 into a problem.
    pub(super) fn into_problem(self, verified: bool) -> Problem {
        let answer = StatusAnswer {
            status: self.head.status,
            text: String::from_utf8_lossy(&self.body).into_owned(),
            verified: verified && self.complete,
        };
        match self.head.retry_after {
            Some(retry_after) => Problem::AskedToWait(AskedToWait {
                retry_after,
                how: Asking::Answer(answer),
            }),
            None => Problem::Status(answer),
        }
    }
}

/// An answer whose body is still arriving. Dropping it closes its connection.
#[derive(Debug)]
pub(super) struct OpenReply {
    /// Boxed, because it is moved through all stages of the call.
    pub(super) head: Box<ReplyHead>,
    pub(super) body: Incoming,
    pub(super) lease: Lease,
    pub(super) address: SocketAddr,
    pub(super) reused: bool,
    pub(super) since: Instant,
    pub(super) dial: Option<Duration>,
}
