//! Messages that wait for their recipients.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Event;
use crate::Problem;

/// How long a message may wait for its recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Later {
    /// How long, in seconds: 1 to 2592000 (30 days), by default 604800 (7 days).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
}

/// The state of a message in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OutboxState {
    /// The recipient received it.
    Delivered,
    /// It was not delivered in time.
    Expired,
    /// It cannot be delivered by further attempts: `problem` says why.
    Refused,
    /// It is retried until it expires.
    Waiting,
}

impl OutboxState {
    /// Returns the JSON value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
        }
    }
}

/// The kind of a message in the outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum OutboxKind {
    /// A direct message: `event` is the signed event.
    #[default]
    DirectMessage,
    /// A postcard: `event` is the postcard (docs/protocol/v1.md, section 9).
    Postcard,
    /// A runtime message: `event` is the signed message (docs/protocol/v1.md, section 12).
    RuntimeMessage,
}

impl OutboxKind {
    /// Returns the JSON value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DirectMessage => "direct-message",
            Self::Postcard => "postcard",
            Self::RuntimeMessage => "runtime-message",
        }
    }
}

/// A message in the outbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutboxEntry {
    /// Its id in this outbox.
    pub id: u64,
    /// Its kind.
    #[serde(default)]
    pub kind: OutboxKind,
    /// The name of the recipient.
    pub peer: String,
    /// The nara id of the recipient, if it is known.
    #[serde(default)]
    pub peer_id: Option<String>,
    /// The key that was pinned for the recipient when the message was written. It is delivered to no other
    /// key.
    #[serde(default)]
    pub key_id: Option<String>,
    /// The id of the event, of the postcard or of the runtime message.
    pub event_id: String,
    /// The content of every attempt: by `kind`, the signed event, the postcard, or the signed runtime
    /// message.
    pub event: Event,
    /// Its state.
    pub state: OutboxState,
    /// When it was written, in Unix milliseconds.
    pub queued_at_ms: i64,
    /// When it expires, in Unix milliseconds.
    pub expires_at_ms: i64,
    /// The number of delivery attempts. While the recipient is known to be down or has no address, none is
    /// made.
    #[serde(default)]
    pub attempts: u32,
    /// The time of the last attempt, in Unix milliseconds.
    #[serde(default)]
    pub last_attempt_at_ms: Option<i64>,
    /// Whether an attempt ended without an answer after the message may have been sent: the recipient may have it.
    #[serde(default)]
    pub may_have_arrived: bool,
    /// When it was delivered or given up, in Unix milliseconds.
    #[serde(default)]
    pub finished_at_ms: Option<i64>,
    /// For a delivered direct message: whether the recipient stored it. `false`: it already had it, or does
    /// not keep it.
    #[serde(default)]
    pub stored: Option<bool>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Problem>)]
    pub problem: Option<Box<Problem>>,
    /// Whether the message survives a restart of the nara. `false`: the outbox is in memory.
    #[serde(default)]
    pub is_durable: bool,
}

/// The outbox.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutboxList {
    /// The messages, oldest first: those that wait, and the newest 256 finished ones of the last 7 days.
    pub messages: Vec<OutboxEntry>,
    /// How many of them wait.
    pub waiting: usize,
    /// Whether messages survive a restart of the nara.
    pub is_durable: bool,
}
