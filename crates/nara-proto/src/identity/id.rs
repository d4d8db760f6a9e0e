use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{InvalidPublicKey, PublicKey, Soul};

/// The id by which services name a peer: Base58 of a SHA-256 over the *secret* soul and the name.
///
/// Only the owner can check that an id belongs to a key (docs/protocol/v1.md, section 1.1), so a mapping from id to key
/// must record how the pair was learned. Compare [`KeyId`], which every peer can check.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NaraId(Arc<str>);

/// The error for a text that is not a nara id: not Base58 of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a nara id (expected Base58 of 32 bytes, 43 or 44 characters)")]
pub struct InvalidNaraId;

impl NaraId {
    /// Derives the id of the nara with this soul and name.
    pub fn derive(soul: &Soul, name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(soul.as_bytes())
            .chain_update(name)
            .finalize();
        Self(bs58::encode(digest).into_string().into())
    }

    /// Returns the text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NaraId {
    type Err = InvalidNaraId;

    fn from_str(text: &str) -> Result<Self, InvalidNaraId> {
        let mut bytes = [0_u8; 33];
        // Base58 of 32 bytes has 32 to 44 characters; the limit bounds the work.
        if !(32..=44).contains(&text.len()) || bs58::decode(text).onto(&mut bytes[..]) != Ok(32) {
            return Err(InvalidNaraId);
        }
        Ok(Self(text.into()))
    }
}

impl AsRef<str> for NaraId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for NaraId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NaraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NaraId({})", self.0)
    }
}

impl fmt::Display for NaraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The fingerprint of a public key for comparison by people: Base58 of its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl From<&PublicKey> for KeyId {
    fn from(key: &PublicKey) -> Self {
        Self(*key.as_bytes())
    }
}

/// The error for a text that is not a key id: not Base58 of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key id (expected Base58 of 32 bytes, 43 or 44 characters)")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    /// Base58 has one spelling for each byte string.
    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let mut bytes = [0_u8; 33];
        // The limit bounds the work.
        if !(32..=44).contains(&text.len()) || bs58::decode(text).onto(&mut bytes[..]) != Ok(32) {
            return Err(InvalidKeyId);
        }
        Ok(Self(*bytes.first_chunk().expect("it has 33 bytes")))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&bs58::encode(self.0).into_string())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl KeyId {
    /// Returns the public key: a key id is the whole key.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] if the bytes are not a valid key.
    pub fn public_key(&self) -> Result<PublicKey, InvalidPublicKey> {
        PublicKey::from_bytes(self.0)
    }
}
