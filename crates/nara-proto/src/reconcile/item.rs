use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::encoding::hex_encode;

/// Bytes of an event id: half a SHA-256.
const HALF: usize = 16;

/// Stands for an event in a reconciliation: the 16 bytes of its id, and the first 16 bytes of their SHA-256.
///
/// Sums of items are compared: the second half makes sums as hard to forge as sums of whole hashes, and the first
/// half allows to request the event by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(pub(super) [u8; 2 * HALF]);

impl ItemId {
    /// The item of the event with this id; `None` unless the id is 32 lower-case hexadecimal digits, as the ids of
    /// all verified events are.
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

    /// The item with these 32 bytes; `None` if they cannot stand for an event.
    pub fn from_bytes(bytes: [u8; 32]) -> Option<Self> {
        let (id, _) = bytes.split_first_chunk()?;
        let item = Self::of_half(*id);
        (item.0 == bytes).then_some(item)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The id of the event as the 16 bytes of its hash.
    pub fn event_hash(&self) -> [u8; 16] {
        let (hash, _) = self.0.split_first_chunk().expect("32 bytes begin with 16");
        *hash
    }

    /// The id of the event.
    pub fn event_id(&self) -> String {
        hex_encode(&self.0[..HALF])
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemId({})", self.event_id())
    }
}
