use std::error::Error;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Body;
use tower::Service;

use super::answer_body::AnswerBody;
use super::error::ClientError;
use super::handle::PeerHandle;
use super::open_request::OpenRequest;

/// A peer as a [`tower::Service`]: signs and sends each request, verifies each answer.
///
/// Any tower stack works on top. The URI of a request begins with the path, and header fields of the connection
/// or the protocol are refused, as by [`PeerHandle::request`]. The verification of an answer is in its
/// extensions, as [`Verification`](super::Verification).
///
/// # Bodies
///
/// The body of an answer is streamed. Over a secure connection to the holder of the pinned key every byte is
/// authenticated. On a plain connection, tampering may show only at the end, or only the head is authenticated:
/// see [`AnswerBody::proof`]. The answer of a v1 peer is buffered and verified first.
///
/// The body of a request is streamed if the peer says that it accepts streams and the connection is secure and
/// trusted. Otherwise it is buffered and signed as a whole, up to a [limit](PeerHandle::with_body_limits).
///
/// The time limit of calls applies up to the head of the answer, and restarts with each chunk of a streamed
/// request.
#[derive(Clone, Debug)]
pub struct PeerService(PeerHandle);

impl PeerHandle {
    /// Returns the peer as a [`tower::Service`].
    pub fn service(&self) -> PeerService {
        PeerService(self.clone())
    }
}

impl<B> Service<Request<B>> for PeerService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<AnswerBody>;
    type Error = ClientError;
    type Future = BoxFuture<'static, Result<Response<AnswerBody>, ClientError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let PeerHandle {
            exchange,
            peer,
            call_timeout,
            body_limits,
        } = self.0.clone();
        match OpenRequest::new(request) {
            Ok(request) => exchange.serve(peer, request, body_limits, call_timeout).boxed(),
            Err(problem) => std::future::ready(Err(self.0.fail(problem))).boxed(),
        }
    }
}
