use std::fmt;

use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity as _;
use sha2::{Digest as _, Sha512};

use super::comb::{BASE, Comb};
use super::{PublicKey, Signature, VerifyError};

/// A public key with a table of its multiples: verifies in half of the time of [`PublicKey::verify`] and says
/// the same about every signature.
///
/// Making one costs as much as four verifications, and it occupies [`PreparedKey::BYTES`] (128 KiB): it is for
/// the keys of peers that are pinned and call often. [`PreparedKeys`](super::PreparedKeys) finds out which
/// ones these are.
///
/// How long a verification takes depends on the key, the message and the signature. All of them are public.
pub struct PreparedKey {
    public_key: PublicKey,
    /// Multiples of −A.
    negated: Comb<5>,
}

impl PreparedKey {
    /// Bytes of memory that the table of one key occupies.
    pub const BYTES: usize = Comb::<5>::BYTES;

    /// Makes the table of a key.
    pub fn new(public_key: &PublicKey) -> Self {
        Self {
            public_key: *public_key,
            negated: Comb::new(-public_key.to_point()),
        }
    }

    /// The key.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Verifies a signature over a message: the same verdict as [`PublicKey::verify`], sooner.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not one of this key over this message.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        let s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*signature.s())).ok_or(VerifyError)?;
        let hash = Sha512::new()
            .chain_update(signature.r())
            .chain_update(self.public_key.as_bytes())
            .chain_update(message)
            .finalize();
        let k = Scalar::from_bytes_mod_order_wide(&hash.into());
        let mut r = EdwardsPoint::identity();
        BASE.add_product(&mut r, &s);
        self.negated.add_product(&mut r, &k);
        if r.compress().as_bytes() == signature.r() {
            Ok(())
        } else {
            Err(VerifyError)
        }
    }
}

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedKey")
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
