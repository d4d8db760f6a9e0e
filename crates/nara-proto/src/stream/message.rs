use super::{ArrivalCursor, Hello, InvalidArrivalCursor};
use crate::event::SyncEvent;
use crate::go_json::{self, JsonError};
use crate::wire_struct;

/// The types of messages, as in `event:`.
pub mod kind {
    /// The last message.
    pub const BYE: &str = "bye";
    /// An event.
    pub const EVENT: &str = "event";
    /// The first message.
    pub const HELLO: &str = "hello";
    /// The reader was too slow.
    pub const LAGGED: &str = "lagged";
    /// A heartbeat.
    pub const PING: &str = "ping";
}

wire_struct! {
    /// The data of a `ping`.
    pub struct Heartbeat {
        /// The position of the newest event in the ledger.
        pub position: i64 = "position",
    }
}

wire_struct! {
    /// The data of `lagged`: the reader was too slow. No event is lost: the stream continues from the ledger at the
    /// reader's pace.
    pub struct Lag {
        /// The position of the newest event in the ledger: the stream has caught up when it reaches it.
        pub position: i64 = "position",
    }
}

wire_struct! {
    /// The data of `bye`.
    pub struct Bye {
        /// The reason for the end of the stream, for people.
        pub reason: String = "reason",
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StreamMessage {
    /// The last message.
    Bye(Bye),
    /// An event, and the position behind it.
    Event(ArrivalCursor, Box<SyncEvent>),
    /// The first message.
    Hello(Box<Hello>),
    /// The reader was too slow; the stream continues at this position.
    Lagged(ArrivalCursor, Lag),
    /// The progress of the stream.
    Ping(ArrivalCursor, Heartbeat),
    /// A message of a type that this version does not know.
    Unknown,
}

/// The error for a message that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The id is not a cursor.
    #[error("the id of a {kind} message is not a cursor")]
    Id {
        /// The type.
        kind: &'static str,
        /// The reason.
        source: InvalidArrivalCursor,
    },
    /// The data are not valid JSON for this type.
    #[error("a {kind} message cannot be decoded")]
    Json {
        /// The type.
        kind: &'static str,
        /// The reason.
        source: JsonError,
    },
    /// The message has no id.
    #[error("a {0} message has no id")]
    NoId(&'static str),
}

impl StreamMessage {
    /// Decodes a message from the fields of an SSE block. A block without `event:` is unknown.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(event: Option<&str>, id: Option<&str>, data: &str) -> Result<Self, MessageError> {
        match event {
            Some(kind::BYE) => Ok(Self::Bye(json(kind::BYE, data)?)),
            Some(kind::EVENT) => Ok(Self::Event(
                place(kind::EVENT, id)?,
                Box::new(json(kind::EVENT, data)?),
            )),
            Some(kind::HELLO) => Ok(Self::Hello(Box::new(json(kind::HELLO, data)?))),
            Some(kind::LAGGED) => Ok(Self::Lagged(place(kind::LAGGED, id)?, json(kind::LAGGED, data)?)),
            Some(kind::PING) => Ok(Self::Ping(place(kind::PING, id)?, json(kind::PING, data)?)),
            _ => Ok(Self::Unknown),
        }
    }
}

fn json<T: go_json::Merge>(kind: &'static str, data: &str) -> Result<T, MessageError> {
    go_json::from_slice_exact(data.as_bytes()).map_err(|source| MessageError::Json { kind, source })
}

fn place(kind: &'static str, id: Option<&str>) -> Result<ArrivalCursor, MessageError> {
    let id = id.ok_or(MessageError::NoId(kind))?;
    id.parse().map_err(|source| MessageError::Id { kind, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_by_type() {
        let id = Some("00000000000000ab:3");
        let read = |event, id, data| StreamMessage::decode(Some(event), id, data);
        assert!(matches!(
            read("ping", id, r#"{"position":9}"#),
            Ok(StreamMessage::Ping(cursor, Heartbeat { position: 9 })) if cursor.seq == 3
        ));
        assert!(matches!(read("event", id, "{}"), Ok(StreamMessage::Event(..))));
        assert!(matches!(read("later", None, "?"), Ok(StreamMessage::Unknown)));
        assert!(matches!(read("event", None, "{}"), Err(MessageError::NoId(_))));
        assert!(matches!(
            read("event", Some("17"), "{}"),
            Err(MessageError::Id { .. })
        ));
        assert!(matches!(read("event", id, "{"), Err(MessageError::Json { .. })));
        assert!(matches!(
            read("event", id, "{} {}"),
            Err(MessageError::Json { .. })
        ));
    }
}
