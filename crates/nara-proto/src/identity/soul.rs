use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::NaraName;

/// The secret from which a nara's keys and ids are derived: a 32-byte seed, which is also the seed of its Ed25519 key,
/// and an 8-byte tag that bonds it to a name (docs/protocol/v1.md, section 1.1).
///
/// `Debug` does not show it, dropping erases it, and only [`Soul::expose`] returns its text.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Soul {
    bytes: [u8; Self::LEN],
}

/// The error for a text that is not a soul.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSoul {
    /// It contains a character outside the Base58 alphabet.
    #[error("the soul is not Base58 text")]
    Encoding,
    /// It does not decode to 40 bytes.
    #[error("the soul has {0} bytes instead of 40")]
    Length(usize),
}

/// The error for a soul that is bonded to another name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the soul is bonded to another name than {name}: it has a typo, or it belongs to another nara")]
pub struct BrokenBond {
    /// The name that was given.
    pub name: NaraName,
}

impl Soul {
    /// The length of a soul in bytes: the seed and the tag.
    pub const LEN: usize = 40;
    /// The length of the seed in bytes.
    pub const SEED_LEN: usize = 32;

    /// Returns the soul that bonds `seed` to `name`.
    ///
    /// For a new nara, pass 32 random bytes.
    pub fn bond(seed: [u8; Self::SEED_LEN], name: &str) -> Self {
        let seed = Zeroizing::new(seed);
        let mut bytes = [0; Self::LEN];
        bytes[..Self::SEED_LEN].copy_from_slice(&*seed);
        bytes[Self::SEED_LEN..].copy_from_slice(&tag(&seed, name));
        Self { bytes }
    }

    /// Returns whether this soul is bonded to `name`. A mistyped soul usually still parses; only this check detects it.
    pub fn is_bonded_to(&self, name: &str) -> bool {
        !name.is_empty() && bool::from(tag(self.seed(), name)[..].ct_eq(self.tag()))
    }

    /// Checks that this soul is bonded to `name`.
    ///
    /// # Errors
    /// [`BrokenBond`]. V1 peers only warn; a broken bond is nearly always a typo, and makes every signature worthless.
    pub fn check_bond(&self, name: &NaraName) -> Result<(), BrokenBond> {
        if self.is_bonded_to(name.as_str()) {
            Ok(())
        } else {
            Err(BrokenBond { name: name.clone() })
        }
    }

    /// Returns the text of the soul: Base58 of its 40 bytes. Whoever holds it can act as the nara.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(bs58::encode(&self.bytes).into_string())
    }

    /// Returns the 32-byte seed: secret.
    pub(crate) fn seed(&self) -> &[u8; Self::SEED_LEN] {
        self.bytes.first_chunk().expect("a soul is longer than its seed")
    }

    /// Returns the 40 bytes: secret.
    pub(crate) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    /// Returns the tag that bonds the seed to a name.
    pub fn tag(&self) -> &[u8] {
        &self.bytes[Self::SEED_LEN..]
    }
}

fn tag(seed: &[u8; Soul::SEED_LEN], name: &str) -> [u8; 8] {
    let mut mac = Hmac::<Sha256>::new_from_slice(seed).expect("HMAC takes keys of any length");
    mac.update(b"nara:name:v2:");
    mac.update(name.as_bytes());
    let mac = mac.finalize().into_bytes();
    *mac.first_chunk().expect("SHA-256 is longer than a tag")
}

impl FromStr for Soul {
    type Err = InvalidSoul;

    /// Decodes the text of a soul. Only its length is checked: see [`Soul::is_bonded_to`].
    fn from_str(text: &str) -> Result<Self, InvalidSoul> {
        // 40 bytes are at most 55 characters; the limit keeps a hostile text from taking quadratic time.
        if text.len() > 128 {
            return Err(InvalidSoul::Length(text.len()));
        }
        let decoded = Zeroizing::new(bs58::decode(text).into_vec().map_err(|_| InvalidSoul::Encoding)?);
        let bytes = decoded
            .as_slice()
            .try_into()
            .map_err(|_| InvalidSoul::Length(decoded.len()))?;
        Ok(Self { bytes })
    }
}

impl fmt::Debug for Soul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Soul(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soul_is_bonded_to_one_name() {
        let soul = Soul::bond([7; 32], "alice");
        assert!(soul.is_bonded_to("alice"));
        assert!(!soul.is_bonded_to("bob"));
        assert!(!Soul::bond([7; 32], "").is_bonded_to(""));
    }

    #[test]
    fn the_text_of_a_soul_round_trips_and_debug_hides_it() {
        let soul = Soul::bond([0; 32], "alice");
        let text = soul.expose();
        assert_eq!(text.parse::<Soul>().unwrap().as_bytes(), soul.as_bytes());
        assert_eq!(format!("{soul:?}"), "Soul(..)");
    }

    #[test]
    fn an_invalid_soul_is_refused() {
        assert_eq!("".parse::<Soul>().unwrap_err(), InvalidSoul::Length(0));
        assert_eq!("not a soul".parse::<Soul>().unwrap_err(), InvalidSoul::Encoding);
        assert_eq!("2eDqBgMX".parse::<Soul>().unwrap_err(), InvalidSoul::Length(6));
    }
}
