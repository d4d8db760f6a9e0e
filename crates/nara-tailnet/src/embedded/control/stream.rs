//! The stream of map messages: length-prefixed JSON.

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::error::{ControlError, protocol};
use crate::embedded::netmap::MapMessage;

/// The maximum message size in bytes. Ten thousand peers take about ten million bytes.
const MAX_MESSAGE: usize = 64 << 20;
const LENGTH: usize = 4;

/// A reader of map messages.
pub(super) struct MapStream<R = Box<dyn AsyncRead + Send + Unpin>> {
    reader: R,
    bytes: BytesMut,
}

impl MapStream {
    pub(super) fn new(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self {
            reader: Box::new(reader),
            bytes: BytesMut::new(),
        }
    }

    /// Reads the next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<MapMessage, ControlError> {
        loop {
            if let Some(json) = take(&mut self.bytes)? {
                return Ok(MapMessage::parse(&json)?);
            }
            if self
                .reader
                .read_buf(&mut self.bytes)
                .await
                .map_err(ControlError::Ended)?
                == 0
            {
                return Err(ControlError::Ended(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn take(bytes: &mut BytesMut) -> Result<Option<BytesMut>, ControlError> {
    let Some((length, _)) = bytes.split_first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_MESSAGE {
        return Err(protocol(
            "map",
            format_args!("a message of {length} bytes is too long"),
        ));
    }
    if bytes.len() < LENGTH + length {
        return Ok(None);
    }
    bytes.advance(LENGTH);
    Ok(Some(bytes.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_split_however_they_are_chunked() {
        let json = br#"{"KeepAlive":true}"#;
        let mut bytes = Vec::new();
        for _ in 0..3 {
            bytes.extend(u32::try_from(json.len()).unwrap().to_le_bytes());
            bytes.extend(json);
        }
        for chunk in [1, 7, 1000] {
            let reader = tokio_test_reader(&bytes, chunk);
            let mut stream = MapStream::new(reader);
            for _ in 0..3 {
                stream.next().await.unwrap();
            }
            assert!(matches!(stream.next().await, Err(ControlError::Ended(_))));
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let mut stream = MapStream::new(&[0xff; 8][..]);
        assert!(matches!(stream.next().await, Err(ControlError::Protocol { .. })));
    }

    #[tokio::test]
    async fn a_message_that_is_not_a_map_ends_the_stream() {
        let mut stream = MapStream::new(&b"\x02\0\0\0\"\""[..]);
        assert!(matches!(stream.next().await, Err(ControlError::Map(_))));
    }

    fn tokio_test_reader(bytes: &[u8], chunk: usize) -> impl AsyncRead + Send + Unpin + use<> {
        let (mut writer, reader) = tokio::io::duplex(chunk);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes)
                .await
                .unwrap();
        });
        reader
    }
}
