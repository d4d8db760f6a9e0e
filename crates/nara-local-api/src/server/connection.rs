//! Connections and their idle timeouts.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nara_mesh::clock::SystemClock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::GRACE;
use super::rights::Caller;
use super::socket::Access;
use super::state::Shared;

/// Time limit for the head of a request, and for an idle connection to send one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a caller may accept no byte of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Buffer size in bytes: of an answer that the caller has not read, and of a request head.
const BUFFER: usize = 16 << 10;

/// The pause after the operating system refused to accept a connection.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The answer if there are too many connections.
pub(super) const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
content-type: application/problem+json\r\ncontent-length: 189\r\n\r\n\
{\"type\":\"urn:nara-mesh:problem:too_many_connections\",\"title\":\"too many connections\",\"status\":503,\
\"detail\":\"too many programs are connected to this nara\",\"class\":\"failed\",\"hint\":\"try again\"}";

/// The acceptor of one socket.
pub(super) struct Acceptor {
    pub(super) shared: Arc<Shared>,
    pub(super) router: Router,
    pub(super) access: Access,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Acceptor {
    pub(super) async fn run(self, listener: UnixListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stopping.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.accept(stream),
                Err(error) => {
                    tracing::warn!(%error, "the local API cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accept(&self, stream: UnixStream) {
        let caller = match self.access.caller(&stream) {
            Ok(Some(caller)) => caller,
            Ok(None) => {
                let caller = stream.peer_cred().map(|caller| caller.uid()).ok();
                tracing::warn!(?caller, "another user tried to use the local API: refused");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot identify the caller of the local API: refused");
                return;
            }
        };
        let Some(place) = self.shared.connections.take() else {
            tracing::debug!("too many connections to the local API: refused");
            // Best effort: it fits into the empty buffer of a new socket.
            let _ = stream.try_write(FULL);
            return;
        };
        let (router, stopping) = (self.router.clone(), self.stopping.clone());
        self.tasks.spawn(async move {
            serve(stream, Some(caller), router, stopping).await;
            drop(place);
        });
    }
}

/// Serves one connection until it ends, or until the grace period after shutdown. `caller`: the identity
/// proven by the connection itself.
pub(super) async fn serve<S>(stream: S, caller: Option<Caller>, router: Router, stopping: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(caller) = caller.clone() {
            request.extensions_mut().insert(caller);
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = while_dated(connection.as_mut()) => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let ending = tokio::time::timeout(GRACE, while_dated(connection)).await;
            ending.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the local API broke");
    }
}

/// Serves a connection for as long as [HTTP can represent the time](SystemClock::can_be_dated).
async fn while_dated<C, E>(mut connection: Pin<&mut C>) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    poll_fn(|cx| {
        if SystemClock::can_be_dated() {
            connection.as_mut().poll(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_connection_is_a_whole_answer() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        let problem: crate::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, 503);
    }
}
