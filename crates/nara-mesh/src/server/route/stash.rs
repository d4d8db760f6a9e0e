//! The stashes that peers leave with this nara (docs/protocol/v1.md, section 12.4).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::runtime_message::{StashAck, StashResponse, StashStore as StoreRequest, stash_refusal};
use nara_proto::time::UnixSeconds;
use tokio::time::Instant;

use crate::offload::offload;
use crate::seldom::error_seldom;
use crate::server::limits::settings::ServerLimits;
use crate::server::stash_store::{SealedStash, StashStore};

/// The time of silence after which an owner counts as absent: it may have lost its data meanwhile.
const ABSENCE: Duration = Duration::from_secs(10 * 60);

/// The shortest interval between two pushes of a stash to its owner.
const PUSH_PAUSE: Duration = Duration::from_secs(60);

/// Sealed stashes by owner, in memory, and in a store if there is one.
#[derive(Debug)]
pub(in crate::server) struct Stash {
    kept: Mutex<BTreeMap<String, Kept>>,
    store: Option<Arc<dyn StashStore>>,
    max_owners: usize,
    max_bytes: usize,
    max_age: Duration,
}

#[derive(Debug)]
struct Kept {
    stash: SealedStash,
    heard: Option<Instant>,
    pushed: Option<Instant>,
}

/// The sign of life of an owner that may want its stash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Sign {
    /// It introduced itself.
    HeyThere,
    /// It called.
    Call,
}

impl Stash {
    /// Loads the stashes of the store, newest first, within the limits, and removes expired ones from the store.
    pub(in crate::server) fn new(
        limits: &ServerLimits,
        store: Option<Arc<dyn StashStore>>,
        now: UnixSeconds,
    ) -> io::Result<Self> {
        let mut stash = Self {
            kept: Mutex::default(),
            store,
            max_owners: limits.stash_owners,
            max_bytes: limits.stash_bytes,
            max_age: limits.stash_age,
        };
        let mut loaded = stash
            .store
            .as_ref()
            .map_or(Ok(Vec::new()), |store| store.load())?;
        loaded.sort_by_key(|stash| std::cmp::Reverse(stash.stored_at));
        if let Some(store) = &stash.store {
            let mut old = loaded.iter().filter(|loaded| stash.is_old(loaded, now));
            old.try_for_each(|old| store.remove(&old.owner_id))?;
        }
        loaded.retain(|loaded| loaded.ciphertext.len() <= stash.max_bytes && !stash.is_old(loaded, now));
        loaded.truncate(stash.max_owners);
        let kept = loaded
            .into_iter()
            .map(|stash| (stash.owner_id.clone(), Kept::new(stash)));
        stash.kept = Mutex::new(kept.collect());
        Ok(stash)
    }

    /// Stores a stash of its owner, who must be the signer of the message. `is_configured` returns whether the nara
    /// with an id is a configured peer.
    pub(in crate::server) async fn store(
        &self,
        request: StoreRequest,
        now: UnixSeconds,
        is_configured: impl Fn(&str) -> bool,
    ) -> StashAck {
        let owner_id = request.owner_id.clone();
        let accepted = self.accept(request, now, is_configured);
        let refusal = match accepted {
            Ok((stash, old)) => self.save(stash, old).await.err().map(|error| {
                error_seldom!(error = &error as &dyn std::error::Error, "a stash was not stored");
                "storage failed".to_owned()
            }),
            Err(refusal) => Some(refusal),
        };
        StashAck {
            owner_id,
            stored_at: now,
            success: refusal.is_none(),
            reason: refusal.unwrap_or_default(),
        }
    }

    /// Returns the stash to store, and the owners whose stashes are evicted: expired ones and, if a configured peer needs a
    /// place, the oldest one of another nara. Other stashes keep their places: otherwise an attacker with invented naras
    /// could evict all of them.
    fn accept(
        &self,
        request: StoreRequest,
        now: UnixSeconds,
        is_configured: impl Fn(&str) -> bool,
    ) -> Result<(SealedStash, Vec<String>), String> {
        if let Some(refusal) = stash_refusal(&request) {
            return Err(refusal.to_owned());
        }
        if request.ciphertext.as_slice().len() > self.max_bytes {
            return Err(format!("ciphertext larger than {} bytes", self.max_bytes));
        }
        let mut kept = self.kept();
        let mut old = Vec::new();
        kept.retain(|owner, kept| {
            let is_old = self.is_old(&kept.stash, now);
            if is_old {
                old.push(owner.clone());
            }
            !is_old
        });
        if kept.len() >= self.max_owners && !kept.contains_key(&request.owner_id) {
            let mut others: Vec<_> = kept.iter().filter(|(owner, _)| !is_configured(owner)).collect();
            others.retain(|_| is_configured(&request.owner_id));
            let oldest = others.into_iter().min_by_key(|(_, kept)| kept.stash.stored_at);
            let Some(goes) = oldest.map(|(owner, _)| owner.clone()) else {
                return Err("storage limit reached".to_owned());
            };
            kept.remove(&goes);
            old.push(goes);
        }
        let stash = SealedStash {
            owner_id: request.owner_id,
            nonce: request.nonce.as_slice().to_vec(),
            ciphertext: request.ciphertext.as_slice().to_vec(),
            stored_at: now,
        };
        let entry = Kept {
            heard: Some(Instant::now()),
            ..Kept::new(stash.clone())
        };
        kept.insert(stash.owner_id.clone(), entry);
        Ok((stash, old))
    }

    async fn save(&self, stash: SealedStash, old: Vec<String>) -> io::Result<()> {
        match self.store.clone() {
            Some(store) => {
                let work = move || {
                    old.iter().try_for_each(|owner| store.remove(owner))?;
                    store.save(&stash)
                };
                offload(true, work).await
            }
            None => Ok(()),
        }
    }

    /// Returns the answer to an owner that requests its stash.
    pub(in crate::server) fn request(
        &self,
        owner_id: &str,
        request_id: &str,
        now: UnixSeconds,
    ) -> StashResponse {
        let mut response = StashResponse {
            owner_id: owner_id.to_owned(),
            request_id: request_id.to_owned(),
            ..StashResponse::default()
        };
        if let Some(kept) = self.kept().get(owner_id)
            && !self.is_old(&kept.stash, now)
        {
            response.found = true;
            response.nonce = kept.stash.nonce.clone().into();
            response.ciphertext = kept.stash.ciphertext.clone().into();
            response.stored_at = kept.stash.stored_at;
        }
        response
    }

    /// Returns all stashes, by owner.
    pub(in crate::server) fn list(&self) -> Vec<SealedStash> {
        self.kept().values().map(|kept| kept.stash.clone()).collect()
    }

    /// Deletes the stash of an owner. Returns whether there was one.
    pub(in crate::server) async fn forget(&self, owner_id: &str) -> io::Result<bool> {
        let had = self.kept().remove(owner_id).is_some();
        if let Some(store) = self.store.clone() {
            let owner_id = owner_id.to_owned();
            offload(true, move || store.remove(&owner_id)).await?;
        }
        Ok(had)
    }

    /// Returns whether to push a stash to its owner after a sign of life: it was absent, or it has just started.
    pub(in crate::server) fn wants_push(&self, owner_id: &str, sign: Sign) -> bool {
        let now = Instant::now();
        let mut all = self.kept();
        let Some(kept) = all.get_mut(owner_id) else {
            return false;
        };
        let was_away = kept.heard.replace(now).is_none_or(|heard| now - heard >= ABSENCE);
        let is_due = kept.pushed.is_none_or(|pushed| now - pushed >= PUSH_PAUSE);
        let push = is_due && (was_away || sign == Sign::HeyThere);
        if push {
            kept.pushed = Some(now);
        }
        push
    }

    fn is_old(&self, stash: &SealedStash, now: UnixSeconds) -> bool {
        let seconds = i64::try_from(self.max_age.as_secs()).unwrap_or(i64::MAX);
        now.get().saturating_sub(stash.stored_at.get()) > seconds
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        // The map is valid even if a thread panicked.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(stash: SealedStash) -> Self {
        Self {
            stash,
            heard: None,
            pushed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds::new(1_000_000);

    fn nobody(_: &str) -> bool {
        false
    }

    fn request(owner: &str, size: usize) -> StoreRequest {
        StoreRequest {
            owner_id: owner.to_owned(),
            nonce: vec![0; 24].into(),
            ciphertext: vec![1; size].into(),
            ..StoreRequest::default()
        }
    }

    fn stash(store: Option<Arc<dyn StashStore>>) -> Stash {
        let limits = ServerLimits {
            stash_owners: 1,
            stash_bytes: 10,
            stash_age: Duration::from_secs(100),
            ..ServerLimits::default()
        };
        Stash::new(&limits, store, NOW).unwrap()
    }

    #[tokio::test]
    async fn the_stash_keeps_its_bounds_and_takes_updates() {
        let stash = stash(None);
        assert!(stash.store(request("a", 5), NOW, nobody).await.success);
        assert_eq!(
            stash.store(request("b", 5), NOW, nobody).await.reason,
            "storage limit reached"
        );
        assert!(!stash.store(request("a", 11), NOW, nobody).await.success);
        assert!(stash.store(request("a", 10), NOW, nobody).await.success);
        assert_eq!(
            stash.store(request("", 5), NOW, nobody).await.reason,
            "owner_id required"
        );
        let found = stash.request("a", "r", NOW);
        assert!(found.found);
        assert_eq!(found.ciphertext.as_slice().len(), 10);
        assert!(!stash.request("b", "r", NOW).found);
    }

    #[tokio::test]
    async fn strangers_do_not_keep_a_configured_peer_from_a_place() {
        let limits = ServerLimits {
            stash_owners: 2,
            ..ServerLimits::default()
        };
        let stash = Stash::new(&limits, None, NOW).unwrap();
        let configured = |owner: &str| owner.starts_with("conf");
        let store = |owner: &'static str, after| {
            let at = UnixSeconds::new(NOW.get() + after);
            stash.store(request(owner, 5), at, configured)
        };
        assert!(store("stranger-1", 0).await.success);
        assert!(store("stranger-2", 1).await.success);
        assert!(
            !store("stranger-3", 2).await.success,
            "strangers do not push out each other"
        );
        assert!(store("conf-1", 3).await.success);
        let has = |owner: &str| stash.request(owner, "", NOW).found;
        assert_eq!(
            ["stranger-1", "stranger-2", "conf-1"].map(has),
            [false, true, true]
        );
        assert!(store("conf-2", 4).await.success);
        assert!(
            !store("conf-3", 5).await.success,
            "configured peers do not push out each other"
        );
        assert!(!store("stranger-2", 6).await.success);
        assert_eq!(["conf-1", "conf-2"].map(has), [true, true]);
    }

    #[tokio::test]
    async fn a_stash_expires_and_makes_room() {
        let stash = stash(None);
        assert!(stash.store(request("a", 5), NOW, nobody).await.success);
        let late = UnixSeconds::new(NOW.get() + 101);
        assert!(!stash.request("a", "", late).found);
        assert!(stash.store(request("b", 5), late, nobody).await.success);
    }

    #[derive(Debug)]
    struct Failing;

    impl StashStore for Failing {
        fn load(&self) -> io::Result<Vec<SealedStash>> {
            let of = |owner: &str, size, stored_at| SealedStash {
                owner_id: owner.to_owned(),
                nonce: vec![0; 24],
                ciphertext: vec![1; size],
                stored_at: UnixSeconds::new(stored_at),
            };
            let now = NOW.get();
            Ok(vec![
                of("older", 5, now - 9),
                of("newest", 5, now - 1),
                of("large", 11, now),
                of("old", 5, now - 101),
            ])
        }

        fn save(&self, _: &SealedStash) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn remove(&self, _: &str) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn stored_stashes_are_loaded_within_the_limits() {
        let stash = stash(Some(Arc::new(Failing)));
        for (owner, found) in [
            ("newest", true),
            ("older", false),
            ("large", false),
            ("old", false),
        ] {
            assert_eq!(stash.request(owner, "", NOW).found, found, "{owner}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn a_stash_that_is_too_old_leaves_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::server::SqliteStash::open(folder.path().join("stash.db")).unwrap();
        let store: Arc<dyn StashStore> = Arc::new(store);
        let owners = || {
            let loaded = store.load().unwrap();
            loaded.into_iter().map(|stash| stash.owner_id).collect::<Vec<_>>()
        };
        let kept = stash(Some(store.clone()));
        assert!(kept.store(request("a", 5), NOW, nobody).await.success);
        let late = UnixSeconds::new(NOW.get() + 101);
        assert!(kept.store(request("b", 5), late, nobody).await.success);
        assert_eq!(owners(), ["b"]);
        // Also while no server was running.
        let later = UnixSeconds::new(NOW.get() + 202);
        let limits = ServerLimits {
            stash_age: Duration::from_secs(100),
            ..ServerLimits::default()
        };
        Stash::new(&limits, Some(store.clone()), later).unwrap();
        assert!(owners().is_empty());
    }

    #[tokio::test]
    async fn a_stash_that_is_not_stored_is_not_acknowledged() {
        let stash = stash(Some(Arc::new(Failing)));
        let ack = stash.store(request("newest", 5), NOW, nobody).await;
        assert_eq!((ack.success, ack.reason.as_str()), (false, "storage failed"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stash_is_pushed_at_a_hey_there_and_after_an_absence_and_not_too_often() {
        let stash = stash(None);
        stash.store(request("a", 5), NOW, nobody).await;
        assert!(!stash.wants_push("a", Sign::Call), "it was just heard");
        assert!(stash.wants_push("a", Sign::HeyThere));
        assert!(!stash.wants_push("a", Sign::HeyThere), "it was just pushed");
        tokio::time::advance(PUSH_PAUSE).await;
        assert!(!stash.wants_push("a", Sign::Call));
        assert!(stash.wants_push("a", Sign::HeyThere));
        tokio::time::advance(ABSENCE).await;
        assert!(stash.wants_push("a", Sign::Call));
        assert!(!stash.wants_push("a", Sign::Call));
        assert!(!stash.wants_push("b", Sign::HeyThere), "nothing is kept for it");
    }
}
