//! Refusals of connections beyond a limit, in the protocol of the connection.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::timeout;

use crate::clock::SystemClock;
use crate::server::answer::rejection::Rejection;
use crate::tls::FIRST_BYTE;
use crate::transport::BoxMeshStream;

/// The time limit for a whole refusal.
const LIMIT: Duration = Duration::from_secs(2);

/// The maximum number of bytes that are read after a refusal.
const MAX_DRAINED: u64 = 64 << 10;

/// A fatal TLS alert (RFC 8446, section 6) that a server may send before its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alert {
    /// `protocol_version`: this server does not support TLS.
    NoTls = 70,
    /// `user_canceled`: the handshake ends for a reason unrelated to the protocol.
    Busy = 90,
}

/// Refuses a connection that exceeds a limit: 503 over plain HTTP, an alert over TLS. Errors of the connection are
/// ignored.
pub(super) async fn turn_away(stream: BoxMeshStream, limit: usize) {
    if SystemClock::can_be_dated() {
        let _ = timeout(LIMIT, refuse(stream, limit)).await;
    }
}

async fn refuse(stream: BoxMeshStream, limit: usize) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    if stream.fill_buf().await?.first() == Some(&FIRST_BYTE) {
        return send_alert(stream, Alert::Busy).await;
    }
    let answer = service_fn(move |_: http::Request<hyper::body::Incoming>| async move {
        Ok::<Response, Infallible>(too_many(limit))
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    serving.await.map_err(io::Error::other)
}

fn too_many(limit: usize) -> Response {
    let mut response = Rejection::TooManyConnections(limit).into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// Sends an alert instead of a handshake, and gives the other end time to read it.
pub(super) async fn send_alert(mut stream: BufReader<BoxMeshStream>, alert: Alert) -> io::Result<()> {
    // A record of two bytes: the level (fatal) and the alert.
    stream.write_all(&[21, 3, 3, 0, 2, 2, alert as u8]).await?;
    stream.shutdown().await?;
    // Closing a socket with unread bytes discards the bytes that it sent.
    let mut rest = stream.take(MAX_DRAINED);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
