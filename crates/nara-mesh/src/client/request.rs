//! Unsigned requests.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use nara_proto::endpoint::{Authentication, Endpoint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::Problem;
use super::request_problem::RequestProblem;
use crate::registry::KeyEnd;

/// A body that is produced while it is sent.
pub(super) type StreamedBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// An unsigned request to any endpoint.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) body: Option<Bytes>,
    pub(super) authentication: Authentication,
    /// The content type of the body, unless `headers` has it.
    pub(super) content_type: Option<&'static str>,
    pub(super) idempotent: bool,
    pub(super) max_answer: usize,
    /// Lets the body of the answer arrive for [`SLOW_ANSWER`](crate::defaults::SLOW_ANSWER) beyond the deadline, with
    /// pauses of at most this duration.
    pub(super) patience: Option<Duration>,
    /// Headers in addition to the protocol's.
    pub(super) headers: HeaderMap,
    /// Whether every proven answer is returned, whatever its status. The caller then handles a pause that such an
    /// answer asks for.
    pub(super) any_status: bool,
    /// Whether the body of the answer may be a stream whose head alone is signed.
    pub(super) accepts_stream: bool,
    /// Whether it must be signed even where the handshake would suffice.
    pub(super) needs_signature: bool,
}

impl Outgoing {
    pub(super) fn new<E: Endpoint>(request: &E::Request) -> Result<Self, Problem> {
        let target = match E::query(request) {
            Some(query) => PathAndQuery::try_from(format!("{}?{query}", E::PATH)),
            None => Ok(PathAndQuery::from_static(E::PATH)),
        };
        Ok(Self {
            method: E::METHOD,
            target: target.map_err(|error| RequestProblem::Form(error.into()))?,
            body: E::encode(request).map(Bytes::from),
            authentication: E::AUTHENTICATION,
            content_type: Some(E::CONTENT_TYPE),
            idempotent: E::IDEMPOTENT,
            max_answer: E::MAX_RESPONSE,
            patience: None,
            headers: HeaderMap::new(),
            any_status: false,
            accepts_stream: false,
            needs_signature: false,
        })
    }
}

/// The body of a request in transit.
#[derive(Debug)]
pub(super) enum RequestBody {
    Whole(Full<Bytes>),
    Streamed {
        body: StreamedBody,
        /// When the last chunk was taken.
        progress: watch::Sender<Instant>,
        /// The key of the recipient: sending stops when it is replaced.
        key_end: KeyEnd,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Streamed {
                body,
                progress,
                key_end,
            } => {
                // Checked first, so that it also applies while the body is idle.
                if key_end.has_come(cx) {
                    return Poll::Ready(Some(Err(Problem::KeyReplaced.into())));
                }
                let frame = ready!(Pin::new(body).poll_frame(cx));
                progress.send_replace(Instant::now());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed { body, .. } => body.size_hint(),
        }
    }
}
