//! Succession: a nara replaces its key or retires (docs/protocol/succession.md).
//!
//! A [`Succession`] states that one key of a name is replaced by another, or by none. Both keys sign it, so neither a
//! thief of the new key nor an impostor that wants to take over the name can make it alone. It travels as an event of
//! service `succession`, which v1 peers ignore, and contains its own proof, so it does not matter which peer
//! forwards it. It may be made long before it is used and kept on paper ([`Succession::to_words`]).
//!
//! [`Lineage`] evaluates all statements about one name.
//!
//! ```
//! use nara_proto::identity::{KeyPair, NaraName, Soul};
//! use nara_proto::succession::{Lineage, Step, Succession};
//! use nara_proto::time::UnixMillis;
//!
//! let name: NaraName = "alice".parse()?;
//! let old = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
//! let new = KeyPair::from_soul(&Soul::bond([2; 32], "alice"));
//! let statement = Succession::rotate(&name, &old, &new, UnixMillis::new(1_769_100_000_250))?;
//!
//! let mut lineage = Lineage::new(name, old.public_key());
//! assert_eq!(lineage.observe(&statement), Ok(Step::Followed(new.public_key())));
//! assert!(lineage.is_replaced(&old.public_key()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod lineage;
mod words;

pub use lineage::{KeyState, Lineage, Step, Unrelated};
pub use words::InvalidWords;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::event::{Payload, SuccessionPayload, SyncEvent};
use crate::identity::{InvalidName, KeyPair, NaraName, PublicKey, Signature};
use crate::time::UnixMillis;
use crate::{encoding, go_json};

/// The request header in which a nara shows the statements that lead to its current key (docs/protocol/succession.md,
/// section 3.1).
pub const SUCCESSION_HEADER: HeaderName = HeaderName::from_static("x-nara-succession");

/// The header of a refusal with the id of the key that the server has pinned for the sender's name, or [`NO_KEY`]
/// (docs/protocol/succession.md, section 3.3).
pub const KNOWN_KEY_HEADER: HeaderName = HeaderName::from_static("x-nara-known-key");

/// The value of [`KNOWN_KEY_HEADER`] if no key is valid for the name.
pub const NO_KEY: &str = "none";

/// The maximum length of [`SUCCESSION_HEADER`], in bytes: a dozen statements of a usual name, or one of the longest
/// name.
const MAX_HEADER: usize = 8 << 10;

/// A statement about a key. It is verified: every value of this type is signed by its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    name: NaraName,
    old: PublicKey,
    old_signature: Signature,
    new: Option<(PublicKey, Signature)>,
    at: UnixMillis,
}

/// The error for a text that is not a statement of succession.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSuccession {
    /// It is not signed by both keys.
    #[error("the statement is not signed by both keys")]
    BadSignature,
    /// A key or a signature is not canonical.
    #[error("{0} of the statement is malformed")]
    Malformed(&'static str),
    /// The name is invalid.
    #[error("the statement names no nara: {0}")]
    Name(#[from] InvalidName),
    /// The reason does not match the keys: `rotation` has a new key, `retirement` has none.
    #[error("the reason of the statement does not fit its keys")]
    Reason,
    /// The new key equals the old one.
    #[error("the new key is the old one")]
    SameKey,
    /// The time of the event differs from the time of the statement.
    #[error("the time of the event is not the time of the statement")]
    Time,
}

impl Succession {
    const ROTATION: &str = "rotation";
    const RETIREMENT: &str = "retirement";

    /// States that from `at` on `new` is the key of this name and `old` is not.
    ///
    /// # Errors
    /// [`InvalidSuccession::SameKey`].
    pub fn rotate(
        name: &NaraName,
        old: &KeyPair,
        new: &KeyPair,
        at: UnixMillis,
    ) -> Result<Self, InvalidSuccession> {
        let (old_key, new_key) = (old.public_key(), new.public_key());
        if old_key == new_key {
            return Err(InvalidSuccession::SameKey);
        }
        let text = signed_text(name, &old_key, Some(&new_key), at);
        Ok(Self {
            name: name.clone(),
            old: old_key,
            old_signature: old.sign(text.as_bytes()),
            new: Some((new_key, new.sign(text.as_bytes()))),
            at,
        })
    }

    /// States that from `at` on this name has no key: everything signed with `old` must be refused.
    pub fn retire(name: &NaraName, old: &KeyPair, at: UnixMillis) -> Self {
        let key = old.public_key();
        Self {
            name: name.clone(),
            old: key,
            old_signature: old.sign(signed_text(name, &key, None, at).as_bytes()),
            new: None,
            at,
        }
    }

    /// Parses the payload of an event, and verifies both signatures.
    ///
    /// # Errors
    /// [`InvalidSuccession`].
    pub fn from_payload(payload: &SuccessionPayload) -> Result<Self, InvalidSuccession> {
        Self::unverified(payload)?.verified()
    }

    /// Parses a payload without verifying it.
    fn unverified(payload: &SuccessionPayload) -> Result<Self, InvalidSuccession> {
        let new = match (payload.reason.as_str(), payload.new_key.is_empty()) {
            (Self::ROTATION, false) => Some((
                key(&payload.new_key, "new_key")?,
                signature(&payload.new_sig, "new_sig")?,
            )),
            (Self::RETIREMENT, true) if payload.new_sig.is_empty() => None,
            _ => return Err(InvalidSuccession::Reason),
        };
        Ok(Self {
            name: NaraName::new(&payload.name)?,
            old: key(&payload.old_key, "old_key")?,
            old_signature: signature(&payload.old_sig, "old_sig")?,
            new,
            at: payload.at,
        })
    }

    /// Parses an event of service `succession`. Its time must equal the time of the statement, so that all copies have
    /// one id.
    ///
    /// # Errors
    /// [`InvalidSuccession`]; a missing payload is malformed.
    pub fn from_event(event: &SyncEvent) -> Result<Self, InvalidSuccession> {
        let payload = event.succession.as_deref();
        let payload = payload.ok_or(InvalidSuccession::Malformed("the payload"))?;
        if event.ts != payload.at.to_nanos() {
            return Err(InvalidSuccession::Time);
        }
        Self::from_payload(payload)
    }

    fn verified(self) -> Result<Self, InvalidSuccession> {
        let new_key = self.new_key();
        if new_key == Some(&self.old) {
            return Err(InvalidSuccession::SameKey);
        }
        let text = signed_text(&self.name, &self.old, new_key, self.at);
        let verify = |key: &PublicKey, signature: &Signature| {
            key.verify(text.as_bytes(), signature)
                .map_err(|_| InvalidSuccession::BadSignature)
        };
        verify(&self.old, &self.old_signature)?;
        if let Some((key, signature)) = &self.new {
            verify(key, signature)?;
        }
        Ok(self)
    }

    /// Returns the payload of an event.
    pub fn to_payload(&self) -> SuccessionPayload {
        let new = self.new.as_ref();
        SuccessionPayload {
            name: self.name.as_str().to_owned(),
            old_key: self.old.to_base64(),
            new_key: new.map(|(key, _)| key.to_base64()).unwrap_or_default(),
            at: self.at,
            reason: reason(new.is_some()).to_owned(),
            old_sig: self.old_signature.to_base64(),
            new_sig: new
                .map(|(_, signature)| signature.to_base64())
                .unwrap_or_default(),
        }
    }

    /// Returns the event in which it spreads, with an unsigned envelope.
    pub fn to_event(&self) -> SyncEvent {
        SyncEvent::new(self.at.to_nanos(), Payload::Succession(self.to_payload()))
    }

    /// Parses the header with which a nara proves, beside its signature, that it replaced the key that the peer knows:
    /// returns the statements from the first one whose old key the peer knows; empty if there is none.
    ///
    /// Each statement must continue the one before. They are verified in order, so that a stranger who sends many costs
    /// one verification.
    ///
    /// # Errors
    /// [`InvalidSuccession`].
    pub fn from_headers(
        headers: &HeaderMap,
        is_known: impl Fn(&PublicKey) -> bool,
    ) -> Result<Vec<Self>, InvalidSuccession> {
        let mut values = headers.get_all(SUCCESSION_HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(Vec::new());
        };
        let malformed = InvalidSuccession::Malformed("the header");
        if values.next().is_some() || value.len() > MAX_HEADER {
            return Err(malformed);
        }
        let read = |part: &[u8]| {
            let json = encoding::base64_decode_canonical(part).map_err(|_| malformed)?;
            let payload: SuccessionPayload = go_json::from_slice(&json).map_err(|_| malformed)?;
            Self::unverified(&payload)
        };
        let parts = value.as_bytes().split(|byte| *byte == b',');
        let mut shown = parts.map(read).collect::<Result<Vec<Self>, _>>()?;
        let continues = |pair: &[Self]| match pair {
            [one, next] => one.name == next.name && one.new_key() == Some(&next.old),
            _ => false,
        };
        if !shown.windows(2).all(continues) {
            return Err(malformed);
        }
        let known = shown.iter().position(|statement| is_known(&statement.old));
        let Some(known) = known else {
            return Ok(Vec::new());
        };
        shown.drain(known..).map(Self::verified).collect()
    }

    /// Returns the value of [`SUCCESSION_HEADER`] for consecutive statements, oldest first. If they do not fit, the
    /// oldest are omitted. `None` if there are none.
    pub fn to_header(statements: &[Self]) -> Option<HeaderValue> {
        let mut value = String::new();
        for statement in statements.iter().rev() {
            let json = go_json::to_string(&statement.to_payload());
            let part = encoding::base64_encode(json.as_bytes());
            if value.len() + 1 + part.len() > MAX_HEADER {
                break;
            }
            let behind = if value.is_empty() {
                String::new()
            } else {
                format!(",{value}")
            };
            value = part + &behind;
        }
        let value = Some(value).filter(|value| !value.is_empty());
        value.map(|value| HeaderValue::try_from(value).expect("base64 is ASCII"))
    }

    /// Returns the name of the nara.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// Returns the key that is replaced.
    pub fn old_key(&self) -> &PublicKey {
        &self.old
    }

    /// Returns the key that replaces it; `None` if the nara retires.
    pub fn new_key(&self) -> Option<&PublicKey> {
        self.new.as_ref().map(|(key, _)| key)
    }

    /// Returns the time of the statement, by the clock of its maker. Statements are not ordered by it: see [`Lineage`].
    pub fn at(&self) -> UnixMillis {
        self.at
    }
}

/// Returns the text that both keys sign: six lines, joined with `\n`. No other signature of a nara covers a text with
/// this first line, and a name has no line break.
fn signed_text(name: &NaraName, old: &PublicKey, new: Option<&PublicKey>, at: UnixMillis) -> String {
    let (name, old) = (name.as_str(), old.to_base64());
    let next = new.map_or_else(|| "-".to_owned(), PublicKey::to_base64);
    let reason = reason(new.is_some());
    format!("nara-mesh/succession/1\n{name}\n{old}\n{next}\n{at}\n{reason}")
}

const fn reason(has_successor: bool) -> &'static str {
    if has_successor {
        Succession::ROTATION
    } else {
        Succession::RETIREMENT
    }
}

fn key(text: &str, field: &'static str) -> Result<PublicKey, InvalidSuccession> {
    let key = PublicKey::from_base64(text).ok();
    key.filter(|key| key.to_base64() == text)
        .ok_or(InvalidSuccession::Malformed(field))
}

fn signature(text: &str, field: &'static str) -> Result<Signature, InvalidSuccession> {
    Signature::from_canonical_base64(text.as_bytes()).map_err(|_| InvalidSuccession::Malformed(field))
}

#[cfg(test)]
mod tests;
