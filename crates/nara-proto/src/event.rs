//! Events: the memory of a nara (docs/protocol/v1.md, section 8).
//!
//! An event has an envelope, one payload that matches its service, an id that is a hash of its time, service and
//! content, and usually a signature of its emitter.

mod batch;
mod checked;
mod claims;
mod content;
mod covered;
mod keys;
mod payload;
mod validity;
pub(crate) mod voters;

pub use batch::{
    EventProblem, EventReception, EventTrust, EventVerdict, MAX_EVENT_BYTES, MAX_EVENT_LEAD, verify_events,
};
pub use checked::{CheckedEvent, CheckedEvents, RefusedEvent};
pub use keys::{KeyLookup, KeyStanding};
pub use payload::{
    ChauPayload, CheckpointPayload, HeyTherePayload, Observation, ObservationPayload, PingPayload,
    SeenPayload, SocialPayload, SuccessionPayload,
};
pub use validity::InvalidEvent;

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::identity::{KeyPair, PublicKey, VerifyError, verify_base64};
use crate::time::UnixNanos;
use crate::wire_struct;

/// The service of an event, which decides its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Service {
    /// A nara says goodbye.
    Chau,
    /// A checkpoint that several naras signed.
    Checkpoint,
    /// A nara introduces itself.
    HeyThere,
    /// A nara observed the state of another.
    Observation,
    /// A measured round trip.
    Ping,
    /// A nara came across another.
    Seen,
    /// Teasing and gossip.
    Social,
    /// A key of a nara is replaced or retired. V1 peers ignore it.
    Succession,
}

impl Service {
    /// All services, in the order of their wire names.
    pub const ALL: [Self; 8] = [
        Self::Chau,
        Self::Checkpoint,
        Self::HeyThere,
        Self::Observation,
        Self::Ping,
        Self::Seen,
        Self::Social,
        Self::Succession,
    ];

    /// Returns the wire name of the service, as in `svc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chau => "chau",
            Self::Checkpoint => "checkpoint",
            Self::HeyThere => "hey-there",
            Self::Observation => "observation",
            Self::Ping => "ping",
            Self::Seen => "seen",
            Self::Social => "social",
            Self::Succession => "succession",
        }
    }

    /// Returns the service with this wire name; `None` if unknown.
    pub fn from_wire(svc: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|service| service.as_str() == svc)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

wire_struct! {
    /// An event in its wire form (docs/protocol/v1.md, section 8.1).
    ///
    /// The fields are as the peer sent them and are unchecked until [`SyncEvent::validate`],
    /// [`SyncEvent::has_genuine_id`] and [`SyncEvent::verify`], or [`verify_events`] for many.
    pub struct SyncEvent {
        /// The id: 32 hexadecimal characters.
        pub id: String = "id",
        /// The time of the event, in **nanoseconds**.
        pub ts: UnixNanos = "ts",
        /// The service; see [`Service`].
        pub svc: String = "svc",
        /// The name of the signer; empty if the event is unsigned.
        pub emitter: String = "emitter", omit,
        /// The id of the signer. Covered by neither id nor signature.
        pub emitter_id: String = "emitter_id", omit,
        /// The signature: base64, empty if the event is unsigned.
        pub sig: String = "sig", omit,
        /// The payload of service `social`.
        pub social: Option<Box<SocialPayload>> = "social", omit,
        /// The payload of service `ping`.
        pub ping: Option<Box<PingPayload>> = "ping", omit,
        /// The payload of service `observation`.
        pub observation: Option<Box<ObservationPayload>> = "observation", omit,
        /// The payload of service `hey-there`.
        pub hey_there: Option<Box<HeyTherePayload>> = "hey_there", omit,
        /// The payload of service `chau`.
        pub chau: Option<Box<ChauPayload>> = "chau", omit,
        /// The payload of service `seen`.
        pub seen: Option<Box<SeenPayload>> = "seen", omit,
        /// The payload of service `checkpoint`.
        pub checkpoint: Option<Box<CheckpointPayload>> = "checkpoint", omit,
        /// The payload of service `succession`.
        pub succession: Option<Box<SuccessionPayload>> = "succession", omit,
    }
}

/// The payload of an event, by service.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Payload {
    /// A nara says goodbye.
    Chau(ChauPayload),
    /// A checkpoint that several naras signed.
    Checkpoint(CheckpointPayload),
    /// A nara introduces itself.
    HeyThere(HeyTherePayload),
    /// A nara observed the state of another.
    Observation(ObservationPayload),
    /// A measured round trip.
    Ping(PingPayload),
    /// A nara came across another.
    Seen(SeenPayload),
    /// Teasing and gossip.
    Social(SocialPayload),
    /// A key of a nara is replaced or retired.
    Succession(SuccessionPayload),
}

impl SyncEvent {
    /// Returns a new event without emitter and signature, with its id.
    pub fn new(ts: UnixNanos, payload: Payload) -> Self {
        let mut event = Self {
            ts,
            ..Self::default()
        };
        let service = match payload {
            Payload::Chau(payload) => {
                event.chau = Some(Box::new(payload));
                Service::Chau
            }
            Payload::Checkpoint(payload) => {
                event.checkpoint = Some(Box::new(payload));
                Service::Checkpoint
            }
            Payload::HeyThere(payload) => {
                event.hey_there = Some(Box::new(payload));
                Service::HeyThere
            }
            Payload::Observation(payload) => {
                event.observation = Some(Box::new(payload));
                Service::Observation
            }
            Payload::Ping(payload) => {
                event.ping = Some(Box::new(payload));
                Service::Ping
            }
            Payload::Seen(payload) => {
                event.seen = Some(Box::new(payload));
                Service::Seen
            }
            Payload::Social(payload) => {
                event.social = Some(Box::new(payload));
                Service::Social
            }
            Payload::Succession(payload) => {
                event.succession = Some(Box::new(payload));
                Service::Succession
            }
        };
        service.as_str().clone_into(&mut event.svc);
        event.id = event.compute_id();
        event
    }

    /// Returns a new event, signed by `emitter`.
    pub fn signed(ts: UnixNanos, payload: Payload, emitter: &str, keypair: &KeyPair) -> Self {
        let mut event = Self::new(ts, payload);
        event.sign(emitter, keypair);
        event
    }

    /// Returns a new event, signed by `emitter`, whose payload contains text of a third party.
    ///
    /// # Errors
    /// [`EventProblem`], before anything is signed, if no receiver would accept the event: its emitter is not the
    /// actor, a name is invalid, or its text could be split into other fields. So a peer cannot obtain a signature over
    /// a text with another meaning.
    pub fn try_signed(
        ts: UnixNanos,
        payload: Payload,
        emitter: &str,
        keypair: &KeyPair,
    ) -> Result<Self, EventProblem> {
        let mut event = Self::new(ts, payload);
        emitter.clone_into(&mut event.emitter);
        claims::check(&event, &event.content())?;
        event.sign(emitter, keypair);
        Ok(event)
    }

    /// Signs this event as `emitter`, over its current id.
    pub fn sign(&mut self, emitter: &str, keypair: &KeyPair) {
        emitter.clone_into(&mut self.emitter);
        self.sig = keypair.sign(&self.signing_digest()).to_base64();
    }

    /// Returns the service; `None` if unknown.
    pub fn service(&self) -> Option<Service> {
        Service::from_wire(&self.svc)
    }

    /// Returns the content string, from which id and signature are made (docs/protocol/v1.md, section 8.4); empty for
    /// an unknown service or a missing payload.
    pub fn content(&self) -> String {
        content::content(self)
    }

    /// Returns the text whose hash is the id: `"{ts}:{svc}:{content}"`.
    pub fn id_preimage(&self) -> String {
        format!("{}:{}:{}", self.ts, self.svc, self.content())
    }

    /// Computes the id from time, service and content.
    pub fn compute_id(&self) -> String {
        let digits = id_digits(self.ts, &self.svc, &self.content());
        String::from_utf8(digits.to_vec()).expect("digits are ASCII")
    }

    /// Returns whether the id of the event matches its content.
    ///
    /// V1 peers never check it; without this check a peer could give an event the id of another event and so keep the
    /// other out of every ledger.
    pub fn has_genuine_id(&self) -> bool {
        self.id == self.compute_id()
    }

    /// Returns the text whose hash is signed: `"{id}:{ts}:{svc}:{emitter}:{content}"`.
    pub fn signing_preimage(&self) -> String {
        signing_preimage(self, &self.content())
    }

    /// Returns the SHA-256 digest that is signed.
    pub fn signing_digest(&self) -> [u8; 32] {
        Sha256::digest(self.signing_preimage()).into()
    }

    /// Returns whether the event has a signature.
    pub fn is_signed(&self) -> bool {
        !self.sig.is_empty()
    }

    /// Verifies the signature of the envelope with the emitter's key.
    ///
    /// The id is not checked; see [`SyncEvent::has_genuine_id`].
    ///
    /// # Errors
    /// [`VerifyError`] if the event is unsigned or the signature is not the emitter's.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        verify_base64(key, &self.signing_digest(), &self.sig)
    }

    /// Verifies a `hey-there` or `chau` with the key in its payload. This proves that the emitter holds that key, not
    /// that the key belongs to the name.
    ///
    /// # Errors
    /// [`VerifyError`] for another service, a missing payload or key, or a signature of another key.
    pub fn verify_with_embedded_key(&self) -> Result<(), VerifyError> {
        self.verify(&self.embedded_key().ok_or(VerifyError)?)
    }

    /// Returns the public key in a `hey-there` or `chau`.
    pub fn embedded_key(&self) -> Option<PublicKey> {
        let key = match self.service()? {
            Service::HeyThere => &self.hey_there.as_ref()?.public_key,
            Service::Chau => &self.chau.as_ref()?.public_key,
            _ => return None,
        };
        PublicKey::from_base64(key).ok()
    }

    /// Returns the actor (docs/protocol/v1.md, section 8.2), or an empty string.
    pub fn actor(&self) -> &str {
        self.actor_and_target().0
    }

    /// Returns the target (docs/protocol/v1.md, section 8.2), or an empty string.
    pub fn target(&self) -> &str {
        self.actor_and_target().1
    }

    fn actor_and_target(&self) -> (&str, &str) {
        fn of(event: &SyncEvent) -> Option<(&str, &str)> {
            Some(match event.service()? {
                Service::Social => event
                    .social
                    .as_deref()
                    .map(|p| (p.actor.as_str(), p.target.as_str()))?,
                Service::Ping => event
                    .ping
                    .as_deref()
                    .map(|p| (p.observer.as_str(), p.target.as_str()))?,
                Service::Observation => event
                    .observation
                    .as_deref()
                    .map(|p| (p.observer.as_str(), p.subject.as_str()))?,
                Service::Seen => event
                    .seen
                    .as_deref()
                    .map(|p| (p.observer.as_str(), p.subject.as_str()))?,
                Service::HeyThere => event
                    .hey_there
                    .as_deref()
                    .map(|p| (p.from.as_str(), p.from.as_str()))?,
                Service::Chau => event
                    .chau
                    .as_deref()
                    .map(|p| (p.from.as_str(), p.from.as_str()))?,
                Service::Checkpoint => event.checkpoint.as_deref().map(|p| ("", p.subject.as_str()))?,
                Service::Succession => event
                    .succession
                    .as_deref()
                    .map(|p| (p.name.as_str(), p.name.as_str()))?,
            })
        }
        of(self).unwrap_or_default()
    }

    /// Checks everything that [`verify_events`] checks except time and signature, for an event whose signature is
    /// verified otherwise.
    ///
    /// # Errors
    /// [`EventProblem`] says what is wrong.
    pub fn check_claims(&self) -> Result<(), EventProblem> {
        claims::check(self, &self.content()).map(drop)
    }

    /// Removes each field that neither id nor signature covers, or sets it to the value that follows from the covered
    /// fields. [`verify_events`] applies this to verified events.
    pub fn remove_uncovered(&mut self) {
        covered::remove_uncovered(self);
    }

    /// Checks that the event is well formed and may be stored (docs/protocol/v1.md, section 8.3). Signatures are not
    /// checked.
    ///
    /// # Errors
    /// [`InvalidEvent`] says which rule the event breaks.
    pub fn validate(&self) -> Result<(), InvalidEvent> {
        validity::validate(self)
    }
}

/// Returns the hexadecimal digits of an id.
fn id_digits(ts: UnixNanos, svc: &str, content: &str) -> [u8; 32] {
    let ts = ts.to_string();
    let hash = Sha256::digest([&ts, svc, content].join(":"));
    let mut digits = [0; 32];
    hex::encode_to_slice(&hash[..16], &mut digits).expect("there is room for two digits each");
    digits
}

fn signing_preimage(event: &SyncEvent, content: &str) -> String {
    let ts = event.ts.to_string();
    [&event.id, &ts, &event.svc, &event.emitter, content].join(":")
}

#[cfg(test)]
mod tests;
