use http::HeaderMap;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::fields::{byte_sequence, byte_sequence_text, single};
use super::{SignatureError, SignedField};

/// The digest of a body as `Content-Digest` carries it: SHA-256 (RFC 9530, section 2). Bodies without bytes have one,
/// too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    pub(super) const PREFIX: &str = "sha-256=";

    /// The digest of a whole body.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// Reads the header. It must have SHA-256 and nothing else.
    ///
    /// # Errors
    /// [`SignatureError`] if it is missing, repeated or malformed.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let value = single(headers, SignedField::ContentDigest)?;
        byte_sequence(value, Self::PREFIX, SignedField::ContentDigest).map(Self)
    }

    /// The value of the header.
    pub fn to_field(&self) -> String {
        byte_sequence_text(Self::PREFIX, &self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks a whole body. For one that arrives in parts see [`DigestHasher`].
    ///
    /// # Errors
    /// [`SignatureError::Body`] if it has another digest.
    pub fn check(&self, body: &[u8]) -> Result<(), SignatureError> {
        self.check_same(&Self::of(body))
    }

    /// Checks that two digests are the same.
    ///
    /// # Errors
    /// [`SignatureError::Body`] if not.
    pub fn check_same(&self, other: &Self) -> Result<(), SignatureError> {
        if self.0.ct_eq(&other.0).into() {
            Ok(())
        } else {
            Err(SignatureError::Body)
        }
    }
}

/// Makes the digest of a body that arrives in parts.
#[derive(Clone, Debug, Default)]
pub struct DigestHasher(Sha256);

impl DigestHasher {
    /// Takes in the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The digest of all parts.
    pub fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finalize().into())
    }
}
