use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Soul;

/// The key with which a nara encrypts data for itself, such as the stash that it leaves with friends
/// (docs/protocol/v1.md, sections 1.1 and 1.3): XChaCha20-Poly1305 without associated data.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SealKey([u8; 32]);

/// The error for a sealed text that cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The ciphertext was changed, or sealed with another key or nonce.
    #[error("the ciphertext cannot be opened with this key and nonce")]
    Forged,
    /// The nonce does not have 24 bytes.
    #[error("the nonce has {0} bytes instead of 24")]
    NonceLength(usize),
}

impl SealKey {
    /// The length of a nonce in bytes.
    pub const NONCE_LEN: usize = 24;

    /// Derives the key of a soul.
    pub fn from_soul(soul: &Soul) -> Self {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(b"nara:stash:v1"), soul.seed())
            .expand(b"symmetric", &mut key)
            .expect("32 bytes are a valid HKDF-SHA256 output length");
        Self(key)
    }

    /// Encrypts a text. The nonce must be fresh random bytes; send it along with the ciphertext.
    pub fn seal(&self, nonce: &[u8; Self::NONCE_LEN], plaintext: &[u8]) -> Vec<u8> {
        XChaCha20Poly1305::new(&self.0.into())
            .encrypt(&XNonce::from(*nonce), plaintext)
            .expect("a text in memory is shorter than the cipher's limit of 256 GiB")
    }

    /// Decrypts a ciphertext with its 16-byte tag.
    ///
    /// # Errors
    /// [`OpenError`] if the nonce has the wrong length or the ciphertext is not authentic.
    pub fn open(&self, nonce: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, OpenError> {
        let nonce: [u8; Self::NONCE_LEN] = nonce
            .try_into()
            .map_err(|_| OpenError::NonceLength(nonce.len()))?;
        XChaCha20Poly1305::new(&self.0.into())
            .decrypt(&XNonce::from(nonce), ciphertext)
            .map_err(|_| OpenError::Forged)
    }

    /// Returns the 32 bytes of the key: secret.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}
