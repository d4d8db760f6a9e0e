use std::fmt;
use std::hash::{Hash, Hasher};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::{Signature, VerifyError};
use crate::encoding;

/// An Ed25519 public key: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

/// Eight bytes suffice for a hash table: a pair of keys that share them takes 2³² attempts to find, and each further
/// key 2⁶⁴.
impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(first) = self.0.first_chunk() {
            state.write_u64(u64::from_le_bytes(*first));
        }
    }
}

/// The error for a text that is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key (expected the base64 of an Ed25519 key, 32 bytes)")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// Returns the key with these 32 bytes if they are an acceptable point of the curve.
    ///
    /// Two kinds of points are refused. A signature of a key of small order is valid for many messages, so it proves
    /// nothing. With non-canonical encodings, one key could count as two.
    ///
    /// A point with a component of small order besides the large one is accepted, as by v1 peers. Only the owner of the
    /// secret key can have made it, it verifies nothing that the owner did not sign, and the check would cost as much
    /// as verifying a signature.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] otherwise.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidPublicKey> {
        let point = CompressedEdwardsY(bytes).decompress().ok_or(InvalidPublicKey)?;
        // The two points with x = 0, whose sign bit would allow a second encoding, are of small order.
        if is_reduced(&bytes) && !point.is_small_order() {
            Ok(Self(bytes))
        } else {
            Err(InvalidPublicKey)
        }
    }

    /// Decodes the text form: base64, as leniently as v1 peers.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] if it is not the base64 of a valid key.
    pub fn from_base64(text: &str) -> Result<Self, InvalidPublicKey> {
        let bytes = encoding::base64_decode_lenient(text.as_bytes()).map_err(|_| InvalidPublicKey)?;
        Self::from_bytes(bytes.try_into().map_err(|_| InvalidPublicKey)?)
    }

    /// Returns the text form: base64 with padding, 44 characters.
    pub fn to_base64(&self) -> String {
        encoding::base64_encode(&self.0)
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies a signature over a message.
    ///
    /// The verdict equals that of v1 peers (docs/protocol/v1.md, section 1.4): S must be below the group order, and R,
    /// as 32 bytes, must equal the encoding of S·B − k·A. So R has one encoding, and the equation is the one of RFC
    /// 8032, section 5.1.7, without the cofactor. AWS-LC checks exactly this, slightly faster than pure Rust
    /// implementations. For many signatures at once see [`verify_events`](crate::event::verify_events).
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not this key's over this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature.as_bytes())
            .map_err(|_| VerifyError)
    }
}

/// Returns whether the y coordinate is below p = 2²⁵⁵ − 19; the top bit is the sign of x.
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
