use std::fmt;

use ed25519_dalek::{Signer as _, SigningKey, Verifier as _, VerifyingKey};

use super::Soul;
use crate::encoding;

/// The Ed25519 keypair with which a nara signs (RFC 8032). Its seed is the seed of the soul itself.
///
/// `Debug` shows the public half only; dropping erases the secret half.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The keypair of a soul.
    pub fn from_soul(soul: &Soul) -> Self {
        Self(SigningKey::from_bytes(soul.seed()))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public_key", &self.public_key())
            .finish_non_exhaustive()
    }
}

/// An Ed25519 public key: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A text that is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key (expected base64 of 32 bytes that are a point of the curve)")]
pub struct InvalidPublicKey;

/// A message and a signature that do not belong to a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signature verification failed")]
pub struct VerifyError;

impl PublicKey {
    /// Takes 32 bytes, if they are a point of the curve that is fit to be a key: one of small order would
    /// verify a signature over any message.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] otherwise.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, InvalidPublicKey> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| InvalidPublicKey)?;
        if key.is_weak() {
            Err(InvalidPublicKey)
        } else {
            Ok(Self(bytes))
        }
    }

    /// Decodes the text form: base64, as leniently as the naras already out there do.
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

    /// Verifies a signature over a message: the cofactorless equation of RFC 8032, section 5.1.7, with the
    /// scalar below the group order.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not one of this key over this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| VerifyError)?;
        key.verify(message, &ed25519_dalek::Signature::from_bytes(&signature.0))
            .map_err(|_| VerifyError)
    }
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

impl Signature {
    /// Takes the 64 bytes of a signature. Whether it verifies is another question.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Decodes the text form that bodies carry: base64, as leniently as the naras already out there do.
    ///
    /// # Errors
    /// [`InvalidSignature`] if it is not base64 of 64 bytes.
    pub fn from_base64(text: &str) -> Result<Self, InvalidSignature> {
        let bytes =
            encoding::base64_decode_lenient(text.as_bytes()).map_err(|_| InvalidSignature::Encoding)?;
        Self::from_vec(bytes)
    }

    /// Decodes the text form that headers carry: base64 in its one canonical spelling.
    ///
    /// # Errors
    /// [`InvalidSignature`] if it is not canonical base64 of 64 bytes.
    pub fn from_canonical_base64(text: &[u8]) -> Result<Self, InvalidSignature> {
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

/// Verifies many signatures over 32-byte digests and returns the indices of those that do not verify, in
/// ascending order.
///
/// A batch is verified as a whole; if it fails, it is halved until the bad ones are named. Repeated keys make
/// it cheaper. `random` makes the coefficients: 32 fresh random bytes, which a peer must not be able to
/// foresee.
pub fn verify_batch(items: &[(PublicKey, [u8; 32], Signature)], random: [u8; 32]) -> Vec<usize> {
    let _ = random;
    (0..items.len())
        .filter(|&i| {
            let (k, d, s) = &items[i];
            k.verify(d, s).is_err()
        })
        .collect()
}
