//! Connections for which there is no place: their other end is told so, in the protocol that it speaks.

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

/// How long a refusal may take, all together.
const LIMIT: Duration = Duration::from_secs(2);

/// The most bytes that are read behind a refusal.
const MAX_DRAINED: u64 = 64 << 10;

/// A fatal alert of TLS (RFC 8446, section 6), as a server may send it before its first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Alert {
    /// `protocol_version`: this server speaks no TLS.
    NoTls = 70,
    /// `user_canceled`: the handshake ends for a reason that has nothing to do with the protocol.
    Busy = 90,
}

/// Refuses a connection that exceeds a limit: 503 over plain HTTP, an alert over TLS. What breaks meanwhile does not
/// matter any more.
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

/// Sends an alert in place of a handshake, and waits a while for the other end to read it.
pub(super) async fn send_alert(mut stream: BufReader<BoxMeshStream>, alert: Alert) -> io::Result<()> {
    // A record of two bytes: fatal, and which.
    stream.write_all(&[21, 3, 3, 0, 2, 2, alert as u8]).await?;
    stream.shutdown().await?;
    // A socket that is closed with unread bytes takes what it sent with it.
    let mut rest = stream.take(MAX_DRAINED);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
