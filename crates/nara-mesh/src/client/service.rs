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

/// A peer as a [`tower::Service`]: each request is signed and sent to it, each answer is verified.
///
/// Any stack of tower works on top. The URI of a request begins with the path, and header fields of the connection or of
/// the protocol are refused, as by [`PeerHandle::request`]. What is proven about an answer is in its extensions, as
/// [`Verification`](super::Verification).
///
/// # Bodies
///
/// The body of an answer is given out as it arrives. Over a secure connection to the holder of the pinned key every
/// byte is proven. On a plain connection its end may show that it was changed, or only its head is proven: see
/// [`AnswerBody::proof`]. The answer of a v1 peer is held in memory and verified first.
///
/// The body of a request is sent as it is made to a peer that says that it takes streams, over a secure connection that
/// is trusted. Otherwise it is held in memory and signed as a whole, up to a [limit](PeerHandle::with_body_limits).
///
/// The time limit of calls covers the way to the head of the answer, and begins anew with each piece of a request that
/// is sent while it is made.
#[derive(Clone, Debug)]
pub struct PeerService(PeerHandle);

impl PeerHandle {
    /// The peer as a [`tower::Service`].
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
