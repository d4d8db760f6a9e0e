//! An HTTP/1.1 message as bytes that a man in the middle can read and change.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// A request or an answer with a body of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The request line or the status line.
    pub(crate) start: String,
    /// In wire order, with their wire spelling.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Reads one message; `None` if the connection ended before it began. For an answer without length, only the head
    /// is read: see [`Message::is_stream`].
    pub(crate) async fn read(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            if stream.read_until(b'\n', &mut line).await? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let mut message = Self {
            start: lines.next().unwrap_or_default(),
            headers: lines
                .filter_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    Some((name.to_owned(), value.trim().to_owned()))
                })
                .collect(),
            body: Vec::new(),
        };
        if let Some(length) = message.header("content-length") {
            message.body = vec![0; length.parse().map_err(io::Error::other)?];
            stream.read_exact(&mut message.body).await?;
        }
        Ok(Some(message))
    }

    /// Returns whether the body has no announced end.
    pub(crate) fn is_stream(&self) -> bool {
        self.header("transfer-encoding").is_some()
    }

    /// Returns the wire bytes; the length is the body's.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.start).into_bytes();
        for (name, value) in &self.headers {
            let value = if name.eq_ignore_ascii_case("content-length") {
                self.body.len().to_string()
            } else {
                value.clone()
            };
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// Replaces or adds a header.
    pub(crate) fn set_header(&mut self, name: &str, value: &str) {
        self.remove_headers(|known| known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Removes the headers whose lower-case names are selected.
    pub(crate) fn remove_headers(&mut self, chosen: impl Fn(&str) -> bool) {
        self.headers.retain(|(name, _)| !chosen(&name.to_lowercase()));
    }

    /// Returns the path and query of a request.
    pub(crate) fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Returns the status of an answer.
    pub(crate) fn status(&self) -> u16 {
        let status = self.start.split(' ').nth(1);
        status.and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// Replaces text of the start line.
    pub(crate) fn replace_in_start(&mut self, from: &str, to: &str) {
        assert!(self.start.contains(from), "{}", self.start);
        self.start = self.start.replace(from, to);
    }

    /// Replaces text of the body.
    pub(crate) fn replace_in_body(&mut self, from: &str, to: &str) {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert!(text.contains(from), "{text}");
        self.body = text.replace(from, to).into_bytes();
    }
}
