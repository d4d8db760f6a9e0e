use std::num::NonZeroU16;

use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::Signer;
use super::fields::{byte_sequence, byte_sequence_text, value};
use crate::identity::{NaraId, NaraName, PublicKey, Signature};
use crate::time::UnixMillis;
use crate::v1::FRESHNESS_WINDOW;

/// The header with a [`SignedCapability`] in `/ping` answers. It is a header because the body of that answer is
/// identical on all naras. A request carries it if its sender listens on a non-standard port.
pub const CAPABILITY_HEADER: HeaderName = HeaderName::from_static("x-nara-capability");

/// The maximum length: it leaves room for the words of later versions.
const MAX_LEN: usize = 1024;

const PROOF: &str = ", proof=";
const V2: &str = "v2";
const STREAMS: &str = "streams";
const X509: &str = "x509";
const RAW_PUBLIC_KEY: &str = "raw-public-key";
const HANDSHAKE: &str = "handshake";

/// The protocol extensions that a nara supports, as stated by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Its id, which no other message carries.
    pub id: NaraId,
    /// It signs with profile v2.
    pub v2: bool,
    /// It understands v2 signatures of streamed bodies ([`SignedBody::Streamed`](super::SignedBody::Streamed)).
    pub streams: bool,
    /// It accepts TLS on its mesh port, with a certificate that holds its key.
    pub tls: bool,
    /// It accepts TLS with its raw public key (RFC 7250).
    pub raw_public_key: bool,
    /// It accepts requests without a signature on connections on which both ends have proven their keys
    /// (`docs/protocol/tls.md`, section 6).
    pub handshake: bool,
    /// The port on which it listens. `None`: it listens on a standard port.
    pub port: Option<NonZeroU16>,
    /// The time of the statement, in milliseconds.
    pub at: UnixMillis,
}

/// A [`Capability`] on the wire, signed by its nara.
///
/// ```text
/// X-Nara-Capability: id="A7LS…", signatures=(v2 streams), tls=(x509 raw-public-key), at=1769100000250, proof=:…:
/// ```
///
/// A dictionary of RFC 9651. The signature covers three lines, joined with `\n`: `nara-mesh/capability/1`, then the key
/// (base64), a space and the name, then the value up to `, proof=`. Unknown words and members are signed, too, and
/// skipped. No other signature of a nara covers a text with this first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCapability {
    statement: String,
    capability: Capability,
    proof: Signature,
}

/// The reason why a capability proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapabilityError {
    /// It is not signed with the key.
    #[error("the capability is not signed with the key of the nara")]
    BadSignature,
    /// It is malformed.
    #[error("the capability is malformed")]
    Malformed,
    /// It was signed too long ago, or in the future: a nara may no longer support what it once did.
    #[error("the capability was signed more than {} s off our clock", FRESHNESS_WINDOW.as_secs())]
    Stale,
}

impl Signer {
    /// Signs a capability statement of this nara.
    pub fn sign_capability(&self, capability: &Capability) -> SignedCapability {
        let words = |all: &[(&'static str, bool)]| {
            let can = all.iter().filter(|(_, can)| *can);
            can.map(|(word, _)| *word).collect::<Vec<_>>().join(" ")
        };
        let port = capability.port.map(|port| format!(", port={port}"));
        let statement = format!(
            "id=\"{}\", signatures=({}), tls=({}), at={}{}",
            capability.id,
            words(&[(V2, capability.v2), (STREAMS, capability.streams)]),
            words(&[
                (X509, capability.tls),
                (RAW_PUBLIC_KEY, capability.raw_public_key),
                (HANDSHAKE, capability.handshake),
            ]),
            capability.at,
            port.unwrap_or_default(),
        );
        let text = signed_text(self.name(), &self.keypair().public_key(), &statement);
        SignedCapability {
            statement,
            capability: capability.clone(),
            proof: self.keypair().sign(text.as_bytes()),
        }
    }
}

impl SignedCapability {
    /// Parses the header of an answer; `None` without one.
    ///
    /// # Errors
    /// [`CapabilityError::Malformed`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, CapabilityError> {
        let mut values = headers.get_all(CAPABILITY_HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() || value.len() > MAX_LEN {
            return Err(CapabilityError::Malformed);
        }
        Self::parse(value).map(Some).ok_or(CapabilityError::Malformed)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let (statement, proof) = value.to_str().ok()?.rsplit_once(PROOF)?;
        let proof = HeaderValue::from_str(proof).ok()?;
        let members: Dictionary = Parser::new(statement).parse().ok()?;
        let item = |name| match members.get(name) {
            Some(ListEntry::Item(item)) => Some(&item.bare_item),
            _ => None,
        };
        let has_word = |list, word| match members.get(list) {
            Some(ListEntry::InnerList(list)) => {
                let mut words = list.items.iter().filter_map(|item| item.bare_item.as_token());
                words.any(|known| known.as_str() == word)
            }
            _ => false,
        };
        let port = match members.get("port") {
            None => None,
            Some(_) => Some(
                u16::try_from(i64::from(item("port")?.as_integer()?))
                    .ok()?
                    .try_into()
                    .ok()?,
            ),
        };
        let capability = Capability {
            id: item("id")?.as_string()?.as_str().parse().ok()?,
            v2: has_word("signatures", V2),
            streams: has_word("signatures", STREAMS),
            tls: has_word("tls", X509),
            raw_public_key: has_word("tls", RAW_PUBLIC_KEY),
            handshake: has_word("tls", HANDSHAKE),
            port,
            at: UnixMillis::new(item("at").and_then(BareItem::as_integer)?.into()),
        };
        Some(Self {
            statement: statement.to_owned(),
            capability,
            proof: byte_sequence(&proof, "", super::SignedField::Signature)
                .map(Signature::from_bytes)
                .ok()?,
        })
    }

    /// Returns the content, unverified.
    pub fn unverified(&self) -> &Capability {
        &self.capability
    }

    /// Returns the value of the header.
    pub fn to_field(&self) -> HeaderValue {
        let proof = byte_sequence_text("", self.proof.as_bytes());
        value(format!("{}{PROOF}{proof}", self.statement))
    }

    /// Verifies that the nara with this name and key signed the statement recently.
    ///
    /// # Errors
    /// [`CapabilityError`] if the statement proves nothing.
    pub fn verify(
        &self,
        name: &NaraName,
        key: &PublicKey,
        now: UnixMillis,
    ) -> Result<&Capability, CapabilityError> {
        if self.capability.at.abs_diff(now) > FRESHNESS_WINDOW {
            return Err(CapabilityError::Stale);
        }
        let text = signed_text(name, key, &self.statement);
        key.verify(text.as_bytes(), &self.proof)
            .map_err(|_| CapabilityError::BadSignature)?;
        Ok(&self.capability)
    }
}

fn signed_text(name: &NaraName, key: &PublicKey, statement: &str) -> String {
    let name = name.as_str();
    format!("nara-mesh/capability/1\n{key} {name}\n{statement}")
}
