//! Server-sent events of a running nara.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt as _};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use sse_stream::{Error as SseError, SseStream};

use super::{CallError, LocalClient};

/// A stream of server-sent events. It ends when the nara stops; a `problem` is an error, and so is an
/// unannounced end ([`CallError::BrokenOff`]).
pub struct Events {
    stream: SseStream<Incoming>,
    client: LocalClient,
}

impl Events {
    pub(super) fn of(body: Incoming, client: LocalClient) -> Self {
        Self {
            stream: SseStream::new(body),
            client,
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Events").field(&self.client).finish()
    }
}

/// One server-sent event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerEvent {
    /// Its name.
    pub name: String,
    /// Its id: a cursor.
    pub id: Option<String>,
    /// Its body: JSON.
    pub data: String,
}

impl ServerEvent {
    /// Decodes the body.
    ///
    /// # Errors
    /// [`serde_json::Error`] if it has another form.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.data)
    }
}

impl Stream for Events {
    type Item = Result<ServerEvent, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let block = match ready!(self.stream.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Err(SseError::Body(cause))) => {
                    return Poll::Ready(Some(Err(self.client.broken_off(cause))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(self.client.malformed(&error)))),
                Some(Ok(block)) => block,
            };
            let (Some(name), Some(data)) = (block.event, block.data) else {
                continue;
            };
            if name == "problem" {
                let problem = serde_json::from_str(&data);
                let error = match problem {
                    Ok(problem) => CallError::Problem(Box::new(problem)),
                    Err(error) => self.client.malformed(&error),
                };
                return Poll::Ready(Some(Err(error)));
            }
            return Poll::Ready(Some(Ok(ServerEvent {
                name,
                id: block.id,
                data,
            })));
        }
    }
}
