//! Live events: `GET /events/stream`. Specification: `docs/protocol/streams.md`.
//!
//! The answer is an endless `text/event-stream` (WHATWG HTML, section 9.2). This module holds the messages; the
//! runtime does the framing.
//!
//! | `event:` | `id:` | `data:` |
//! |---|---|---|
//! | `hello` | where the stream begins | [`Hello`]: first, exactly once, signed for this request |
//! | `event` | the place behind the event | a [`SyncEvent`](crate::event::SyncEvent) |
//! | `ping` | how far the stream has come | [`Heartbeat`]: after [`Hello::keep_alive_ms`] of silence, and when the stream has caught up |
//! | `lagged` | where the stream continues | [`Lag`]: the reader was too slow; the events that it missed come from the ledger |
//! | `bye` | where to resume | [`Bye`]: last, then the stream ends |
//!
//! Ids are [`ArrivalCursor`]s. Readers skip messages of unknown type.
//!
//! Other endpoints sign the whole body of an answer; a stream has no whole body. Instead, the server signs its `hello`
//! together with the request, and each event carries the signature of its emitter. On plain HTTP, the messages after
//! the `hello` are as safe as the network: a man in the middle can withhold events, but cannot forge them.

mod cursor;
mod hello;
mod message;
mod request;

pub use cursor::{ArrivalCursor, InvalidArrivalCursor, LedgerEpoch};
pub use hello::{Hello, HelloError, StreamOpening, StreamStart};
pub use message::{Bye, Heartbeat, Lag, MessageError, StreamMessage, kind};
pub use request::{InvalidStreamRequest, StreamRequest};

/// The maximum length of a line and of a message of a stream, in bytes. Servers accept events of at most 64 KiB.
pub const MAX_STREAM_MESSAGE: usize = 256 << 10;
