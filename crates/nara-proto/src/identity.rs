//! Names, souls, keypairs and ids (wire facts, section 1).

mod id;
mod key;
mod name;
mod native;
mod seal;
mod soul;

pub use id::{InvalidNaraId, KeyId, NaraId};
pub use key::{InvalidPublicKey, InvalidSignature, KeyPair, PublicKey, Signature, VerifyError, verify_batch};
pub use name::{InvalidName, NaraName};
pub use native::{HardwareFingerprint, is_generated_mode};
pub use seal::{OpenError, SealKey};
pub use soul::{InvalidSoul, Soul};
