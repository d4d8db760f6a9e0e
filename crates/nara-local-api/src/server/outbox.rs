//! The outbox: undelivered messages that are kept, retried and listed.

pub(super) mod delivery;
pub(super) mod keep;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::time::UnixMillis;
use serde::Serialize;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::task::spawn_blocking;

use self::store::Store;
use super::database::DatabaseError;
use crate::Problem;
use crate::model::{DirectMessageReceipt, MessageReceipt, OutboxEntry, OutboxState, PostcardReceipt};

/// The most waiting messages.
const MAX_WAITING: usize = 1024;

/// The most waiting messages for one peer: they are sent in sequence.
const MAX_WAITING_OF_PEER: usize = 128;

/// The most bytes of waiting messages.
const MAX_BYTES: usize = 8 << 20;

/// The most bytes of messages waiting for one peer.
const MAX_BYTES_OF_PEER: usize = 1 << 20;

/// Finished messages that are still listed: the newest ones, …
const FINISHED: usize = 256;

/// … for this long.
const FINISHED_FOR: Duration = Duration::from_secs(7 * 86_400);

/// Capacity of the change channel: how far a reader may be behind.
const CHANGES: usize = 256;

/// Why the outbox cannot keep a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The nara is shutting down.
    #[error("the nara is shutting down")]
    Ending,
    /// The file cannot store it.
    #[error(transparent)]
    Store(#[from] DatabaseError),
    /// The outbox is full.
    #[error("{0}")]
    TooMany(String),
}

/// The outbox of a nara. Clones share it.
///
/// At most 1024 messages (8 MiB) wait, of which 128 (1 MiB) for one peer; further ones are refused.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held while the list changes, which waits for the disk. `None`: in memory.
    store: Mutex<Option<Store>>,
    is_durable: bool,
    kept: Mutex<Kept>,
    changes: broadcast::Sender<Change>,
    /// Notified when a message is added.
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<u64, OutboxEntry>,
    /// The newest id, in memory.
    newest: u64,
    /// Messages that are being sent.
    in_flight: BTreeSet<u64>,
    /// The senders that wait for the first attempt of a message.
    askers: HashMap<u64, oneshot::Sender<FirstAttempt>>,
}

/// A change of the outbox.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A message was added or changed.
    Entry(Box<OutboxEntry>),
    /// A message is no longer listed.
    Removed(u64),
}

/// The outcome of the first attempt of a message.
#[derive(Debug)]
pub(super) enum FirstAttempt {
    Delivered(Box<Delivered>),
    Refused(Box<Problem>),
    Failed,
}

/// The receipt for the sender of a delivered message: the same as without `later`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Delivered {
    DirectMessage(DirectMessageReceipt),
    Postcard(PostcardReceipt),
    RuntimeMessage(MessageReceipt),
}

/// The messages that wait for one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Queue {
    oldest: u64,
    newest: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::over(None, Vec::new())
    }
}

impl Outbox {
    /// Opens the outbox in this file, which is created if missing. Without a file ([`Outbox::default`])
    /// messages are lost when the nara stops.
    ///
    /// # Errors
    /// [`OutboxError`] if the file cannot be used.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, OutboxError> {
        let path = path.into();
        let opening = spawn_blocking(move || {
            let store = Store::open(&path)?;
            let entries = store.load()?;
            Ok(Self::over(Some(store), entries))
        });
        opening.await.unwrap_or(Err(OutboxError::Ending))
    }

    fn over(store: Option<Store>, entries: Vec<OutboxEntry>) -> Self {
        let is_durable = store.is_some();
        let entries = entries.into_iter().map(|entry| {
            let id = entry.id;
            (id, OutboxEntry { is_durable, ..entry })
        });
        Self(Arc::new(Inner {
            store: Mutex::new(store),
            is_durable,
            kept: Mutex::new(Kept {
                entries: entries.collect(),
                ..Kept::default()
            }),
            changes: broadcast::Sender::new(CHANGES),
            arrived: Notify::new(),
        }))
    }

    pub(super) fn is_durable(&self) -> bool {
        self.0.is_durable
    }

    /// Returns all messages, oldest first.
    pub(super) fn list(&self) -> Vec<OutboxEntry> {
        self.0.kept().entries.values().cloned().collect()
    }

    pub(super) fn one(&self, id: u64) -> Option<OutboxEntry> {
        self.0.kept().entries.get(&id).cloned()
    }

    /// Returns all messages, and a receiver of later changes.
    pub(super) fn watch(&self) -> (Vec<OutboxEntry>, broadcast::Receiver<Change>) {
        let kept = self.0.kept();
        (
            kept.entries.values().cloned().collect(),
            self.0.changes.subscribe(),
        )
    }

    /// Adds a message; returns it with its id, and a receiver for the outcome of its first attempt. A message
    /// that already waits for this peer is not added twice.
    pub(super) async fn put(
        &self,
        draft: OutboxEntry,
    ) -> Result<(OutboxEntry, oneshot::Receiver<FirstAttempt>), OutboxError> {
        self.change(move |inner, store| inner.put(store, draft)).await?
    }

    /// Withdraws a message; returns its last state if it was listed.
    pub(super) async fn remove(&self, id: u64) -> Result<Option<OutboxEntry>, OutboxError> {
        self.change(move |inner, store| inner.remove(store, id)).await?
    }

    /// Expires messages, and removes old finished ones.
    async fn expire(&self, now: UnixMillis) {
        let expiring = self.change(move |inner, store| inner.expire(store, now));
        if let Err(error) = expiring.await {
            tracing::debug!(%error, "cannot expire messages of the outbox");
        }
    }

    /// Returns the waiting messages, by peer.
    fn queues(&self) -> BTreeMap<String, Queue> {
        let mut queues = BTreeMap::new();
        for entry in self.0.kept().waiting() {
            let id = entry.id;
            let first = Queue {
                oldest: id,
                newest: id,
            };
            queues.entry(entry.peer.clone()).or_insert(first).newest = id;
        }
        queues
    }

    /// Marks a message as being sent. `None` if it is no longer waiting.
    fn begin(&self, id: u64) -> Option<OutboxEntry> {
        let mut kept = self.0.kept();
        let entry = kept
            .entries
            .get(&id)
            .filter(|entry| entry.state == OutboxState::Waiting)?
            .clone();
        kept.in_flight.insert(id);
        Some(entry)
    }

    /// Records the end of an attempt. `changed`: the new state of the message; `told`: the outcome for the
    /// waiting sender.
    async fn end(&self, changed: OutboxEntry, told: FirstAttempt) {
        let ending = self.change(move |inner, store| inner.end(store, changed, told));
        if let Err(error) = ending.await {
            tracing::debug!(%error, "cannot record the end of a delivery attempt");
        }
    }

    /// Changes the list on a blocking thread. The change completes even if the caller is cancelled.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Inner, Option<&Store>) -> T + Send + 'static,
    ) -> Result<T, OutboxError> {
        let inner = self.0.clone();
        let changing = spawn_blocking(move || {
            let store = inner.store.lock().unwrap_or_else(PoisonError::into_inner);
            change(&inner, store.as_ref())
        });
        changing.await.map_err(|_| OutboxError::Ending)
    }
}

impl Inner {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No method leaves the list half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(
        &self,
        store: Option<&Store>,
        draft: OutboxEntry,
    ) -> Result<(OutboxEntry, oneshot::Receiver<FirstAttempt>), OutboxError> {
        let (asker, answer) = oneshot::channel();
        {
            let mut kept = self.kept();
            let is_same = |entry: &&OutboxEntry| entry.peer == draft.peer && entry.event_id == draft.event_id;
            let same = kept.waiting().find(is_same).cloned();
            if let Some(same) = same {
                kept.askers.insert(same.id, asker);
                return Ok((same, answer));
            }
            kept.check_room(&draft)?;
        }
        let mut entry = OutboxEntry {
            is_durable: self.is_durable,
            ..draft
        };
        let stored = store.map(|store| store.add(&entry)).transpose()?;
        let mut kept = self.kept();
        kept.newest += 1;
        entry.id = stored.unwrap_or(kept.newest);
        kept.askers.insert(entry.id, asker);
        kept.entries.insert(entry.id, entry.clone());
        drop(kept);
        self.tell(Change::Entry(Box::new(entry.clone())));
        self.arrived.notify_one();
        Ok((entry, answer))
    }

    fn remove(&self, store: Option<&Store>, id: u64) -> Result<Option<OutboxEntry>, OutboxError> {
        if !self.kept().entries.contains_key(&id) {
            return Ok(None);
        }
        // Removed from the file first: a withdrawn message must not be sent after a restart.
        store.map(|store| store.remove(id)).transpose()?;
        let mut kept = self.kept();
        kept.askers.remove(&id);
        let is_in_flight = kept.in_flight.remove(&id);
        let mut removed = kept.entries.remove(&id);
        drop(kept);
        if let Some(entry) = &mut removed {
            entry.may_have_arrived |= is_in_flight;
        }
        self.tell(Change::Removed(id));
        Ok(removed)
    }

    fn expire(&self, store: Option<&Store>, now: UnixMillis) {
        let (mut expired, old) = {
            let kept = self.kept();
            let is_late = |entry: &&OutboxEntry| {
                entry.expires_at_ms <= now.get() && !kept.in_flight.contains(&entry.id)
            };
            let expired: Vec<OutboxEntry> = kept.waiting().filter(is_late).cloned().collect();
            (expired, kept.old(now))
        };
        for entry in &mut expired {
            tracing::warn!(id = entry.id, peer = %entry.peer, "a message was not delivered in its time");
            entry.state = OutboxState::Expired;
            entry.finished_at_ms = Some(now.get());
            self.replace(store, entry.clone());
        }
        for id in old {
            if let Some(Err(error)) = store.map(|store| store.remove(id)) {
                tracing::warn!(
                    id,
                    error = &error as &dyn std::error::Error,
                    "cannot remove an old message from the outbox"
                );
            }
            self.kept().entries.remove(&id);
            self.tell(Change::Removed(id));
        }
    }

    fn end(&self, store: Option<&Store>, changed: OutboxEntry, told: FirstAttempt) {
        if !self.kept().in_flight.remove(&changed.id) {
            // It was withdrawn meanwhile.
            return;
        }
        let (id, peer) = (changed.id, changed.peer.clone());
        let has_failed = changed.state == OutboxState::Waiting;
        self.replace(store, changed);
        let mut kept = self.kept();
        // The sender may have disconnected.
        if let Some(asker) = kept.askers.remove(&id) {
            let _ = asker.send(told);
        }
        if has_failed {
            // Other messages for this peer are tried after this one.
            let others = kept.waiting().filter(|entry| entry.peer == peer);
            let others: Vec<u64> = others.map(|entry| entry.id).collect();
            for asker in others.iter().filter_map(|id| kept.askers.remove(id)) {
                let _ = asker.send(FirstAttempt::Failed);
            }
        }
    }

    /// Stores the new state of a message. If the disk refuses it, the state is lost when the nara stops: then
    /// the message is sent again, and its recipient detects the duplicate.
    fn replace(&self, store: Option<&Store>, entry: OutboxEntry) {
        if let Some(Err(error)) = store.map(|store| store.replace(&entry)) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(id = entry.id, error, "cannot store the state of a message");
        }
        self.kept().entries.insert(entry.id, entry.clone());
        self.tell(Change::Entry(Box::new(entry)));
    }

    fn tell(&self, change: Change) {
        // There may be no receiver.
        let _ = self.changes.send(change);
    }
}

impl Kept {
    fn waiting(&self) -> impl Iterator<Item = &OutboxEntry> {
        let entries = self.entries.values();
        entries.filter(|entry| entry.state == OutboxState::Waiting)
    }

    fn check_room(&self, draft: &OutboxEntry) -> Result<(), OutboxError> {
        let size = |entry: &OutboxEntry| entry.event.as_json().len();
        let new = size(draft);
        let [mut count, mut bytes, mut count_of_peer, mut bytes_of_peer] = [0; 4];
        for entry in self.waiting() {
            count += 1;
            bytes += size(entry);
            if entry.peer == draft.peer {
                count_of_peer += 1;
                bytes_of_peer += size(entry);
            }
        }
        let full = if count_of_peer >= MAX_WAITING_OF_PEER {
            format!("{count_of_peer} messages already wait for {}", draft.peer)
        } else if bytes_of_peer + new > MAX_BYTES_OF_PEER {
            format!(
                "the messages that wait for {} already have {bytes_of_peer} bytes",
                draft.peer
            )
        } else if count >= MAX_WAITING {
            format!("{count} messages already wait in the outbox")
        } else if bytes + new > MAX_BYTES {
            format!("the messages in the outbox already have {bytes} bytes")
        } else {
            return Ok(());
        };
        Err(OutboxError::TooMany(full))
    }

    /// Returns finished messages that are no longer listed.
    fn old(&self, now: UnixMillis) -> Vec<u64> {
        let mut finished: Vec<(i64, u64)> = self
            .entries
            .values()
            .filter_map(|entry| Some((entry.finished_at_ms?, entry.id)))
            .collect();
        finished.sort_unstable_by(|a, b| b.cmp(a));
        let oldest = now.saturating_sub(FINISHED_FOR).get();
        let is_old = |(index, (at, _)): &(usize, (i64, u64))| *index >= FINISHED || *at < oldest;
        let old = finished.into_iter().enumerate().filter(is_old);
        old.map(|(_, (_, id))| id).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Creates a message for a peer, whose event has this many bytes of text.
    pub(super) fn entry(peer: &str, bytes: usize) -> OutboxEntry {
        numbered(peer, bytes, 0)
    }

    fn numbered(peer: &str, bytes: usize, number: usize) -> OutboxEntry {
        serde_json::from_value(json!({
            "id": 0,
            "peer": peer,
            "event_id": format!("event-{number}"),
            "event": { "text": "x".repeat(bytes) },
            "state": "waiting",
            "queued_at_ms": 0,
            "expires_at_ms": 1000,
        }))
        .unwrap()
    }

    async fn fill(outbox: &Outbox, peer: &str, bytes: usize, count: usize) -> String {
        for number in 0..count {
            outbox.put(numbered(peer, bytes, number)).await.unwrap();
        }
        let refused = outbox.put(numbered(peer, bytes, count)).await.unwrap_err();
        assert!(matches!(refused, OutboxError::TooMany(_)), "{refused:?}");
        refused.to_string()
    }

    #[tokio::test]
    async fn the_outbox_is_bounded_by_number_and_bytes_for_each_peer_and_in_all() {
        let outbox = Outbox::default();
        let full = fill(&outbox, "bob", 0, MAX_WAITING_OF_PEER).await;
        assert!(full.contains("128 messages already wait for bob"), "{full}");
        for number in 0..7 {
            fill(&outbox, &format!("peer-{number}"), 0, MAX_WAITING_OF_PEER).await;
        }
        let full = outbox.put(entry("carol", 0)).await.unwrap_err().to_string();
        assert!(full.contains("1024 messages"), "{full}");

        let outbox = Outbox::default();
        let full = fill(&outbox, "bob", 60_000, 17).await;
        assert!(full.contains("wait for bob already have"), "{full}");
        for number in 0..7 {
            fill(&outbox, &format!("peer-{number}"), 60_000, 17).await;
        }
        for number in 0..3 {
            outbox.put(numbered("carol", 60_000, number)).await.unwrap();
        }
        let full = outbox.put(numbered("carol", 60_000, 4)).await.unwrap_err();
        assert!(full.to_string().contains("in the outbox already have"), "{full}");
        // Withdrawing a message frees space.
        outbox.remove(1).await.unwrap().unwrap();
        outbox.put(numbered("carol", 60_000, 4)).await.unwrap();
    }

    #[tokio::test]
    async fn a_message_that_waits_already_is_not_kept_twice() {
        let outbox = Outbox::default();
        let (first, _) = outbox.put(entry("bob", 0)).await.unwrap();
        let (second, _) = outbox.put(entry("bob", 0)).await.unwrap();
        let (other, _) = outbox.put(entry("carol", 0)).await.unwrap();
        assert_eq!((first.id, second.id, other.id), (1, 1, 2));
        assert!(!first.is_durable);
    }

    #[tokio::test]
    async fn messages_expire_are_listed_for_a_while_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let outbox = Outbox::open(&path).await.unwrap();
        let (kept, _) = outbox.put(entry("bob", 0)).await.unwrap();
        assert!(kept.is_durable);
        outbox.expire(UnixMillis::new(999)).await;
        assert_eq!(outbox.queues()["bob"], Queue { oldest: 1, newest: 1 });
        outbox.expire(UnixMillis::new(1000)).await;
        assert!(outbox.queues().is_empty());
        drop(outbox);
        let outbox = Outbox::open(&path).await.unwrap();
        let listed = outbox.one(1).unwrap();
        assert_eq!(
            (listed.state, listed.finished_at_ms),
            (OutboxState::Expired, Some(1000))
        );
        let week = i64::try_from(FINISHED_FOR.as_millis()).unwrap();
        outbox.expire(UnixMillis::new(1000 + week)).await;
        assert_eq!(outbox.list().len(), 1);
        outbox.expire(UnixMillis::new(1001 + week)).await;
        assert!(outbox.list().is_empty());
        drop(outbox);
        assert!(Outbox::open(&path).await.unwrap().list().is_empty());
    }

    #[tokio::test]
    async fn finished_messages_are_bounded() {
        let outbox = Outbox::default();
        for number in 0..FINISHED + 10 {
            let (entry, _) = outbox.put(numbered("bob", 0, number)).await.unwrap();
            outbox.begin(entry.id).unwrap();
            let delivered = OutboxEntry {
                state: OutboxState::Delivered,
                finished_at_ms: Some(i64::try_from(number).unwrap()),
                ..entry
            };
            outbox.end(delivered, FirstAttempt::Failed).await;
        }
        outbox.expire(UnixMillis::new(0)).await;
        let listed = outbox.list();
        assert_eq!((listed.len(), listed[0].id), (FINISHED, 11));
    }

    #[tokio::test]
    async fn a_message_that_is_taken_back_while_it_is_sent_says_that_it_may_have_arrived() {
        let outbox = Outbox::default();
        let (entry, first) = outbox.put(entry("bob", 0)).await.unwrap();
        let sent = outbox.begin(entry.id).unwrap();
        let taken = outbox.remove(entry.id).await.unwrap().unwrap();
        assert!(taken.may_have_arrived && !entry.may_have_arrived);
        outbox.end(sent, FirstAttempt::Failed).await;
        assert!(outbox.list().is_empty() && first.await.is_err());
        assert!(outbox.begin(entry.id).is_none());
    }
}
