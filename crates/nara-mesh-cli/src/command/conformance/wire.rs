//! Sends arbitrary requests directly over HTTP/1.1, without our client in between.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use nara_mesh::transport::BoxMeshStream;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The most bytes of an answer that are read: above the largest answer of any endpoint.
const MAX_ANSWER: usize = 17 << 20;

/// The most bytes of a body that the report shows.
const SHOWN: usize = 160;

/// A request as sent.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Creates a `GET` without headers.
pub(super) fn get(target: &str) -> Draft {
    Draft {
        method: Method::GET,
        target: target.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

/// Creates a `POST` with a JSON body.
pub(super) fn post(target: &str, body: impl Into<Bytes>) -> Draft {
    let draft = get(target).method(Method::POST).body(body);
    draft.with("content-type", "application/json")
}

impl Draft {
    pub(super) fn method(mut self, method: Method) -> Self {
        self.method = method;
        self
    }

    /// Replaces path and query. An existing signature stays.
    pub(super) fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    /// Replaces the body. An existing signature stays.
    pub(super) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a header.
    pub(super) fn with(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .insert(HeaderName::from_static(name), field(value.as_ref()));
        self
    }

    /// Adds a header in addition to those with the same name.
    pub(super) fn again(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .append(HeaderName::from_static(name), field(value.as_ref()));
        self
    }

    /// Removes a header.
    pub(super) fn without(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Returns the value of a header as text.
    pub(super) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(text_of).unwrap_or_default()
    }

    /// Returns the path of the request line.
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Returns the query of the request line.
    pub(super) fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Describes the request for the report.
    pub(super) fn describe(&self) -> String {
        let profile = match (
            self.headers.contains_key("x-nara-signature"),
            self.headers.contains_key("signature"),
        ) {
            (false, false) => "unsigned",
            (true, false) => "signed v1",
            (false, true) => "signed v2",
            (true, true) => "signed v1 and v2",
        };
        format!("{} {}, {profile}{}", self.method, self.target, shown(&self.body))
    }
}

fn field(value: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(value).expect("checks send no control characters in headers")
}

fn text_of(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    /// Returns the value of a header as text.
    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(text_of)
    }

    /// Describes the answer for the report.
    pub(super) fn describe(&self) -> String {
        let kind = self
            .header("content-type")
            .unwrap_or_else(|| "no content type".to_owned());
        format!("{} {kind}{}", self.status, shown(&self.body))
    }
}

fn shown(body: &[u8]) -> String {
    if body.is_empty() {
        return ", no body".to_owned();
    }
    let cut = &body[..body.len().min(SHOWN)];
    let more = if cut.len() < body.len() { "…" } else { "" };
    let text: String = String::from_utf8_lossy(cut).escape_debug().collect();
    format!(", {} bytes: {}{more}", body.len(), text.replace("\\\"", "\""))
}

/// A connection for sequential requests.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    limit: Duration,
}

impl Connection {
    /// Opens a plain connection.
    pub(super) async fn open(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = dial(address, limit).await?;
        Self::over(Box::new(stream), address, limit).await
    }

    /// Starts HTTP over an established stream.
    pub(super) async fn over(
        stream: BoxMeshStream,
        address: SocketAddr,
        limit: Duration,
    ) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // The task ends when the sender is dropped or the peer closes.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: address.to_string(),
            limit,
        })
    }

    /// Sends a request and reads the whole answer.
    pub(super) async fn send(&mut self, draft: &Draft) -> io::Result<Answer> {
        let response = self.begin(draft).await?;
        let (head, body) = response.into_parts();
        let reading = Limited::new(body, MAX_ANSWER).collect();
        let body = timeout(self.limit, reading).await.map_err(|_| late())?;
        let body = body.map_err(|error| {
            let large = error.is::<LengthLimitError>();
            io::Error::other(if large {
                format!("the answer has more than {MAX_ANSWER} bytes")
            } else {
                format!("the answer broke off: {error}")
            })
        })?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn begin(&mut self, draft: &Draft) -> io::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(draft.method.clone())
            .uri(draft.target.as_str())
            .header(header::HOST, &self.host)
            .body(Full::new(draft.body.clone()))
            .map_err(io::Error::other)?;
        request.headers_mut().extend(draft.headers.clone());
        let sending = self.sender.send_request(request);
        let sent = timeout(self.limit, sending).await.map_err(|_| late())?;
        sent.map_err(|error| io::Error::other(format!("no answer: {error}")))
    }
}

/// Opens a TCP connection.
pub(super) async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| late())?
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) event: String,
    pub(super) id: String,
    pub(super) data: String,
}

/// The messages of a stream.
#[derive(Debug)]
pub(super) struct Messages {
    body: Incoming,
    read: BytesMut,
    limit: Duration,
}

impl Messages {
    pub(super) fn new(body: Incoming, limit: Duration) -> Self {
        Self {
            body,
            read: BytesMut::new(),
            limit,
        }
    }

    /// Waits for the next message that is not a comment.
    pub(super) async fn next(&mut self) -> io::Result<Message> {
        loop {
            while let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let block = self.read.split_to(end + 2);
                let message = parse(&String::from_utf8_lossy(&block));
                if message != Message::default() {
                    return Ok(message);
                }
            }
            if self.read.len() > MAX_ANSWER {
                return Err(io::Error::other("a message is too long"));
            }
            let frame = timeout(self.limit, self.body.frame()).await.map_err(|_| late())?;
            let frame = frame.ok_or_else(|| io::Error::other("the stream ended"))?;
            let frame = frame.map_err(|error| io::Error::other(format!("the stream broke: {error}")))?;
            if let Some(data) = frame.data_ref() {
                self.read.extend_from_slice(data);
            }
        }
    }
}

fn parse(block: &str) -> Message {
    let mut message = Message::default();
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut message.event),
            "id" => value.clone_into(&mut message.id),
            "data" => message.data.push_str(value),
            _ => {}
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_shown_on_one_line_and_cut() {
        assert_eq!(shown(b""), ", no body");
        assert_eq!(shown(b"{\"a\":1}\n"), ", 8 bytes: {\"a\":1}\\n");
        assert!(shown(&[b'x'; 500]).ends_with("x…"));
    }

    #[test]
    fn a_message_has_the_fields_of_its_block() {
        let message = parse("retry: 5\nevent: ping\nid:a:1\ndata: {}\n\n");
        assert_eq!(
            (&*message.event, &*message.id, &*message.data),
            ("ping", "a:1", "{}")
        );
        assert_eq!(parse(": comment\n\n"), Message::default());
    }
}
