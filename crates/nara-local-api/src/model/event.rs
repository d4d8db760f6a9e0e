//! Events.

use nara_mesh::client::{StreamError, VerifiedEvent};
use nara_mesh::ledger::{Arrival, CheckedEvent};
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::go_json::{self, JsonError};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::Cursor;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A signed event, in the form of docs/protocol/v1.md, section 8.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object)]
pub struct Event(Box<RawValue>);

impl Event {
    /// Encodes an event.
    pub fn of(event: &SyncEvent) -> Self {
        Self::from_json(go_json::to_string(event))
    }

    /// Decodes the event.
    ///
    /// # Errors
    /// [`JsonError`] if it is malformed.
    pub fn decode(&self) -> Result<SyncEvent, JsonError> {
        go_json::from_slice(self.0.get().as_bytes())
    }

    /// Wraps other JSON that takes the place of an event.
    pub(crate) fn from_json(json: String) -> Self {
        Self(RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// Returns the JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

/// Returns the word for a trust: `verified`, `unknown-key` or `unsigned`.
pub fn trust_word(trust: EventTrust) -> &'static str {
    match trust {
        EventTrust::Verified => "verified",
        EventTrust::UnknownKey => "unknown-key",
        _ => "unsigned",
    }
}

/// Events of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// The events.
    pub events: Vec<Event>,
    /// The trust of each, in the same order: `verified`, `unknown-key` or `unsigned`.
    #[serde(default)]
    pub trust: Vec<String>,
    /// The start of the next page (`after`); missing if the page is empty.
    pub next: Option<String>,
}

impl EventPage {
    pub(crate) fn of(events: &[CheckedEvent], next: Option<Cursor>) -> Self {
        Self {
            events: events.iter().map(|checked| Event::of(&checked.event)).collect(),
            trust: events
                .iter()
                .map(|checked| trust_word(checked.trust).to_owned())
                .collect(),
            next: next.map(|next| next.to_string()),
        }
    }
}

/// An event as it arrives. The id of the server-sent event is also the cursor.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct LiveEvent {
    /// The cursor after it; missing if the peer has no streams.
    pub cursor: Option<String>,
    /// Its trust: `verified`, `unknown-key` or `unsigned`.
    pub trust: String,
    /// The peer that it was received from, if any.
    pub origin: Option<String>,
    /// The event.
    pub event: Event,
}

impl LiveEvent {
    /// Describes an event that arrived in our ledger.
    pub(crate) fn arrived(arrival: &Arrival, at: ArrivalCursor) -> Self {
        Self {
            cursor: Some(at.to_string()),
            trust: trust_word(arrival.trust).to_owned(),
            origin: arrival.origin.as_ref().map(ToString::to_string),
            event: Event::of(&arrival.event),
        }
    }

    /// Describes an event reported by a peer.
    pub(crate) fn told(event: &SyncEvent, trust: &str) -> Self {
        Self {
            cursor: None,
            trust: trust.to_owned(),
            origin: None,
            event: Event::of(event),
        }
    }

    /// Describes a verified event of a peer's stream.
    pub(crate) fn verified(verified: &VerifiedEvent) -> Self {
        Self {
            cursor: verified.cursor.map(|cursor| cursor.to_string()),
            trust: trust_word(verified.trust).to_owned(),
            origin: None,
            event: Event::of(&verified.event),
        }
    }
}

/// An event that must not be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedEvent {
    /// Its claimed id.
    pub id: String,
    /// Its claimed emitter.
    pub emitter: String,
    /// Why it is refused.
    pub problem: String,
}

impl RefusedEvent {
    /// Describes an event that verification refused.
    pub fn of(refused: &nara_mesh::client::RefusedEvent) -> Self {
        Self {
            id: refused.id.clone(),
            emitter: refused.emitter.clone(),
            problem: refused.problem.to_string(),
        }
    }
}

/// A failure of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamFault {
    /// The failure, as one sentence.
    pub text: String,
    /// The cause.
    pub cause: Option<String>,
    /// Whether the stream ends with it.
    pub is_final: bool,
    /// The refused event, if any.
    pub refused: Option<RefusedEvent>,
    /// Why the peer cannot be called, if the stream ended for that reason.
    pub problem: Option<crate::Problem>,
}

impl StreamFault {
    /// Describes an error of a subscription.
    pub fn of(error: &StreamError) -> Self {
        let refused = match error {
            StreamError::Refused { event, .. } => Some(RefusedEvent::of(event)),
            _ => None,
        };
        let problem = match error {
            StreamError::Call(error) | StreamError::Unauthenticated(error) => Some(error.into()),
            _ => None,
        };
        Self {
            text: error.to_string(),
            cause: std::error::Error::source(error).map(ToString::to_string),
            is_final: error.is_final(),
            refused,
            problem,
        }
    }
}

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    /// In words, such as `live`.
    pub state: String,
}
