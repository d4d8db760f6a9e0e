use std::fmt;

use super::PublicKey;
use crate::encoding;

/// An Ed25519 signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature([u8; 64]);

/// The error for a text that is not a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignature {
    /// It is not base64.
    #[error("invalid signature encoding")]
    Encoding,
    /// It does not decode to 64 bytes.
    #[error("the signature has {0} bytes instead of 64")]
    Length(usize),
}

/// The error for a signature that is not valid for a message and a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature verification failed")]
pub struct VerifyError;

impl Signature {
    /// Returns the signature with these 64 bytes, unverified.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Decodes the text form in bodies: base64, as leniently as v1 peers.
    ///
    /// # Errors
    /// [`InvalidSignature`] if it is not base64 of 64 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidSignature> {
        // Nearly all signatures have the canonical spelling.
        if let Some(bytes) = encoding::base64_decode_exactly(text.as_bytes()) {
            return Ok(Self(bytes));
        }
        let bytes =
            encoding::base64_decode_lenient(text.as_bytes()).map_err(|_| InvalidSignature::Encoding)?;
        Self::from_vec(bytes)
    }

    /// Decodes the text form in headers: canonical base64.
    ///
    /// # Errors
    /// [`InvalidSignature`] if it is not canonical base64 of 64 bytes.
    pub fn from_canonical_base64(text: &[u8]) -> Result<Self, InvalidSignature> {
        if let Some(bytes) = encoding::base64_decode_exactly(text) {
            return Ok(Self(bytes));
        }
        let bytes = encoding::base64_decode_canonical(text).map_err(|_| InvalidSignature::Encoding)?;
        Self::from_vec(bytes)
    }

    fn from_vec(bytes: Vec<u8>) -> Result<Self, InvalidSignature> {
        let len = bytes.len();
        Ok(Self(bytes.try_into().map_err(|_| InvalidSignature::Length(len))?))
    }

    /// Returns the text form: base64 with padding, 88 characters.
    pub fn to_base64(&self) -> String {
        encoding::base64_encode(&self.0)
    }

    /// Returns the 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// Verifies a signature in the text form of bodies.
pub(crate) fn verify_base64(key: &PublicKey, message: &[u8], signature: &str) -> Result<(), VerifyError> {
    let signature = Signature::from_base64(signature).map_err(|_| VerifyError)?;
    key.verify(message, &signature)
}
