use std::time::Duration;

use http::StatusCode;
use nara_proto::event::{EventProblem, RefusedEvent};
use nara_proto::stream::{ArrivalCursor, MessageError};

use crate::client::error::ClientError;
use crate::ledger::LedgerError;

/// An error item of a subscription. Only a [final](StreamError::is_final) one ends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The peer sent an event that was refused; the stream continues.
    #[error("{peer}: event {} refused: {}", short(&event.id), event.problem)]
    Refused {
        /// The peer that sent it.
        peer: String,
        /// The event and its problem.
        event: Box<RefusedEvent>,
    },
    /// The peer has a new ledger, so our cursor is void. Its events follow from `start` on, including known ones.
    #[error("{peer} has a new ledger; its stream starts over after {start}")]
    LedgerReplaced {
        /// The peer.
        peer: String,
        /// The position at which its stream starts now.
        start: ArrivalCursor,
    },
    /// The peer violated the stream protocol. The stream was closed and is reopened after a pause.
    #[error("{peer} violated the stream protocol: {problem}")]
    Protocol {
        /// The peer.
        peer: String,
        /// The violation.
        #[source]
        problem: StreamProblem,
    },
    /// The stream could not be opened because one side could not authenticate the other. It is retried after a
    /// pause.
    #[error("the stream cannot be opened")]
    Unauthenticated(#[source] ClientError),
    /// Our own ledger failed. The stream is reopened after a pause, after the last stored event.
    #[error("events of {peer} cannot be stored")]
    Ledger {
        /// The peer.
        peer: String,
        /// The cause.
        #[source]
        source: LedgerError,
    },
    /// The peer has no streams; fetch its events with `sync_pages` instead. Final.
    #[error("{peer} does not support streams (it answered {}): fetch pages of its events instead", .status.as_u16())]
    Unsupported {
        /// The peer.
        peer: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The peer cannot be called, and waiting does not help. Final.
    #[error("the stream cannot be opened")]
    Call(#[source] ClientError),
}

/// How a peer violated the stream protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamProblem {
    /// The cursor of a message and the `hello` belong to different ledgers.
    #[error("a message has a cursor for another ledger ({got} instead of {expected})")]
    ForeignCursor {
        /// The epoch of the `hello`.
        expected: String,
        /// The epoch of the message.
        got: String,
    },
    /// A message is malformed.
    #[error("malformed message: {0}")]
    Message(#[source] MessageError),
    /// The first message is not a `hello`.
    #[error("the stream does not begin with a hello")]
    NoHello,
    /// The position of a message is not after the previous one.
    #[error("positions out of order: {got} after {last}")]
    Order {
        /// The previous position.
        last: i64,
        /// The position of the message.
        got: i64,
    },
    /// The stream contains a second `hello`.
    #[error("the stream has a second hello")]
    SecondHello,
    /// A line or a message is too long.
    #[error("a message is larger than {0} bytes")]
    TooLarge(usize),
    /// The bytes are not server-sent events.
    #[error("the stream is not server-sent events: {0}")]
    Framing(String),
    /// The answer is not a stream.
    #[error("the answer has the content type {0:?}")]
    ContentType(String),
    /// The stream does not start where we asked.
    #[error("the stream starts after {got} instead of {expected}")]
    WrongStart {
        /// Our cursor.
        expected: ArrivalCursor,
        /// The start of the stream.
        got: ArrivalCursor,
    },
    /// The `hello` announces no keep-alive interval, or an invalid one.
    #[error("the hello announces a keep-alive of {0} ms")]
    KeepAlive(i64),
}

/// The reason why a connection ended that is reopened without an item.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("the connection broke")]
    Broken,
    #[error("the peer closed the stream without a bye")]
    Closed,
    #[error("the peer ended the stream: {0}")]
    Bye(String),
    #[error("the operator banned the peer")]
    Untrusted,
    #[error("the pinned key of the peer was replaced or removed")]
    KeyReplaced,
    #[error("no data for {} ms", .0.as_millis())]
    Silent(Duration),
}

impl StreamError {
    /// Returns whether this is the last item of the subscription.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Call(_))
    }

    /// Returns the problem of the refused event, if this is one.
    pub fn refused(&self) -> Option<&EventProblem> {
        match self {
            Self::Refused { event, .. } => Some(&event.problem),
            _ => None,
        }
    }
}

fn short(id: &str) -> String {
    id.chars().take(40).flat_map(char::escape_default).collect()
}
