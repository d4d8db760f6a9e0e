//! Runtime messages: the envelope of `POST /mesh/message` and its payloads (docs/protocol/v1.md, section 12).

use std::time::Duration;

use serde::ser::SerializeStruct as _;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::go_json::{self, Bytes, Field, JsonError, Merge, Timestamp, WireMap};
use crate::identity::{KeyPair, PublicKey, SealKey, VerifyError, verify_base64};
use crate::time::{UnixNanos, UnixSeconds};
use crate::wire_struct;

/// How long a caller waits for the reply to a message.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

wire_struct! {
    /// Payload of `stash:store`: asks a friend to keep a stash.
    pub struct StashStore {
        /// The nara id of the owner, under which the stash is kept.
        pub owner_id: String = "owner_id",
        /// The name of the owner.
        pub owner: String = "owner", omit,
        /// The nonce, 24 bytes.
        pub nonce: Bytes = "nonce",
        /// The stash, sealed with the owner's [`SealKey`].
        pub ciphertext: Bytes = "ciphertext",
        /// The time of sealing, in **seconds**.
        pub ts: UnixSeconds = "ts",
    }
}

wire_struct! {
    /// Payload of `stash:ack`: the answer to `stash:store`.
    pub struct StashAck {
        /// The nara id of the owner.
        pub owner_id: String = "owner_id",
        /// The time of storage, in **seconds**.
        pub stored_at: UnixSeconds = "stored_at",
        /// Whether it was stored.
        pub success: bool = "success",
        /// The reason, if it was not stored.
        pub reason: String = "reason", omit,
    }
}

wire_struct! {
    /// Payload of `stash:request`: asks for the stash back.
    pub struct StashRequest {
        /// The nara id of the owner.
        pub owner_id: String = "owner_id",
        /// A text that is repeated in the response.
        pub request_id: String = "request_id", omit,
    }
}

wire_struct! {
    /// Payload of `stash:response`: the answer to `stash:request`.
    pub struct StashResponse {
        /// The nara id of the owner.
        pub owner_id: String = "owner_id",
        /// The `request_id` of the request.
        pub request_id: String = "request_id", omit,
        /// Whether a stash is kept.
        pub found: bool = "found",
        /// The nonce, 24 bytes.
        pub nonce: Bytes = "nonce", omit,
        /// The stash.
        pub ciphertext: Bytes = "ciphertext", omit,
        /// The time of storage, in **seconds**.
        pub stored_at: UnixSeconds = "stored_at", omit,
    }
}

wire_struct! {
    /// Payload of `stash-refresh`: asks for the stash that the receiver keeps for the sender. V1 peers do not verify
    /// it.
    pub struct StashRefresh {
        /// The nara id of the owner.
        pub owner_id: String = "owner_id",
        /// The name of the owner.
        pub owner: String = "owner", omit,
    }
}

/// A payload, by kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MessagePayload {
    /// `stash:ack`
    StashAck(StashAck),
    /// `stash-refresh`
    StashRefresh(StashRefresh),
    /// `stash:request`
    StashRequest(StashRequest),
    /// `stash:response`
    StashResponse(StashResponse),
    /// `stash:store`
    StashStore(StashStore),
}

impl MessagePayload {
    /// Returns the kind on the wire.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::StashAck(_) => "stash:ack",
            Self::StashRefresh(_) => "stash-refresh",
            Self::StashRequest(_) => "stash:request",
            Self::StashResponse(_) => "stash:response",
            Self::StashStore(_) => "stash:store",
        }
    }

    /// Builds the payload of an outgoing message from its fields. This is stricter than a receiver, which skips unknown
    /// fields and drops unusable messages.
    ///
    /// # Errors
    /// [`InvalidPayload`] for a kind or a field that no receiver knows, and for a value that no receiver can use.
    pub fn from_fields(kind: &str, fields: &Map<String, Value>) -> Result<Self, InvalidPayload> {
        let payload = match kind {
            "stash:ack" => Self::StashAck(read(fields)?),
            "stash-refresh" => Self::StashRefresh(read(fields)?),
            "stash:request" => Self::StashRequest(read(fields)?),
            "stash:response" => Self::StashResponse(read(fields)?),
            "stash:store" => Self::StashStore(read(fields)?),
            _ => return Err(InvalidPayload::UnknownKind(kind.chars().take(64).collect())),
        };
        payload.check()?;
        Ok(payload)
    }

    /// Checks the fields that every receiver needs.
    fn check(&self) -> Result<(), InvalidPayload> {
        let (owner, sealed) = match self {
            Self::StashAck(ack) => (&ack.owner_id, None),
            Self::StashRefresh(refresh) => (&refresh.owner_id, None),
            Self::StashRequest(request) => (&request.owner_id, None),
            Self::StashResponse(response) => {
                let sealed = (&response.nonce, &response.ciphertext);
                (&response.owner_id, Some(sealed).filter(|_| response.found))
            }
            Self::StashStore(store) => (&store.owner_id, Some((&store.nonce, &store.ciphertext))),
        };
        if owner.is_empty() {
            return Err(InvalidPayload::field("owner_id", "it is required"));
        }
        if let Some((nonce, ciphertext)) = sealed {
            if nonce.as_slice().len() != SealKey::NONCE_LEN {
                let reason = format!("it must be {} bytes, in base64", SealKey::NONCE_LEN);
                return Err(InvalidPayload::field("nonce", reason));
            }
            if ciphertext.as_slice().is_empty() {
                return Err(InvalidPayload::field("ciphertext", "it is required"));
            }
        }
        Ok(())
    }

    fn decode(kind: &str, json: &[u8]) -> Result<Self, MessageError> {
        Ok(match kind {
            "stash:ack" => Self::StashAck(go_json::from_slice(json)?),
            "stash-refresh" => Self::StashRefresh(go_json::from_slice(json)?),
            "stash:request" => Self::StashRequest(go_json::from_slice(json)?),
            "stash:response" => Self::StashResponse(go_json::from_slice(json)?),
            "stash:store" => Self::StashStore(go_json::from_slice(json)?),
            _ => return Err(MessageError::UnknownKind(kind.chars().take(64).collect())),
        })
    }
}

impl serde::Serialize for MessagePayload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::StashAck(payload) => payload.serialize(serializer),
            Self::StashRefresh(payload) => payload.serialize(serializer),
            Self::StashRequest(payload) => payload.serialize(serializer),
            Self::StashResponse(payload) => payload.serialize(serializer),
            Self::StashStore(payload) => payload.serialize(serializer),
        }
    }
}

/// Reads the fields of a payload; unknown fields are an error.
fn read<T: WireMap + Merge>(fields: &Map<String, Value>) -> Result<T, InvalidPayload> {
    let mut payload = T::default();
    for (name, value) in fields {
        if !T::KEYS.contains(&name.as_str()) {
            let reason = format!("this kind has only {}", T::KEYS.join(", "));
            return Err(InvalidPayload::field(name, reason));
        }
        let field = Map::from_iter([(name.clone(), value.clone())]);
        let read = payload.merge(Value::Object(field));
        read.map_err(|error| InvalidPayload::field(name, error.to_string()))?;
    }
    Ok(payload)
}

/// The error for a payload that must not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPayload {
    /// A field is unknown to receivers, or its value is unusable.
    #[error("{name}: {reason}")]
    Field {
        /// The name of the field.
        name: String,
        /// The reason.
        reason: String,
    },
    /// This version does not know the kind.
    #[error("unknown kind {0:?}")]
    UnknownKind(String),
}

impl InvalidPayload {
    fn field(name: &str, reason: impl Into<String>) -> Self {
        Self::Field {
            name: name.chars().take(64).collect(),
            reason: reason.into(),
        }
    }
}

/// The error for a message that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is not JSON, has a value of the wrong type, or has trailing bytes.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It has no payload.
    #[error("the message has no payload")]
    MissingPayload,
    /// This version does not know the kind.
    #[error("unknown kind {0:?}")]
    UnknownKind(String),
    /// This version does not know the version of the kind.
    #[error("unsupported version {version} of {kind} (only 1 exists)")]
    UnsupportedVersion {
        /// The kind.
        kind: String,
        /// The version.
        version: i64,
    },
}

wire_struct! {
    /// The envelope in its JSON form; [`RuntimeMessage`] is the decoded form.
    pub struct Envelope {
        /// id
        pub id: String = "id",
        /// content key
        pub content_key: String = "content_key", omit,
        /// kind
        pub kind: String = "kind",
        /// version
        pub version: i64 = "version",
        /// sender's name
        pub from: String = "from", omit,
        /// sender's id
        pub from_id: String = "from_id",
        /// recipient's name
        pub to: String = "to", omit,
        /// recipient's id
        pub to_id: String = "to_id", omit,
        /// time of sending
        pub timestamp: Timestamp = "timestamp",
        /// payload, not yet decoded
        pub payload: RawPayload = "payload",
        /// signature
        pub signature: String = "signature", omit,
        /// id of the message that this one answers
        pub in_reply_to: String = "in_reply_to", omit,
    }
}

/// The text of a payload whose kind is not decoded yet.
#[derive(Clone, Debug, Default)]
pub struct RawPayload(Option<Box<RawValue>>);

impl PartialEq for RawPayload {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_deref().map(RawValue::get) == other.0.as_deref().map(RawValue::get)
    }
}

impl Merge for RawPayload {
    fn merge<'de, D: serde::Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        self.0 = Some(serde::Deserialize::deserialize(deserializer)?);
        Ok(())
    }
}

impl serde::Serialize for RawPayload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Field for RawPayload {
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    fn most_bytes(&self) -> usize {
        // `null`
        self.0.as_ref().map_or(4, |text| text.get().len())
    }
}

/// A runtime message.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeMessage {
    /// The id: 16 characters; see [`RuntimeMessage::compute_id`].
    pub id: String,
    /// A key for deduplication; not signed.
    pub content_key: String,
    /// The version of the payload as sent; 0 counts as 1. Not signed.
    pub version: i64,
    /// The name of the sender; not signed.
    pub from: String,
    /// The nara id of the sender.
    pub from_id: String,
    /// The name of the recipient; not signed.
    pub to: String,
    /// The nara id of the recipient; may be empty.
    pub to_id: String,
    /// The time of sending.
    pub timestamp: Timestamp,
    /// The payload.
    pub payload: MessagePayload,
    /// The signature, base64.
    pub signature: String,
    /// The id of the message that this one answers; not signed.
    pub in_reply_to: String,
}

impl RuntimeMessage {
    /// Returns a new unsigned message, version 1, with its id.
    pub fn new(from: &str, from_id: &str, timestamp: Timestamp, payload: MessagePayload) -> Self {
        let mut message = Self {
            id: String::new(),
            content_key: String::new(),
            version: 1,
            from: from.to_owned(),
            from_id: from_id.to_owned(),
            to: String::new(),
            to_id: String::new(),
            timestamp,
            payload,
            signature: String::new(),
            in_reply_to: String::new(),
        };
        message.id = message.compute_id();
        message
    }

    /// Addresses the message to a nara.
    #[must_use]
    pub fn to(mut self, name: &str, id: &str) -> Self {
        name.clone_into(&mut self.to);
        id.clone_into(&mut self.to_id);
        self
    }

    /// Signs the message.
    #[must_use]
    pub fn sign(mut self, keypair: &KeyPair) -> Self {
        self.signature = keypair.sign(&self.signed_json()).to_base64();
        self
    }

    /// Returns a signed reply to this message.
    pub fn reply(
        &self,
        from: &str,
        from_id: &str,
        now: UnixNanos,
        payload: MessagePayload,
        keypair: &KeyPair,
    ) -> Self {
        let mut reply = Self::new(from, from_id, Timestamp::utc(now), payload).to(&self.from, &self.from_id);
        reply.in_reply_to.clone_from(&self.id);
        reply.sign(keypair)
    }

    /// Reads a message as exactly one JSON value: trailing bytes are an error.
    ///
    /// # Errors
    /// [`MessageError`] for a message that must not be processed.
    pub fn from_json(json: &[u8]) -> Result<Self, MessageError> {
        let envelope: Envelope = go_json::from_slice_exact(json)?;
        let payload = envelope.payload.0.ok_or(MessageError::MissingPayload)?;
        let payload = MessagePayload::decode(&envelope.kind, payload.get().as_bytes())?;
        if !matches!(envelope.version, 0 | 1) {
            return Err(MessageError::UnsupportedVersion {
                kind: envelope.kind,
                version: envelope.version,
            });
        }
        Ok(Self {
            id: envelope.id,
            content_key: envelope.content_key,
            version: envelope.version,
            from: envelope.from,
            from_id: envelope.from_id,
            to: envelope.to,
            to_id: envelope.to_id,
            timestamp: envelope.timestamp,
            payload,
            signature: envelope.signature,
            in_reply_to: envelope.in_reply_to,
        })
    }

    /// Writes the message as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let payload = RawValue::from_string(go_json::to_string(&self.payload));
        go_json::to_vec(&Envelope {
            id: self.id.clone(),
            content_key: self.content_key.clone(),
            kind: self.payload.kind().to_owned(),
            version: self.version,
            from: self.from.clone(),
            from_id: self.from_id.clone(),
            to: self.to.clone(),
            to_id: self.to_id.clone(),
            timestamp: self.timestamp,
            payload: RawPayload(Some(payload.expect("a payload is written as JSON"))),
            signature: self.signature.clone(),
            in_reply_to: self.in_reply_to.clone(),
        })
    }

    /// Returns the text whose hash gives the id: kind, sender, time and payload, without separators.
    pub fn id_preimage(&self) -> String {
        let payload = go_json::to_string(&self.payload);
        format!(
            "{}{}{}{payload}",
            self.payload.kind(),
            self.from_id,
            self.timestamp
        )
    }

    /// Computes the id from the content: the first 16 characters of Base58 of a SHA-256.
    pub fn compute_id(&self) -> String {
        let mut id = bs58::encode(Sha256::digest(self.id_preimage())).into_string();
        id.truncate(16);
        id
    }

    /// Returns the JSON that is signed, before hashing. The receiver writes it again from the parsed message, so the
    /// spelling on the wire does not matter.
    pub fn signed_json(&self) -> Vec<u8> {
        go_json::to_vec(&Signed(self))
    }

    /// Verifies the signature with the key of the nara `from_id`.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not that nara's.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        verify_base64(key, &self.signed_json(), &self.signature)
    }
}

struct Signed<'a>(&'a RuntimeMessage);

impl serde::Serialize for Signed<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.0;
        let mut object = serializer.serialize_struct("SignedMessage", 6)?;
        object.serialize_field("id", &message.id)?;
        object.serialize_field("kind", message.payload.kind())?;
        object.serialize_field("from_id", &message.from_id)?;
        if !message.to_id.is_empty() {
            object.serialize_field("to_id", &message.to_id)?;
        }
        object.serialize_field("timestamp", &message.timestamp)?;
        object.serialize_field("payload", &message.payload)?;
        object.end()
    }
}

/// Returns the `reason` of [`StashAck`] if a stash must not be stored; `None` if it may be stored.
pub fn stash_refusal(store: &StashStore) -> Option<&'static str> {
    if store.owner_id.is_empty() {
        Some("owner_id required")
    } else if store.nonce.as_slice().len() != SealKey::NONCE_LEN {
        Some("nonce must be 24 bytes for XChaCha20-Poly1305")
    } else if store.ciphertext.as_slice().is_empty() {
        Some("ciphertext required")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: &str, payload: Value) -> Result<MessagePayload, InvalidPayload> {
        let Value::Object(fields) = payload else {
            panic!("{payload}")
        };
        MessagePayload::from_fields(kind, &fields)
    }

    #[test]
    fn an_outgoing_payload_is_usable_by_every_receiver() {
        let nonce = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let store = json!({ "owner_id": "a", "nonce": nonce, "ciphertext": "AA==", "ts": 1 });
        let without = |name: &str| {
            let mut fields = store.clone();
            fields.as_object_mut().unwrap().remove(name);
            fields
        };
        let with = |name: &str, value: Value| {
            let mut fields = store.clone();
            fields[name] = value;
            fields
        };
        assert_eq!(read("stash:store", store.clone()).unwrap().kind(), "stash:store");
        for (fields, wrong) in [
            (without("owner_id"), "owner_id"),
            (without("nonce"), "nonce"),
            (without("ciphertext"), "ciphertext"),
            (with("owner_id", json!(5)), "owner_id"),
            (with("owner_id", json!("")), "owner_id"),
            (with("nonce", json!("AAAA")), "nonce"),
            (with("nonce", json!("?")), "nonce"),
            (with("nonce", Value::Null), "nonce"),
            (with("ts", json!("now")), "ts"),
            (with("cipher", json!("AA==")), "cipher"),
            // Some receivers would accept it and others would not.
            (with("Owner_ID", json!("b")), "Owner_ID"),
        ] {
            match read("stash:store", fields.clone()) {
                Err(InvalidPayload::Field { name, .. }) => assert_eq!(name, wrong, "{fields}"),
                other => panic!("{fields}: {other:?}"),
            }
        }
        for kind in ["stash:ack", "stash-refresh", "stash:request", "stash:response"] {
            assert!(read(kind, json!({ "owner_id": "a" })).is_ok(), "{kind}");
            assert!(read(kind, json!({})).is_err(), "{kind}");
        }
        assert!(read("stash:response", json!({ "owner_id": "a", "found": true })).is_err());
        let unknown = read("stash:refresh", json!({ "owner_id": "a" }));
        assert_eq!(
            unknown,
            Err(InvalidPayload::UnknownKind("stash:refresh".to_owned()))
        );
    }
}
