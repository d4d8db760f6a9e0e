use std::fmt;

use super::PublicKey;
use crate::encoding;

/// An Ed25519 signature: 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature([u8; 64]);

/// A text that is not a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSignature {
    /// Not base64.
    #[error("invalid signature encoding")]
    Encoding,
    /// Not 64 bytes after decoding.
    #[error("the signature has {0} bytes instead of 64")]
    Length(usize),
}

/// A message and a signature that do not belong to a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature verification failed")]
pub struct VerifyError;

impl Signature {
    /// Takes the 64 bytes of a signature. Whether it verifies is another question.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Decodes the text form that bodies carry: base64, as leniently as v1 peers do.
    ///
    /// # Errors
    /// [`InvalidSignature`] if it is not base64 of 64 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidSignature> {
        // Nearly all are spelled as they should be.
        if let Some(bytes) = encoding::base64_decode_exactly(text.as_bytes()) {
            return Ok(Self(bytes));
        }
        let bytes =
            encoding::base64_decode_lenient(text.as_bytes()).map_err(|_| InvalidSignature::Encoding)?;
        Self::from_vec(bytes)
    }

    /// Decodes the text form that headers carry: base64 in its one canonical spelling.
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

    /// The text form: base64 with padding, 88 characters.
    pub fn to_base64(&self) -> String {
        encoding::base64_encode(&self.0)
    }

    /// The 64 bytes.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// Verifies a signature in the text form that bodies carry.
pub(crate) fn verify_base64(key: &PublicKey, message: &[u8], signature: &str) -> Result<(), VerifyError> {
    let signature = Signature::from_base64(signature).map_err(|_| VerifyError)?;
    key.verify(message, &signature)
}
