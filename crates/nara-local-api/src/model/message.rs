//! Messages to peers.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{Counts, Event, Later};

/// The kind of a direct message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DmKind {
    /// News about a nara.
    #[default]
    Gossip,
    /// A tease of the recipient.
    Tease,
}

impl DmKind {
    /// Returns the kind as in the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gossip => "gossip",
            Self::Tease => "tease",
        }
    }
}

/// A direct message to send: a text, or a whole event.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectMessage {
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The kind of the event.
    #[serde(default)]
    pub kind: DmKind,
    /// The nara it is about; by default the recipient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The event to send instead of a text. It gets an id and our signature if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
    /// Keep the message in the outbox if it cannot be delivered now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<Later>,
}

/// The receipt of a direct message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DirectMessageReceipt {
    /// The id of the event.
    pub event_id: String,
    /// The name of the recipient, as it reports it.
    pub recipient: String,
    /// Whether it stored the event.
    pub stored: bool,
    /// Whether its answer is verified.
    pub verified: bool,
}

/// A postcard to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Postcard {
    /// The text.
    pub message: String,
    /// The first peer; by default the first known one that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Keep the postcard in the outbox if its first peer, which `to` names, cannot be reached now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<Later>,
}

/// The receipt of a postcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PostcardReceipt {
    /// Its id.
    pub message_id: String,
    /// The peer that accepted it.
    pub first: String,
    /// Whether the peer forwarded it.
    pub passed_on: bool,
    /// Why the peer did not forward it, according to the peer.
    pub told: Option<String>,
    /// Peers that were tried before, and why they did not accept it.
    pub skipped: Vec<String>,
}

/// The state of a postcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum JourneyState {
    /// It came home.
    Home,
    /// The first peer did not forward it, as far as is known: its answer may only have been late.
    Stuck,
    /// It did not come home within 5 minutes.
    TimedOut,
    /// It is under way.
    UnderWay,
}

impl JourneyState {
    /// Returns the JSON value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Stuck => "stuck",
            Self::TimedOut => "timed-out",
            Self::UnderWay => "under-way",
        }
    }
}

/// A postcard that this nara sent, and its journey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Journey {
    /// Its id.
    pub message_id: String,
    /// Its text.
    pub message: String,
    /// When it was sent, in Unix milliseconds.
    pub sent_at_ms: i64,
    /// Its state.
    pub state: JourneyState,
    /// The first peer; empty until one accepted it.
    pub first: String,
    /// Why the first peer did not forward it, according to that peer.
    pub told: Option<String>,
    /// The last nara known to have had it, unless it is home.
    pub last_seen: Option<String>,
    /// The naras that stamped it, in order, once it is home.
    pub hops: Option<Vec<String>>,
    /// How long it travelled, in milliseconds, once it is home.
    pub took_ms: Option<u64>,
}

/// Postcards that this nara sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JourneyList {
    /// The postcards, oldest first: the newest 256 since the start.
    pub postcards: Vec<Journey>,
}

/// A runtime message to send.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutgoingMessage {
    /// Its kind, such as `stash-refresh` (docs/protocol/v1.md, section 12).
    pub kind: String,
    /// Its payload.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// Whether to wait for the reply, up to 30 s.
    #[serde(default)]
    pub wait: bool,
    /// Keep the message in the outbox if it cannot be delivered now. Its reply, if any, comes into the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<Later>,
}

/// The receipt of a runtime message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageReceipt {
    /// Its id.
    pub message_id: String,
    /// The verified reply, if it was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub reply: Option<Box<RawValue>>,
}

/// The result of an exchange of recent events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Zine {
    /// The name of the peer, as it reports it.
    pub from: String,
    /// When it created its zine, in Unix seconds.
    pub created_at_s: i64,
    /// How many events we sent.
    pub sent: usize,
    /// The acceptable events of the peer, with their trust.
    pub events: Vec<super::LiveEvent>,
    /// How many there were, by result.
    pub counts: Counts,
}
