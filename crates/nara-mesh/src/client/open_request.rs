//! Requests to custom services, validated before they are sent.

use std::error::Error;

use bytes::Buf as _;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use nara_proto::endpoint::{Authentication, never_signed};
use nara_proto::forwarding::{is_channel_header, is_connection_header, is_identity_header};

use super::request::{Outgoing, StreamedBody};
use super::request_problem::RequestProblem;
use crate::{defaults, trace};

/// Returns whether a header belongs to HTTP framing, to one connection, or to the signatures. Headers that merely
/// resemble these pass: the server of the peer handles them.
fn is_reserved(name: &HeaderName) -> bool {
    name == HOST
        || is_connection_header(name)
        || name.as_str().starts_with("x-nara-")
        || (is_channel_header(name) && !is_identity_header(name))
}

/// Removes the header fields that belong to the channel from an answer.
pub(super) fn strip_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<_> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Maximum sizes of buffered bodies, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    pub(super) request: usize,
    pub(super) answer: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            request: defaults::REQUEST_BODY,
            answer: defaults::ANSWER_BODY,
        }
    }
}

/// A request whose body is not yet read.
pub(super) struct OpenRequest<B> {
    head: Parts,
    target: PathAndQuery,
    body: B,
}

impl<B> OpenRequest<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(super) fn new(request: Request<B>) -> Result<Self, RequestProblem> {
        let (mut head, body) = request.into_parts();
        if head.method == Method::CONNECT {
            return Err(RequestProblem::Connect);
        }
        if head.uri.authority().is_some() {
            return Err(RequestProblem::Host);
        }
        if let Some(name) = head.headers.keys().find(|name| is_reserved(name)) {
            return Err(RequestProblem::Header(name.clone()));
        }
        trace::take_in(&mut head.headers);
        let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
        if let Some(length) = lengths.next() {
            let exact = body.size_hint().exact().map(|length| length.to_string());
            if lengths.next().is_some() || exact.is_none_or(|exact| exact.as_bytes() != length.as_bytes()) {
                return Err(RequestProblem::Length);
            }
            head.headers.remove(CONTENT_LENGTH);
        }
        let target = match head.uri.path_and_query() {
            Some(target) if target.as_str().starts_with('/') => target.clone(),
            _ => return Err(RequestProblem::Path),
        };
        Ok(Self { head, target, body })
    }

    /// Refuses a request whose answer could never be verified.
    pub(super) fn check_provable(&self) -> Result<(), RequestProblem> {
        match never_signed(&self.head.method, self.target.path()) {
            Some(endpoint) => Err(RequestProblem::NeverSigned(endpoint)),
            None => Ok(()),
        }
    }

    /// Returns the size of the body in bytes, if known.
    pub(super) fn body_length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Returns the request with its whole body, of at most `limit` bytes.
    pub(super) async fn buffered(self, limit: usize, max_answer: usize) -> Result<Outgoing, RequestProblem> {
        if self.body.size_hint().lower() > limit as u64 {
            return Err(RequestProblem::BodyTooLarge(limit));
        }
        let read = Limited::new(self.body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                RequestProblem::BodyTooLarge(limit)
            } else {
                RequestProblem::Body(error)
            }
        });
        let body = read?.to_bytes();
        let mut outgoing = outgoing(self.head, self.target, max_answer);
        outgoing.body = Some(body).filter(|body| !body.is_empty());
        Ok(outgoing)
    }

    /// Returns the request without its body, and the body.
    pub(super) fn streamed(self, max_answer: usize) -> (Outgoing, StreamedBody) {
        let to_bytes = |mut data: B::Data| data.copy_to_bytes(data.remaining());
        let body = self
            .body
            .map_frame(move |frame| frame.map_data(to_bytes))
            .map_err(Into::into)
            .boxed_unsync();
        (outgoing(self.head, self.target, max_answer), body)
    }
}

fn outgoing(head: Parts, target: PathAndQuery, max_answer: usize) -> Outgoing {
    Outgoing {
        idempotent: head.method.is_idempotent(),
        method: head.method,
        target,
        body: None,
        authentication: Authentication::Signed,
        content_type: None,
        max_answer,
        patience: None,
        headers: head.headers,
        any_status: true,
        accepts_stream: false,
        needs_signature: false,
    }
}
