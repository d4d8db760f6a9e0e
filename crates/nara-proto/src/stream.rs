//! Live events: `GET /events/stream`, our extension.
//!
//! The answer is an endless `text/event-stream` (WHATWG HTML, section 9.2). The framing is done by the
//! runtime; here is what the messages say:
//!
//! | `event:` | `id:` | `data:` |
//! |---|---|---|
//! | `hello` | where the stream begins | [`Hello`]: first, exactly once, signed for this request |
//! | `event` | the place behind the event | a [`SyncEvent`](crate::event::SyncEvent), as everywhere |
//! | `ping` | how far the stream has come | [`Heartbeat`]: every [`Hello::keep_alive_ms`], and when the stream has caught up |
//! | `lagged` | where it goes on | [`Lag`]: the reader was too slow; what it missed comes from the ledger now |
//! | `bye` | where to resume | [`Bye`]: last, then the stream ends |
//!
//! Ids are [`ArrivalCursor`]s. An unknown type of message is skipped.
//!
//! The response-signing of other endpoints needs the whole body, which a stream does not have. Instead its
//! `hello` is signed together with the request that it answers, and each event carries the signature of its
//! emitter. What the connection carries behind the `hello` is as safe as the network: who can change it can
//! leave out events, but not make any.

mod cursor;
mod hello;
mod message;
mod request;

pub use cursor::{ArrivalCursor, InvalidArrivalCursor, LedgerEpoch};
pub use hello::{Hello, HelloError, StreamOpening, StreamStart};
pub use message::{Bye, Heartbeat, Lag, MessageError, StreamMessage, kind};
pub use request::{InvalidStreamRequest, StreamRequest};

/// The largest line and the largest message of a stream, in bytes. Events are at most 64 KiB where they are
/// taken in.
pub const MAX_STREAM_MESSAGE: usize = 256 << 10;
