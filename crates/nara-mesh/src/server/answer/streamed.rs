//! Answers whose body is sent while it is produced.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use crate::registry::KeyLease;

/// An answer whose body is sent while it is produced, instead of being buffered and signed as a whole.
///
/// On a secure connection every answer is sent like this, and the connection proves it. On plain HTTP the signature of
/// an answer covers its whole body, which is therefore buffered first, within
/// [`ServerLimits::route_answer_bytes`](crate::server::ServerLimits::route_answer_bytes). Inside this wrapper it is
/// signed at its head only, if the client accepts that: a man in the middle can change or truncate the body, and the
/// client's type says so. For a client that does not accept it, such as a v1 peer, the answer is buffered.
///
/// A streamed body counts as a stream of its peer. It fails when the server shuts down, or when the key of the peer is
/// replaced or removed.
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

/// An extension of an answer: it is a [`StreamedAnswer`].
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Streamed;

impl<T: IntoResponse> IntoResponse for StreamedAnswer<T> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        response.extensions_mut().insert(Streamed);
        response
    }
}

/// The reason why a body ends early.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::server) enum EndsEarly {
    #[error("the key of the peer was replaced or removed")]
    KeyChanged,
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// A body that fails when the server shuts down or the lease ends, so that its reader knows that it is incomplete. It
/// holds a resource until then.
pub(in crate::server) fn until_ended<G: Send + Unpin + 'static>(
    body: Body,
    stopping: CancellationToken,
    mut lease: Option<KeyLease>,
    held: G,
) -> Body {
    let ended = async move {
        tokio::select! {
            () = stopping.cancelled() => EndsEarly::ShuttingDown,
            () = ended(lease.as_mut()) => EndsEarly::KeyChanged,
        }
    };
    Body::new(UntilEnded {
        body,
        ended: Box::pin(ended),
        _held: held,
    })
}

/// Waits until a lease ends; without one, forever.
pub(in crate::server) async fn ended(lease: Option<&mut KeyLease>) {
    match lease {
        Some(lease) => lease.ended().await,
        None => std::future::pending().await,
    }
}

struct UntilEnded<G> {
    body: Body,
    ended: Pin<Box<dyn Future<Output = EndsEarly> + Send>>,
    _held: G,
}

impl<G: Unpin> HttpBody for UntilEnded<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            return frame;
        }
        match self.ended.as_mut().poll(cx) {
            Poll::Ready(why) => Poll::Ready(Some(Err(axum::Error::new(why)))),
            Poll::Pending => frame,
        }
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
        let mut body = until_ended(endless, stopping.clone(), None, ());
        assert!(body.frame().await.unwrap().is_ok());
        stopping.cancel();
        assert!(body.frame().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_silent_body_fails_when_the_server_shuts_down() {
        let stopping = CancellationToken::new();
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut body = until_ended(silent, stopping.clone(), None, ());
        let frame = body.frame();
        stopping.cancel();
        assert!(frame.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_body_that_has_ended_does_not_fail() {
        let stopping = CancellationToken::new();
        let mut body = until_ended(Body::empty(), stopping.clone(), None, ());
        stopping.cancel();
        assert!(body.frame().await.is_none());
    }
}
