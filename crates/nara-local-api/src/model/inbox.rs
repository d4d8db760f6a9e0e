//! What came in for the nara.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Event;

/// What a message of the inbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InboxKind {
    /// A direct message: `event`.
    DirectMessage,
    /// A postcard that passed by, or came home: `postcard`.
    Postcard,
    /// A runtime message: `message`.
    RuntimeMessage,
}

/// A verified message that a peer sent to this nara.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InboxMessage {
    /// The place behind it; the id of the server-sent event, too.
    pub cursor: String,
    /// When it arrived, in Unix milliseconds.
    pub received_at_ms: i64,
    /// What it is.
    pub kind: InboxKind,
    /// The sender: the verified name; of a runtime message, the verified nara id; of a postcard, the nara that handed it over.
    pub from: String,
    /// The event of a direct message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// The postcard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postcard: Option<ReceivedPostcard>,
    /// The runtime message, as it was sent (docs/protocol/v1.md, section 12).
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
    /// The nara that wrote it. Nothing proves this unless that nara handed it over itself (`from`).
    #[serde(default)]
    pub originator: String,
    /// The naras that stamped it, in order; this nara is the last one.
    pub hops: Vec<String>,
    /// Whether it is one of this nara, and came home.
    pub is_home: bool,
}

/// Messages of the inbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InboxPage {
    /// The messages, oldest first.
    pub messages: Vec<InboxMessage>,
    /// Where the next page begins (`after`); missing if the page is empty.
    pub next: Option<String>,
    /// How many messages were dropped unacknowledged since the start, because the inbox was full.
    pub dropped: u64,
    /// Whether the messages survive a restart of the nara. `false`: the inbox is in memory, or its file cannot be written now.
    #[serde(default)]
    pub is_durable: bool,
}

/// Which messages are done with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// The cursor of the last of them: all messages up to it leave the inbox.
    pub through: String,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledged {
    /// How many messages left the inbox.
    pub acknowledged: usize,
}
