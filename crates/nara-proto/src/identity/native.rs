use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Soul;

/// 32 bytes that identify a machine, from which naras derive their native souls (docs/protocol/v1.md, section 1.2).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HardwareFingerprint([u8; 32]);

impl HardwareFingerprint {
    /// Takes the 32 bytes of a fingerprint. It is as secret as the souls that follow from it.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The native soul of this machine for an explicit name.
    ///
    /// Generated names are not made here: a peer never needs them.
    pub fn soul_for(&self, name: &str) -> Soul {
        let mut seed = [0; Soul::SEED_LEN];
        Hkdf::<Sha256>::new(Some(b"nara:soul:v2"), &self.0)
            .expand_multi_info(&[b"seed:custom:", name.as_bytes()], &mut seed)
            .expect("32 bytes are a valid HKDF-SHA256 output length");
        Soul::bond(seed, name)
    }

    /// The native soul of this machine for a name that was generated from its seed.
    pub fn soul_for_generated(&self, name: &str) -> Soul {
        let mut seed = [0; Soul::SEED_LEN];
        Hkdf::<Sha256>::new(Some(b"nara:soul:v2"), &self.0)
            .expand(b"seed:generated", &mut seed)
            .expect("32 bytes are a valid HKDF-SHA256 output length");
        Soul::bond(seed, name)
    }
}

impl fmt::Debug for HardwareFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HardwareFingerprint(..)")
    }
}

/// Whether a v1 peer would give itself a generated name instead of `name` (its argument, or
/// else the host name): it holds a generic word, or looks like a container id (docs/protocol/v1.md, section 1.2).
pub fn is_generated_mode(name: &str) -> bool {
    const GENERIC: [&str; 7] = [
        "localhost",
        "raspberrypi",
        "raspberry",
        "debian",
        "ubuntu",
        "nixos",
        "nara",
    ];
    let name = name.to_lowercase();
    GENERIC.iter().any(|word| name.contains(word))
        || (name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
