use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use super::{PublicKey, Signature, Soul};

/// The Ed25519 keypair of a nara (RFC 8032). Its seed is the seed of the soul.
///
/// Clones share one copy of the secret, which AWS-LC holds and erases when the last clone is dropped. `Debug` shows the
/// public key only. Signing takes constant time.
#[derive(Clone)]
pub struct KeyPair {
    signer: Arc<Ed25519KeyPair>,
    public_key: PublicKey,
}

impl KeyPair {
    /// Derives the keypair of a soul.
    pub fn from_soul(soul: &Soul) -> Self {
        let signer = Ed25519KeyPair::from_seed_unchecked(soul.seed()).expect("any 32 bytes are a seed");
        let public_key = signer.public_key().as_ref();
        let public_key = public_key.try_into().expect("a public key has 32 bytes");
        let public_key = PublicKey::from_bytes(public_key).expect("a derived public key has the prime order");
        Self {
            signer: Arc::new(signer),
            public_key,
        }
    }

    /// Returns the public key.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Signs a message. The signature is deterministic.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.signer.sign(message);
        Signature::from_bytes(signature.as_ref().try_into().expect("a signature has 64 bytes"))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn debug_shows_the_public_half_only() {
        let keypair = KeyPair::from_soul(&Soul::bond([7; 32], "alice"));
        let public = keypair.public_key().to_base64();
        assert_eq!(
            format!("{keypair:?}"),
            format!("KeyPair {{ public_key: PublicKey({public}), .. }}")
        );
    }

    proptest! {
        #[test]
        fn keys_and_signatures_match_another_implementation(seed: [u8; 32], message: Vec<u8>) {
            let keypair = KeyPair::from_soul(&Soul::bond(seed, "alice"));
            let oracle = SigningKey::from_bytes(&seed);
            prop_assert_eq!(*keypair.public_key().as_bytes(), oracle.verifying_key().to_bytes());
            prop_assert_eq!(*keypair.sign(&message).as_bytes(), oracle.sign(&message).to_bytes());
        }
    }
}
