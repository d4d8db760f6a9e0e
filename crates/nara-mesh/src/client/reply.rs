//! Answers as they come, before anything of them is verified.

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

/// The head of an answer with any status, not verified.
#[derive(Debug)]
pub(super) struct ReplyHead {
    /// Where it came from.
    pub(super) address: SocketAddr,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Between which readings of our clock it was made, once it was read.
    pub(super) asked: Asked,
    /// How long the peer asks not to be called.
    pub(super) retry_after: Option<Duration>,
    /// The signatures of the request that it answers.
    pub(super) sent: SentSignatures,
    /// What the connection has proven about the responder.
    pub(super) channel: Option<SecureChannel>,
}

impl ReplyHead {
    /// Whether it claims to be proven. What a server refuses before it knows who asks is not signed.
    pub(super) fn claims_proof(&self) -> bool {
        self.sent.are_answered_by(&self.headers)
    }
}

/// An answer with any status, not verified and not decoded.
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
    /// This answer as a problem, because its status is not 200.
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

/// An answer whose body is still to come. Dropping it closes its connection.
#[derive(Debug)]
pub(super) struct OpenReply {
    /// On the heap, because it goes up through all positions of the call.
    pub(super) head: Box<ReplyHead>,
    pub(super) body: Incoming,
    pub(super) lease: Lease,
    pub(super) address: SocketAddr,
    pub(super) reused: bool,
    pub(super) since: Instant,
    pub(super) dial: Option<Duration>,
}
