use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::Soul;

/// 32 bytes that identify a machine, from which naras derive their native souls (docs/protocol/v1.md, section 1.2).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HardwareFingerprint([u8; 32]);

impl HardwareFingerprint {
    /// Returns the fingerprint with these 32 bytes. It is as secret as the souls that are derived from it.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives the native soul of this machine for an explicit name.
    ///
    /// Generated names are not implemented: a peer never needs them.
    pub fn soul_for(&self, name: &str) -> Soul {
        let mut seed = [0; Soul::SEED_LEN];
        Hkdf::<Sha256>::new(Some(b"nara:soul:v2"), &self.0)
            .expand_multi_info(&[b"seed:custom:", name.as_bytes()], &mut seed)
            .expect("32 bytes are a valid HKDF-SHA256 output length");
        Soul::bond(seed, name)
    }

    /// Derives the native soul of this machine for a name that was generated from its seed.
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

/// Returns whether a v1 peer would replace `name` (its argument, or else the host name) with a generated name: it
/// contains a generic word, or looks like a container id (docs/protocol/v1.md, section 1.2).
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
