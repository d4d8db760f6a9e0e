//! Raw HTTP/1.1: bytes that no client library would send.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// No test depends on this limit: it only keeps a broken one from hanging.
const STUCK: Duration = Duration::from_secs(20);

/// An answer as received.
#[derive(Clone, Debug)]
pub(crate) struct RawResponse {
    pub(crate) status: u16,
    /// Names in lower case, in wire order.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl RawResponse {
    /// Returns the value of a header, as text; invalid UTF-8 is replaced.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let name = name.to_lowercase();
        let (_, value) = self.headers.iter().find(|(known, _)| *known == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Returns the headers, except those that no HTTP library would accept.
    pub(crate) fn header_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        headers
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Returns the bytes of a request that asks to close the connection.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: nara\r\nConnection: close\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Opens a connection.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(STUCK))?;
    stream.set_write_timeout(Some(STUCK))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends bytes on a new connection and reads the answer; `None` if the connection was closed without one.
pub(crate) fn send(address: SocketAddr, bytes: &[u8]) -> io::Result<Option<RawResponse>> {
    let mut stream = connect(address)?;
    // The server may answer and close before it has read everything.
    let written = stream.write_all(bytes);
    let answer = read_response(&mut stream, bytes.starts_with(b"HEAD "))?;
    if answer.is_none() {
        written?;
    }
    Ok(answer)
}

/// Reads one answer.
pub(crate) fn read_response(stream: &mut TcpStream, head: bool) -> io::Result<Option<RawResponse>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if !read_more(stream, &mut bytes)? {
            return Ok(None);
        }
    };
    let mut body = bytes.split_off(end + 4);
    let mut lines = bytes[..end].split(|byte| *byte == b'\n');
    let status_line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::other(format!("not a status line: {status_line:?}")))?;
    let headers: Vec<(String, Vec<u8>)> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = String::from_utf8_lossy(&line[..colon]).to_lowercase();
            Some((name, line[colon + 1..].trim_ascii().to_vec()))
        })
        .collect();
    let response = |body| RawResponse {
        status,
        headers: headers.clone(),
        body,
    };
    if head {
        return Ok(Some(response(Vec::new())));
    }
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
    if chunked {
        return Err(io::Error::other("no answer of this server is streamed"));
    }
    while length.is_none_or(|length| body.len() < length) {
        if !read_more(stream, &mut body)? {
            break;
        }
    }
    Ok(Some(response(body)))
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            bytes.extend_from_slice(&buffer[..count]);
            Ok(true)
        }
        // Closed with unread bytes of ours: equivalent to an end.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error),
    }
}
