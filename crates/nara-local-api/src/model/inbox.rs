//! Incoming messages.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Event;

/// The kind of a message in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InboxKind {
    /// A direct message: `event`.
    DirectMessage,
    /// A postcard that passed through, or came home: `postcard`.
    Postcard,
    /// A runtime message: `message`.
    RuntimeMessage,
}

/// A verified message that a peer sent to this nara.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InboxMessage {
    /// The cursor after it; also the id of the server-sent event.
    pub cursor: String,
    /// When it arrived, in Unix milliseconds.
    pub received_at_ms: i64,
    /// Its kind.
    pub kind: InboxKind,
    /// The sender: the verified name; for a runtime message, the verified nara id; for a postcard, the nara
    /// that handed it over.
    pub from: String,
    /// The event of a direct message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// The postcard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcard: Option<ReceivedPostcard>,
    /// The runtime message as sent (docs/protocol/v1.md, section 12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub message: Option<Box<RawValue>>,
}

/// A postcard that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceivedPostcard {
    /// Its id.
    pub message_id: String,
    /// Its text.
    pub message: String,
    /// The claimed author. It is proven only if the author handed the postcard over itself (`from`).
    #[serde(default)]
    pub originator: String,
    /// The naras that stamped it, in order; this nara is the last one.
    pub hops: Vec<String>,
    /// Whether this nara sent it and it came home.
    pub is_home: bool,
}

/// Messages of the inbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InboxPage {
    /// The messages, oldest first.
    pub messages: Vec<InboxMessage>,
    /// The start of the next page (`after`); missing if the page is empty.
    pub next: Option<String>,
    /// How many messages were dropped unacknowledged since the start, because the inbox was full.
    pub dropped: u64,
    /// Whether the messages survive a restart of the nara. `false`: the inbox is in memory, or its file cannot be written now.
    #[serde(default)]
    pub is_durable: bool,
}

/// Messages to remove from the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// The cursor of the last message: all messages up to it are removed from the inbox.
    pub through: String,
}

/// The result of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    /// How many messages were removed from the inbox.
    pub acknowledged: usize,
}
