use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::encoding::hex_encode;

/// The length of an event id in bytes: half a SHA-256.
const HALF: usize = 16;

/// The representation of an event in a reconciliation: the 16 bytes of its id, and the first 16 bytes of their SHA-256.
///
/// Sums of items are compared. The second half makes sums as hard to forge as sums of full hashes; the first half
/// allows requesting the event by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub(super) [u8; 2 * HALF]);

impl ItemId {
    /// Returns the item of the event with this id; `None` unless the id is 32 lower-case hexadecimal digits, like the
    /// id of every verified event.
    pub fn of_event(id: &str) -> Option<Self> {
        if id.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let mut half = [0; HALF];
        hex::decode_to_slice(id, &mut half).ok()?;
        Some(Self::of_half(half))
    }

    fn of_half(id: [u8; HALF]) -> Self {
        let mut item = [0; 2 * HALF];
        item[..HALF].copy_from_slice(&id);
        item[HALF..].copy_from_slice(&Sha256::digest(id)[..HALF]);
        Self(item)
    }

    /// Returns the item with these 32 bytes; `None` if the second half does not match the first.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let (id, _) = bytes.split_first_chunk()?;
        let item = Self::of_half(*id);
        (item.0 == bytes).then_some(item)
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the event's id as the 16 bytes of its hash.
    pub fn event_hash(&self) -> [u8; 16] {
        let (hash, _) = self.0.split_first_chunk().expect("32 bytes begin with 16");
        *hash
    }

    /// Returns the event's id.
    pub fn event_id(&self) -> String {
        hex_encode(&self.0[..HALF])
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemId({})", self.event_id())
    }
}
