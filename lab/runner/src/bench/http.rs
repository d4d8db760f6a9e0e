//! The HTTP client and server of the bench, equivalent to `lab/go/peer`.

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

/// The size of the body for throughput measurements, in bytes.
const BLOB: usize = 8 << 20;
/// The maximum size of a requested blob, in bytes.
const MAX_BLOB: usize = 64 << 20;

/// Serves small signed requests, and uploads and downloads of blobs.
pub(super) async fn serve(mut listener: Box<dyn MeshListener>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service_fn(answer));
                    // A client may disconnect at any time.
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
    if discard(body).await.is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    }
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
        (&Method::POST, "/blob") => {}
        (&Method::GET, path) => match path.strip_prefix("/blob/").map(str::parse) {
            Some(Ok(size)) if size <= MAX_BLOB => *response.body_mut() = Bytes::from(vec![0; size]).into(),
            _ => *response.status_mut() = StatusCode::NOT_FOUND,
        },
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    Ok(response)
}

/// Sends sequential requests on one connection, then transfers a blob in each direction.
pub(super) async fn load(
    transport: &dyn Transport,
    address: SocketAddr,
    duration: Duration,
) -> Result<Figures, String> {
    let mut figures = Figures::default();
    let begin = Instant::now();
    let mut client = Client::connect(transport, address).await?;
    client.message().await?;
    figures.first_ms = begin.elapsed().as_secs_f64() * 1e3;

    let mut taken = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < duration {
        let one = Instant::now();
        client.message().await?;
        taken.push(one.elapsed());
    }
    figures.requests_per_second = taken.len() as f64 / begin.elapsed().as_secs_f64();
    taken.sort_unstable();
    figures.p50_us = percentile(&taken, 50).as_secs_f64() * 1e6;
    figures.p99_us = percentile(&taken, 99).as_secs_f64() * 1e6;
    figures.down_mb_s = client.download(BLOB).await?;
    figures.up_mb_s = client.upload(BLOB).await?;
    Ok(figures)
}

/// Returns a percentile of times in ascending order.
pub(super) fn percentile(taken: &[Duration], share: usize) -> Duration {
    taken.get(taken.len() * share / 100).copied().unwrap_or_default()
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(super) async fn connect(transport: &dyn Transport, address: SocketAddr) -> Result<Self, String> {
        let stream = transport.dial(address).await.map_err(|error| error.to_string())?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends one small signed request and verifies its signed answer.
    pub(super) async fn message(&mut self) -> Result<(), String> {
        let body = Bytes::from_static(br#"{"text":"hello"}"#);
        let (headers, answer) = self.send(Method::POST, "/dm", body).await?;
        if verify(&key(), &headers, &body_hash(&answer)) {
            Ok(())
        } else {
            Err("the signature of the answer does not verify".to_owned())
        }
    }

    /// Downloads a blob and returns the rate in MB/s.
    pub(super) async fn download(&mut self, size: usize) -> Result<f64, String> {
        let begin = Instant::now();
        let response = self
            .begin(Method::GET, &format!("/blob/{size}"), Bytes::new())
            .await?;
        let received = discard(response.into_body()).await.map_err(failed)?;
        Ok(received as f64 / 1e6 / begin.elapsed().as_secs_f64())
    }

    /// Uploads a blob and returns the rate in MB/s.
    pub(super) async fn upload(&mut self, size: usize) -> Result<f64, String> {
        let begin = Instant::now();
        self.send(Method::POST, "/blob", vec![0; size].into()).await?;
        Ok(size as f64 / 1e6 / begin.elapsed().as_secs_f64())
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(http::HeaderMap, Bytes), String> {
        let (parts, body) = self.begin(method, path, body).await?.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok((parts.headers, body))
    }

    /// Sends a request, and returns the response without having read its body.
    async fn begin(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, String> {
        let mut request = Request::new(Full::new(body));
        let suffix = format!("{method}{path}");
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| format!("{path} is no path"))?;
        request
            .headers_mut()
            .insert(http::header::HOST, http::HeaderValue::from_static("nara"));
        sign(&key(), request.headers_mut(), &suffix);
        self.0.ready().await.map_err(failed)?;
        let response = self.0.send_request(request).await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(format!("the server answered {status}")),
        }
    }
}

fn failed(error: hyper::Error) -> String {
    error.to_string()
}

/// Reads a body without keeping it, as `lab/go/peer` does, and returns its length in bytes.
async fn discard(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        len += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(len)
}
