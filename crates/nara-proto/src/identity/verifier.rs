use super::{PreparedKey, PublicKey, Signature, VerifyError};

/// A public key in one of its forms: a [`PublicKey`], a [`PreparedKey`], or a key [of a
/// collection](super::PreparedKeys::of) that prepares the keys used most. They differ in speed, not in their
/// verdict.
pub trait Verifier {
    /// Verifies a signature over a message, as [`PublicKey::verify`] does.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not one of this key over this message.
    fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError>;
}

/// Verifies a signature in the text form that bodies carry.
pub(crate) fn verify_base64(key: &impl Verifier, message: &[u8], signature: &str) -> Result<(), VerifyError> {
    let signature = Signature::from_base64(signature).map_err(|_| VerifyError)?;
    key.verify(message, &signature)
}

impl Verifier for PublicKey {
    fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        self.verify(message, signature)
    }
}

impl Verifier for PreparedKey {
    fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        self.verify(message, signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KeyPair, Soul};

    #[test]
    fn every_verifier_of_a_key_gives_its_verdict() {
        fn verdicts(verifier: &impl Verifier, signature: &Signature) -> [bool; 4] {
            let text = signature.to_base64();
            [
                verifier.verify(b"message", signature).is_ok(),
                verifier.verify(b"another", signature).is_ok(),
                verify_base64(verifier, b"message", &text).is_ok(),
                verify_base64(verifier, b"another", &text).is_ok(),
            ]
        }
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
        let signature = keypair.sign(b"message");
        let key = keypair.public_key();
        let expected = [true, false, true, false];
        assert_eq!(verdicts(&key, &signature), expected);
        assert_eq!(verdicts(&PreparedKey::new(&key), &signature), expected);
        assert!(verify_base64(&key, b"message", "AA==").is_err());
    }
}
