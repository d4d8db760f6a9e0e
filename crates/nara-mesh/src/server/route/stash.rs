//! What peers asked this nara to keep for them (docs/protocol/v1.md, section 12.4).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nara_proto::go_json::Bytes;
use nara_proto::runtime_message::{StashAck, StashResponse, StashStore, stash_refusal};
use nara_proto::time::UnixSeconds;

use crate::server::limits::settings::ServerLimits;

/// Sealed boxes by owner, in memory: owners store them again after a restart of ours, as they must anyway
/// with v1 peers.
#[derive(Debug)]
pub(in crate::server) struct Stash {
    boxes: Mutex<BTreeMap<String, SealedBox>>,
    max_owners: usize,
    max_bytes: usize,
}

#[derive(Clone, Debug)]
struct SealedBox {
    nonce: Bytes,
    ciphertext: Bytes,
    stored_at: UnixSeconds,
}

impl Stash {
    pub(in crate::server) fn new(limits: &ServerLimits) -> Self {
        Self {
            boxes: Mutex::default(),
            max_owners: limits.stash_owners,
            max_bytes: limits.stash_bytes,
        }
    }

    /// Keeps a box for its owner, who must be the signer of the message.
    pub(in crate::server) fn store(&self, store: StashStore, now: UnixSeconds) -> StashAck {
        let refusal = stash_refusal(&store).map(str::to_owned).or_else(|| {
            let too_large = store.ciphertext.as_slice().len() > self.max_bytes;
            too_large.then(|| format!("ciphertext larger than {} bytes", self.max_bytes))
        });
        let mut boxes = self.boxes();
        let full = boxes.len() >= self.max_owners && !boxes.contains_key(&store.owner_id);
        let refusal = refusal.or_else(|| full.then(|| "storage limit reached".to_owned()));
        if refusal.is_none() {
            let sealed = SealedBox {
                nonce: store.nonce,
                ciphertext: store.ciphertext,
                stored_at: now,
            };
            boxes.insert(store.owner_id.clone(), sealed);
        }
        StashAck {
            owner_id: store.owner_id,
            stored_at: now,
            success: refusal.is_none(),
            reason: refusal.unwrap_or_default(),
        }
    }

    /// The answer to the owner who asks for its box.
    pub(in crate::server) fn request(&self, owner_id: &str, request_id: &str) -> StashResponse {
        let mut response = StashResponse {
            owner_id: owner_id.to_owned(),
            request_id: request_id.to_owned(),
            ..StashResponse::default()
        };
        if let Some(sealed) = self.boxes().get(owner_id).cloned() {
            response.found = true;
            response.nonce = sealed.nonce;
            response.ciphertext = sealed.ciphertext;
            response.stored_at = sealed.stored_at;
        }
        response
    }

    fn boxes(&self) -> MutexGuard<'_, BTreeMap<String, SealedBox>> {
        // A map that is valid whatever its holder did.
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(owner: &str, size: usize) -> StashStore {
        StashStore {
            owner_id: owner.to_owned(),
            nonce: vec![0; 24].into(),
            ciphertext: vec![1; size].into(),
            ..StashStore::default()
        }
    }

    #[test]
    fn the_stash_keeps_its_bounds_and_takes_updates() {
        let limits = ServerLimits {
            stash_owners: 1,
            stash_bytes: 10,
            ..ServerLimits::default()
        };
        let stash = Stash::new(&limits);
        let now = UnixSeconds::new(7);
        assert!(stash.store(store("a", 5), now).success);
        assert_eq!(stash.store(store("b", 5), now).reason, "storage limit reached");
        assert!(!stash.store(store("a", 11), now).success);
        assert!(stash.store(store("a", 10), now).success);
        assert_eq!(stash.store(store("", 5), now).reason, "owner_id required");
        let found = stash.request("a", "r");
        assert!(found.found);
        assert_eq!(found.ciphertext.as_slice().len(), 10);
        assert!(!stash.request("b", "r").found);
    }
}
