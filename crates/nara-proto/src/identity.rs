//! Names, souls, keypairs and ids (docs/protocol/v1.md, section 1).

mod batch;
mod id;
mod key;
mod keypair;
mod name;
mod native;
mod seal;
mod signature;
mod soul;

pub(crate) use batch::verify_batch;
pub use id::{InvalidKeyId, InvalidNaraId, KeyId, NaraId};
pub use key::{InvalidPublicKey, PublicKey};
pub use keypair::KeyPair;
pub use name::{InvalidName, NaraName, escape, is_hidden};
pub use native::{HardwareFingerprint, is_generated_mode};
pub use seal::{OpenError, SealKey};
pub(crate) use signature::verify_base64;
pub use signature::{InvalidSignature, Signature, VerifyError};
pub use soul::{BrokenBond, InvalidSoul, Soul};
