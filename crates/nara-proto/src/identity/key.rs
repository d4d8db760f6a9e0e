use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::{Signature, VerifyError};
use crate::encoding;

/// An Ed25519 public key: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// Eight bytes are enough for a table: two keys that share them take 2³² attempts to find, and each further one 2⁶⁴.
impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(first) = self.0.first_chunk() {
            state.write_u64(u64::from_le_bytes(*first));
        }
    }
}

/// A text that is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key (expected the base64 of an Ed25519 key, 32 bytes)")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Takes 32 bytes, if they are a point of the curve that is fit to be a key.
    ///
    /// Two kinds of points are not. A point of small order would verify one signature over many messages,
    /// so it proves nothing. A point in a second, non-canonical spelling would let one key count as two.
    ///
    /// A point with a component of small order next to the large one is taken, as every nara does. Only
    /// someone who knows the secret half can have made it, it verifies nothing that they did not sign, and
    /// looking for it costs as much as verifying a signature.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] otherwise.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidPublicKey> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(InvalidPublicKey)?;
        // The two points with x = 0, whose sign bit could spell them a second time, are of small order.
        if is_reduced(&bytes) && !point.is_small_order() {
            Ok(Self(bytes))
        } else {
            Err(InvalidPublicKey)
        }
    }

    /// Decodes the text form: base64, as leniently as v1 peers do.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] if it is not base64 of a key.
    pub fn from_base64(text: &str) -> Result<Self, InvalidPublicKey> {
        let bytes = encoding::base64_decode_lenient(text.as_bytes()).map_err(|_| InvalidPublicKey)?;
        Self::from_bytes(bytes.try_into().map_err(|_| InvalidPublicKey)?)
    }

    /// The text form: base64 with padding, 44 characters.
    pub fn to_base64(&self) -> String {
        encoding::base64_encode(&self.0)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies a signature over a message.
    ///
    /// The verdict is the one of v1 peers (docs/protocol/v1.md, section 1.4): S must be below
    /// the group order, and R, as 32 bytes, must equal the encoding of S·B − k·A. So R has one spelling, and
    /// the equation is the one of RFC 8032, section 5.1.7, without the cofactor. AWS-LC checks exactly this,
    /// and a little faster than the pure Rust implementations do. For many signatures at once see
    /// [`verify_events`](crate::event::verify_events).
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not one of this key over this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature.as_bytes())
            .map_err(|_| VerifyError)
    }
}

/// Whether the y coordinate is below p = 2²⁵⁵ − 19; the top bit is the sign of x.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    bytes[0] < 0xed || bytes[1..31].iter().any(|byte| *byte != 0xff) || bytes[31] | 0x80 != 0xff
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_base64())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_base64())
    }
}

#[cfg(test)]
mod tests;
