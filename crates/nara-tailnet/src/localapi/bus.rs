use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The call that opens the bus. The mask bit requests the state of the node as the first message.
pub(super) const CALL: &str = "watch-ipn-bus?mask=2";

/// The maximum size of a parsed message in bytes. Longer messages are maps of the whole tailnet: only their arrival
/// matters, because the status contains the same in fewer bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// The endless answer of `watch-ipn-bus`: one message per change.
#[derive(Debug)]
pub(crate) struct Bus {
    body: Incoming,
    line: Line,
    chunk: Bytes,
}

/// The relevant content of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BusEvent {
    /// An error of the control server, for the user.
    pub(crate) error: Option<String>,
    /// Whether the settings have changed.
    pub(crate) prefs: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    err_message: Option<String>,
    prefs: Option<IgnoredAny>,
}

impl Bus {
    /// Reads the answer to [`CALL`].
    pub(super) fn new(body: Incoming) -> Self {
        Self {
            body,
            line: Line::default(),
            chunk: Bytes::new(),
        }
    }

    /// Waits for the next message; `None` if the daemon has exited. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<BusEvent> {
        loop {
            if let Some(event) = self.line.take(&mut self.chunk) {
                return Some(event);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    tracing::debug!(%error, "the connection to the bus of tailscaled broke");
                    return None;
                }
                None => return None,
            }
        }
    }
}

/// A partially received message.
#[derive(Debug, Default)]
struct Line {
    begun: BytesMut,
    too_long: bool,
}

impl Line {
    /// Consumes bytes of a chunk until a message is complete or the chunk is empty.
    fn take(&mut self, chunk: &mut Bytes) -> Option<BusEvent> {
        while !chunk.is_empty() {
            let end = chunk.iter().position(|&byte| byte == b'\n');
            let part = chunk.split_to(end.unwrap_or(chunk.len()));
            if self.begun.len() + part.len() > MAX_MESSAGE {
                self.too_long = true;
                self.begun.clear();
            }
            if !self.too_long {
                self.begun.extend_from_slice(&part);
            }
            // The rest of the message comes with the next chunk.
            end?;
            chunk.advance(1);
            let line = std::mem::take(self);
            if line.too_long {
                return Some(BusEvent::default());
            }
            if !line.begun.trim_ascii().is_empty() {
                return Some(BusEvent::parse(&line.begun));
            }
        }
        None
    }
}

impl BusEvent {
    fn parse(json: &[u8]) -> Self {
        match serde_json::from_slice::<Message>(json) {
            Ok(message) => Self {
                error: message.err_message,
                prefs: message.prefs.is_some(),
            },
            Err(error) => {
                tracing::debug!(%error, "cannot parse a message on the bus of tailscaled");
                Self::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<BusEvent> {
        let mut line = Line::default();
        let mut events = Vec::new();
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(event) = line.take(&mut chunk) {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn messages_are_split_at_line_ends_however_they_are_chunked() {
        let whole = b"{\"State\":6}\n\n{\"ErrMessage\":\"invalid key\",\"Prefs\":{}}\n{\"Sta";
        let expected = [
            BusEvent::default(),
            BusEvent {
                error: Some("invalid key".to_owned()),
                prefs: true,
            },
        ];
        assert_eq!(events(&[whole]), expected);
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(events(&bytes), expected);
    }

    #[test]
    fn a_message_that_is_too_long_or_malformed_still_counts_as_a_change() {
        let mut long = vec![b'x'; MAX_MESSAGE + 1];
        long.push(b'\n');
        assert_eq!(
            events(&[&long, b"{\"State\":\n", b"{}\n"]),
            vec![BusEvent::default(); 3]
        );
        let endless = vec![b'x'; 1 << 20];
        assert_eq!(events(&[&endless]), []);
    }
}
