use super::{PreparedKey, PublicKey, Signature, VerifyError};

/// A public key in one of its forms: a [`PublicKey`], a [`PreparedKey`], or a key
/// [of a collection](super::PreparedKeys::of) that prepares those which are used most. They differ in speed, not
/// in their verdict.
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
