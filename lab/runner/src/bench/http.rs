//! The HTTP of the bench, as in `lab/go/peer`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::transport::{MeshListener, Transport};

use super::figures::Figures;
use super::signed::{body_hash, key, sign, verify};

/// The body with which throughput is measured, in bytes.
const BLOB: usize = 8 << 20;

/// Answers small signed requests, sends a blob and swallows one.
pub(super) async fn serve(mut listener: Box<dyn MeshListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer));
                    // A client that goes away is no error here.
                    let _ = connection.await;
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotConnected => return,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let mut response = Response::new(Full::default());
    let Ok(_body) = body.collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/dm") => {
            let key = key();
            if verify(&key, &parts.headers, "POST/dm") {
                let body = Bytes::from_static(br#"{"success":true}"#);
                sign(&key, response.headers_mut(), &body_hash(&body));
                *response.body_mut() = body.into();
            } else {
                *response.status_mut() = StatusCode::UNAUTHORIZED;
            }
        }
        (&Method::GET, "/blob") => *response.body_mut() = Bytes::from(vec![0; BLOB]).into(),
        (&Method::POST, "/blob") => {}
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// Sends requests one after the other on one connection, then a blob each way.
pub(super) async fn load(
    transport: &dyn Transport,
    address: SocketAddr,
    duration: Duration,
) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let begin = Instant::now();
    let stream = transport.dial(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    message(&mut sender).await?;
    figures.first_ms = begin.elapsed().as_secs_f64() * 1e3;

    let mut taken = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let one = Instant::now();
        message(&mut sender).await?;
        taken.push(one.elapsed());
    }
    figures.requests_per_second = taken.len() as f64 / begin.elapsed().as_secs_f64();
    taken.sort_unstable();
    let at = |share: usize| {
        taken
            .get(taken.len() * share / 100)
            .map_or(0.0, |taken| taken.as_secs_f64() * 1e6)
    };
    figures.p50_us = at(50);
    figures.p99_us = at(99);

    let begin = Instant::now();
    let received = send(&mut sender, Method::GET, "/blob", Bytes::new())
        .await?
        .2
        .len();
    figures.down_mb_s = received as f64 / 1e6 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    send(&mut sender, Method::POST, "/blob", vec![0; BLOB].into()).await?;
    figures.up_mb_s = BLOB as f64 / 1e6 / begin.elapsed().as_secs_f64();
    Ok(figures)
}

/// One small signed request with its signed answer.
async fn message(sender: &mut SendRequest<Full<Bytes>>) -> Result<(), String> {
    let body = Bytes::from_static(br#"{"text":"hello"}"#);
    let (status, headers, answer) = send(sender, Method::POST, "/dm", body).await?;
    if status != StatusCode::OK {
        return Err(format!("the server answers {status}"));
    }
    if verify(&key(), &headers, &body_hash(&answer)) {
        Ok(())
    } else {
        Err("the signature of the answer does not verify".to_owned())
    }
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, http::HeaderMap, Bytes), String> {
    let failed = |error: hyper::Error| error.to_string();
    let mut request = Request::new(Full::new(body));
    let suffix = format!("{method}{path}");
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| format!("{path} is no path"))?;
    request
        .headers_mut()
        .insert(http::header::HOST, http::HeaderValue::from_static("nara"));
    sign(&key(), request.headers_mut(), &suffix);
    sender.ready().await.map_err(failed)?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(failed)?.to_bytes();
    Ok((parts.status, parts.headers, body))
}
