//! Splits the bytes of a stream into messages of bounded size.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use nara_proto::stream::MAX_STREAM_MESSAGE;
use sse_stream::{Sse, SseByteStream};

use super::error::{Cut, StreamProblem};

/// The reason why there is no further message.
#[derive(Debug)]
pub(super) enum FrameError {
    Cut(Cut),
    Problem(StreamProblem),
}

/// The blocks of server-sent events in a body.
pub(super) struct Frames(SseByteStream<Guarded>);

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Frames")
    }
}

impl Frames {
    pub(super) fn new(body: Incoming) -> Self {
        Self(SseByteStream::new(Guarded {
            body: BodyDataStream::new(body),
            guard: Guard::default(),
        }))
    }

    /// Returns the next block. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Sse, FrameError> {
        match self.0.next().await {
            Some(Ok(block)) => Ok(block),
            Some(Err(error)) => Err(FrameError::from(error)),
            None => Err(FrameError::Cut(Cut::Closed)),
        }
    }

    /// Returns the next block if it has already arrived.
    pub(super) fn next_if_ready(&mut self) -> Option<Result<Sse, FrameError>> {
        self.next().now_or_never()
    }
}

impl From<sse_stream::Error> for FrameError {
    fn from(error: sse_stream::Error) -> Self {
        match error {
            sse_stream::Error::Body(error) => match error.downcast::<GuardError>() {
                Ok(error) if matches!(*error, GuardError::TooLarge) => {
                    Self::Problem(StreamProblem::TooLarge(MAX_STREAM_MESSAGE))
                }
                _ => Self::Cut(Cut::Broken),
            },
            other => Self::Problem(StreamProblem::Framing(other.to_string())),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum GuardError {
    #[error("the body broke")]
    Body(#[source] hyper::Error),
    #[error("too large")]
    TooLarge,
}

/// A body that fails before a message in it becomes too large. The decoder has no such limit.
struct Guarded {
    body: BodyDataStream<Incoming>,
    guard: Guard,
}

impl Stream for Guarded {
    type Item = Result<Bytes, GuardError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.body.poll_next_unpin(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(GuardError::Body(error))),
            Some(Ok(bytes)) if self.guard.admits(&bytes) => Some(Ok(bytes)),
            Some(Ok(_)) => Some(Err(GuardError::TooLarge)),
        })
    }
}

/// Counts the bytes since the last empty line, including comments.
#[derive(Debug, Default)]
struct Guard {
    message: usize,
    /// Whether the current line has bytes.
    line_has_bytes: bool,
    after_cr: bool,
}

impl Guard {
    fn admits(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            let line_feed_of_cr = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            if line_feed_of_cr {
                continue;
            }
            if !matches!(byte, b'\n' | b'\r') {
                self.message += 1;
                self.line_has_bytes = true;
            } else if std::mem::take(&mut self.line_has_bytes) {
                self.message += 1;
            } else {
                self.message = 0;
            }
            if self.message > MAX_STREAM_MESSAGE {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_line_ends_a_message() {
        for end in ["\n", "\r", "\r\n"] {
            let line = format!("data: {}{end}", "x".repeat(1000));
            let mut guard = Guard::default();
            let fits = (0..1000).take_while(|_| guard.admits(line.as_bytes())).count();
            assert!(fits < 270, "{fits} lines of 1000 bytes, ended by {end:?}");

            let mut guard = Guard::default();
            let message = format!("{line}{end}");
            assert!((0..1000).all(|_| guard.admits(message.as_bytes())), "{end:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_too_large_in_pieces_as_well() {
        let mut guard = Guard::default();
        let fits = (0..1 << 20).take_while(|_| guard.admits(b":")).count();
        assert_eq!(fits, MAX_STREAM_MESSAGE);
    }
}
