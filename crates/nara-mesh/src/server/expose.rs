//! A reverse proxy with identity: forwards verified requests to a local program, with headers that identify the sender.
//!
//! The program gets `X-Nara-Sender` (the name, percent-encoded), `X-Nara-Sender-Id` (if known), `X-Nara-Sender-Key`
//! (base64) and `X-Nara-Coverage` (the proven parts of the request). Headers of a peer with such names, in any spelling
//! that a gateway interface may confuse with them, are removed, and so are hop-by-hop headers (RFC 9110, section
//! 7.6.1). Bodies are streamed in both directions.

mod services;

pub use services::Services;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{NestedPath, Request};
use axum::response::{IntoResponse as _, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nara_proto::forwarding;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::seldom::warn_seldom;
use crate::server::VerifiedSender;

/// The time limit for connecting to the program, which is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A local program to which verified requests are forwarded. Written as `http://127.0.0.1:8000`, optionally with a base
/// path for the requests, or as `unix:/run/notes.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    place: Place,
    /// Without a trailing slash.
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The error for a text that is not a backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBackend {
    /// The text is neither an address nor a socket.
    #[error("expected http://127.0.0.1:PORT or unix:/PATH")]
    Form,
    /// The address is not on this machine: proven requests would travel unprotected.
    #[error("{0} is not a loopback address: requests are passed on to this machine only")]
    NotLoopback(String),
}

impl FromStr for Backend {
    type Err = InvalidBackend;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let place = Place::Unix(PathBuf::from(path));
            return if path.starts_with('/') && cfg!(unix) {
                Ok(Self {
                    place,
                    path: String::new(),
                })
            } else {
                Err(InvalidBackend::Form)
            };
        }
        let uri: Uri = text.parse().map_err(|_| InvalidBackend::Form)?;
        let (Some("http"), Some(authority), None) = (uri.scheme_str(), uri.authority(), uri.query()) else {
            return Err(InvalidBackend::Form);
        };
        if authority.as_str().contains('@') {
            return Err(InvalidBackend::Form);
        }
        let host = authority.host();
        let ip: IpAddr = match host.trim_start_matches('[').trim_end_matches(']') {
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            literal => literal
                .parse()
                .map_err(|_| InvalidBackend::NotLoopback(host.to_owned()))?,
        };
        if !ip.to_canonical().is_loopback() {
            return Err(InvalidBackend::NotLoopback(host.to_owned()));
        }
        Ok(Self {
            place: Place::Tcp(SocketAddr::new(ip, authority.port_u16().unwrap_or(80))),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Tcp(address) => write!(f, "http://{address}{}", self.path),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Backend {
    /// The default time limit for the start of an answer.
    pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

    /// Returns a router that forwards all requests to this program, for
    /// [`nest_routes`](crate::server::MeshServerBuilder::nest_routes): the program sees paths without the prefix.
    ///
    /// Peers get 502 if the program cannot be reached or breaks off, and 504 if its answer does not begin within
    /// `answer_timeout` (usually [`Backend::ANSWER_TIMEOUT`]).
    pub fn router(self, answer_timeout: Duration) -> Router {
        let proxy = Arc::new(Proxy::new(self, answer_timeout));
        Router::new().fallback(async move |sender: VerifiedSender, request: Request| {
            let prefix = request.extensions().get::<NestedPath>().cloned();
            let prefix = prefix.as_ref().map_or("", NestedPath::as_str);
            Ok::<_, Infallible>(proxy.pass_on(&sender, prefix, request).await)
        })
    }
}

#[derive(Debug)]
struct Proxy {
    client: Client<Connector, Body>,
    backend: Backend,
    answer_timeout: Duration,
}

/// The reason why the program did not answer a request.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the method {0} is not passed on")]
    Method(Method),
    #[error("the path has a segment `.` or `..`, or an encoded slash")]
    Path,
    #[error("the program behind this path cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the program behind this path did not answer in time")]
    Silent,
    #[error("the program behind this path speaks another protocol than it was asked in")]
    Upgrade,
}

impl Failed {
    fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::BAD_REQUEST,
            Self::Unreachable(_) | Self::Upgrade => StatusCode::BAD_GATEWAY,
            Self::Silent => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl Proxy {
    fn new(backend: Backend, answer_timeout: Duration) -> Self {
        let connector = Connector(backend.place.clone());
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            backend,
            answer_timeout,
        }
    }

    /// Forwards a request. `prefix` is the removed start of its path.
    async fn pass_on(&self, sender: &VerifiedSender, prefix: &str, request: Request) -> Response {
        match self.try_pass_on(sender, prefix, request).await {
            Ok(response) => response,
            Err(failed) => {
                let cause = std::error::Error::source(&failed).map(ToString::to_string);
                warn_seldom!(backend = %self.backend, cause, sender = %sender.name(), "{failed}");
                (failed.status(), format!("{failed}\n")).into_response()
            }
        }
    }

    async fn try_pass_on(
        &self,
        sender: &VerifiedSender,
        prefix: &str,
        request: Request,
    ) -> Result<Response, Failed> {
        let (mut parts, body) = request.into_parts();
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(Failed::Method(parts.method));
        }
        parts.uri = self.target(&parts.uri)?;
        parts.version = http::Version::HTTP_11;
        clean(&mut parts.headers);
        identify(&mut parts.headers, sender);
        // The client sets it from the target.
        parts.headers.remove(header::HOST);
        parts
            .headers
            .append(header::VIA, HeaderValue::from_static("1.1 nara-mesh"));
        let mut outgoing = http::Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = parts.uri;
        *outgoing.headers_mut() = parts.headers;
        let answer = tokio::time::timeout(self.answer_timeout, self.client.request(outgoing)).await;
        let answer = answer.map_err(|_| Failed::Silent)?;
        let mut answer = answer.map_err(|error| match is_timeout(&error) {
            true => Failed::Silent,
            false => Failed::Unreachable(error),
        })?;
        // `Upgrade` is removed, so an upgrade was not requested.
        if answer.status().is_informational() {
            return Err(Failed::Upgrade);
        }
        clean(answer.headers_mut());
        self.relocate(answer.headers_mut(), prefix);
        Ok(answer.map(Body::new).into_response())
    }

    /// Rewrites a `Location` on the program's own server, `/PATH` or a URL with its own address, to the path for the
    /// peer. Other and relative locations stay unchanged.
    fn relocate(&self, headers: &mut HeaderMap, prefix: &str) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let Some(told) = headers.get(&name).and_then(|value| value.to_str().ok()) else {
                continue;
            };
            let own = format!("http://{}", self.authority());
            let path = told.strip_prefix(&own).unwrap_or(told);
            let is_path = path.starts_with('/') && !path.starts_with("//") || path.len() < told.len();
            let below = path.strip_prefix(&self.backend.path);
            let Some(below) = below.filter(|below| is_path && is_whole_segment(below)) else {
                continue;
            };
            if let Ok(value) = HeaderValue::try_from(format!("{prefix}{below}")) {
                headers.insert(name, value);
            }
        }
    }

    /// Returns the authority of requests to the program.
    fn authority(&self) -> String {
        match &self.backend.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Returns the URI at the backend of a path below the prefix.
    fn target(&self, uri: &Uri) -> Result<Uri, Failed> {
        let path = uri.path();
        if forwarding::is_ambiguous_path(path) {
            return Err(Failed::Path);
        }
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}{path}{query}", self.backend.path);
        let authority = self.authority();
        let mut target = http::uri::Parts::default();
        target.scheme = Some(Scheme::HTTP);
        target.authority = Authority::from_str(&authority).ok();
        target.path_and_query = PathAndQuery::from_str(&path).ok();
        Uri::from_parts(target).map_err(|_| Failed::Path)
    }
}

/// Returns whether the rest of a path begins with a new segment or is empty.
fn is_whole_segment(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['/', '?', '#'])
}

fn is_timeout(error: &hyper_util::client::legacy::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::TimedOut;
        }
        source = cause.source();
    }
    false
}

/// Removes hop-by-hop headers, and headers that only this nara may set.
fn clean(headers: &mut HeaderMap) {
    forwarding::remove_headers(headers, |name| {
        forwarding::is_channel_header(name) || forwarding::is_forwarding_header(name)
    });
}

/// Sets the headers that identify the sender of a request.
fn identify(headers: &mut HeaderMap, sender: &VerifiedSender) {
    let name = forwarding::header_text(sender.name().as_str());
    let known = [
        ("x-nara-sender", Some(name)),
        ("x-nara-sender-id", sender.id().map(ToString::to_string)),
        ("x-nara-sender-key", Some(sender.key().to_base64())),
        ("x-nara-coverage", Some(sender.coverage().as_str().to_owned())),
    ];
    for (name, value) in known {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Connects to the backend, whatever the address of a request is.
#[derive(Clone, Debug)]
struct Connector(Place);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the backend.
struct BackendStream(Box<dyn Stream>);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<BackendStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let place = self.0.clone();
        Box::pin(async move {
            let connecting = async {
                Ok::<_, io::Error>(match place {
                    Place::Tcp(address) => Box::new(TcpStream::connect(address).await?) as Box<dyn Stream>,
                    #[cfg(unix)]
                    Place::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await?),
                    #[cfg(not(unix))]
                    Place::Unix(_) => return Err(io::ErrorKind::Unsupported.into()),
                })
            };
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(TokioIo::new(BackendStream(stream)))
        })
    }
}

impl Connection for BackendStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for BackendStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BackendStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Coverage;

    use http_body_util::BodyExt as _;
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tower::ServiceExt as _;

    #[test]
    fn a_place_on_the_server_of_the_program_is_one_below_its_prefix() {
        let proxy = |backend: &str| Proxy::new(backend.parse().unwrap(), Backend::ANSWER_TIMEOUT);
        let root = proxy("http://127.0.0.1:8000");
        let below = proxy("http://127.0.0.1:8000/base");
        for (proxy, told, expected) in [
            (&root, "/sub/", "/notes/sub/"),
            (&root, "/", "/notes/"),
            (&root, "/a?next=/b#c", "/notes/a?next=/b#c"),
            (&root, "http://127.0.0.1:8000/sub/", "/notes/sub/"),
            (&root, "http://127.0.0.1:8000", "/notes"),
            (&below, "/base/sub", "/notes/sub"),
            (&below, "/base", "/notes"),
            // Other and relative locations stay unchanged.
            (&below, "/basement", "/basement"),
            (&below, "/other", "/other"),
            (&root, "sub/", "sub/"),
            (&root, "", ""),
            (&root, "//evil.example/x", "//evil.example/x"),
            (&root, "http://127.0.0.1:80001/x", "http://127.0.0.1:80001/x"),
            (&root, "https://example.org/x", "https://example.org/x"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, told.parse().unwrap());
            proxy.relocate(&mut headers, "/notes");
            assert_eq!(headers[header::LOCATION], expected, "{told}");
        }
    }

    fn from_alice(method: &str, body: Body) -> Request {
        let key = KeyPair::from_soul(&Soul::bond([1; 32], "x")).public_key();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let name = "é b".parse().unwrap();
        let sender = VerifiedSender::new(name, None, key, address, UnixMillis::new(0), Coverage::Whole);
        let mut request = Request::builder().method(method).uri("/a").body(body).unwrap();
        request.extensions_mut().insert(sender);
        request
    }

    async fn backend() -> (TcpListener, Backend) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let backend = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        (listener, backend)
    }

    #[tokio::test]
    async fn bodies_are_passed_on_as_they_come_in_both_directions() {
        let (listener, backend) = backend().await;
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            // The answer begins although the request has not ended.
            while !got.ends_with(b"first\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                got.extend(byte);
            }
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
            stream.write_all(head).await.unwrap();
            while !got.ends_with(b"0\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                got.extend(byte);
            }
            stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
            String::from_utf8(got).unwrap()
        });
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, Infallible>>(1);
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
        sender.send(Ok("first".into())).await.unwrap();
        let answer = backend
            .router(Backend::ANSWER_TIMEOUT)
            .oneshot(from_alice("POST", body))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        sender.send(Ok("second".into())).await.unwrap();
        drop(sender);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "two");
        let got = serving.await.unwrap();
        assert!(got.contains("first") && got.contains("second"), "{got}");
        assert!(got.contains("x-nara-sender: %C3%A9%20b\r\n"), "{got}");
        assert!(got.contains("via: 1.1 nara-mesh\r\n"), "{got}");
    }

    #[tokio::test]
    async fn a_backend_that_is_silent_or_gone_has_its_own_status() {
        let (silent, backend) = backend().await;
        let patience = Duration::from_millis(1);
        let answer = backend
            .clone()
            .router(patience)
            .oneshot(from_alice("GET", Body::empty()))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        drop(silent);
        let answer = backend
            .clone()
            .router(Backend::ANSWER_TIMEOUT)
            .oneshot(from_alice("GET", Body::empty()))
            .await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "the program behind this path cannot be reached\n");
        let answer = backend
            .router(Backend::ANSWER_TIMEOUT)
            .oneshot(from_alice("TRACE", Body::empty()))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn an_unrequested_upgrade_is_not_forwarded() {
        let (listener, backend) = backend().await;
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).await.unwrap();
        });
        let answer = backend
            .router(Backend::ANSWER_TIMEOUT)
            .oneshot(from_alice("GET", Body::empty()))
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
        drop(answer);
        serving.await.unwrap();
    }

    #[test]
    fn only_programs_of_this_machine_are_backends() {
        for (text, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://localhost:8000/", "http://127.0.0.1:8000"),
            ("http://[::1]:8000/base/", "http://[::1]:8000/base"),
            ("http://127.0.0.1", "http://127.0.0.1:80"),
            ("unix:/run/notes.sock", "unix:/run/notes.sock"),
        ] {
            assert_eq!(text.parse::<Backend>().unwrap().to_string(), shown);
        }
        for text in [
            "http://example.org",
            "http://10.0.0.1:80",
            "http://0.0.0.0:80",
            "http://[::ffff:10.0.0.1]",
        ] {
            assert!(
                matches!(text.parse::<Backend>(), Err(InvalidBackend::NotLoopback(_))),
                "{text}"
            );
        }
        for text in [
            "https://127.0.0.1",
            "127.0.0.1:80",
            "unix:notes.sock",
            "http://a@127.0.0.1",
            "http://127.0.0.1/?x",
            "",
        ] {
            assert_eq!(text.parse::<Backend>(), Err(InvalidBackend::Form), "{text}");
        }
    }

    #[test]
    fn a_path_stays_below_its_prefix() {
        let proxy = |backend: &str| Proxy {
            backend: backend.parse().unwrap(),
            client: Client::builder(TokioExecutor::new()).build(Connector(Place::Unix("/x".into()))),
            answer_timeout: Backend::ANSWER_TIMEOUT,
        };
        let target = |path: &str| proxy("http://127.0.0.1:1/base").target(&path.parse().unwrap());
        for (path, expected) in [
            ("/a", "http://127.0.0.1:1/base/a"),
            ("/", "http://127.0.0.1:1/base/"),
            ("/a%20b//c?q=../x", "http://127.0.0.1:1/base/a%20b//c?q=../x"),
            ("/.hidden/...", "http://127.0.0.1:1/base/.hidden/..."),
        ] {
            assert_eq!(target(path).unwrap().to_string(), expected);
        }
        for path in [
            "/..",
            "/a/../b",
            "/%2e%2e/b",
            "/.%2E",
            "/a/%2f..",
            "/a%5c..",
            "/./a",
            "/a%00",
        ] {
            assert!(matches!(target(path), Err(Failed::Path)), "{path}");
        }
    }
}
