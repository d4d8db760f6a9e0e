//! Names, souls, keypairs and ids (docs/protocol/v1.md, section 1).

mod batch;
mod comb;
mod id;
mod key;
mod keypair;
mod name;
mod native;
mod prepared;
mod prepared_keys;
mod seal;
mod signature;
mod soul;
mod verifier;

pub(crate) use batch::verify_batch;
pub use id::{InvalidKeyId, InvalidNaraId, KeyId, NaraId};
pub use key::{InvalidPublicKey, PublicKey};
pub use keypair::KeyPair;
pub use name::{InvalidName, NaraName, escape, is_hidden};
pub use native::{HardwareFingerprint, is_generated_mode};
pub use prepared::PreparedKey;
pub use prepared_keys::PreparedKeys;
pub use seal::{OpenError, SealKey};
pub use signature::{InvalidSignature, Signature, VerifyError};
pub use soul::{BrokenBond, InvalidSoul, Soul};
pub use verifier::Verifier;
pub(crate) use verifier::verify_base64;
