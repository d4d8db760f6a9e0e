//! Answers whose body is sent as it is made.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// An answer whose body is sent as it is made, instead of being collected and signed as a whole.
///
/// On a secure connection every answer is sent so, and the connection proves it. On plain HTTP the signature of an
/// answer covers its whole body, which is therefore collected first, within
/// [`ServerLimits::route_answer_bytes`](crate::server::ServerLimits::route_answer_bytes); inside this wrapper it is
/// signed at its head only, if the client accepts that: an attacker on the path can change or cut the body, and the
/// client's type says so. To a client that does not accept it, such as a v1 peer, the answer is collected.
///
/// A body that is sent as it is made counts as a stream of its peer, and ends when the server shuts down.
///
/// ```
/// use axum::Router;
/// use axum::body::Body;
/// use axum::routing::get;
/// use nara_mesh::server::StreamedAnswer;
///
/// async fn ticks() -> StreamedAnswer<Body> {
///     let ticks = futures_util::stream::iter(["one\n", "two\n"].map(Ok::<_, std::io::Error>));
///     StreamedAnswer(Body::from_stream(ticks))
/// }
///
/// let routes: Router = Router::new().route("/ticks", get(ticks));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StreamedAnswer<T>(pub T);

/// In the extensions of an answer: it is a [`StreamedAnswer`].
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Streamed;

impl<T: IntoResponse> IntoResponse for StreamedAnswer<T> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        response.extensions_mut().insert(Streamed);
        response
    }
}

/// Why a body ends early.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub(in crate::server) struct ShuttingDown;

/// A body that fails when the server shuts down, so that its reader notices that it is incomplete. It holds a
/// resource until then.
pub(in crate::server) fn until_stopped<G: Send + Unpin + 'static>(
    body: Body,
    stopping: CancellationToken,
    held: G,
) -> Body {
    Body::new(UntilStopped {
        body,
        stopped: Box::pin(stopping.cancelled_owned()),
        _held: held,
    })
}

struct UntilStopped<G> {
    body: Body,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    _held: G,
}

impl<G: Unpin> HttpBody for UntilStopped<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // What is there already is worth sending.
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if !self.stopped.as_mut().poll(cx).is_ready() || frame.is_none() {
                return Poll::Ready(frame);
            }
            return Poll::Ready(Some(Err(axum::Error::new(ShuttingDown))));
        }
        ready!(self.stopped.as_mut().poll(cx));
        Poll::Ready(Some(Err(axum::Error::new(ShuttingDown))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn an_endless_body_fails_when_the_server_shuts_down() {
        let stopping = CancellationToken::new();
        let endless = Body::from_stream(stream::repeat(Ok::<_, std::convert::Infallible>("x")));
        let mut body = until_stopped(endless, stopping.clone(), ());
        assert!(body.frame().await.unwrap().is_ok());
        stopping.cancel();
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_silent_body_fails_when_the_server_shuts_down() {
        let stopping = CancellationToken::new();
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut body = until_stopped(silent, stopping.clone(), ());
        let frame = body.frame();
        stopping.cancel();
        assert!(frame.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_body_that_has_ended_does_not_fail() {
        let stopping = CancellationToken::new();
        let mut body = until_stopped(Body::empty(), stopping.clone(), ());
        stopping.cancel();
        assert!(body.frame().await.is_none());
    }
}
