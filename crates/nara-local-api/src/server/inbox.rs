//! The inbox: incoming messages that no program has acknowledged.

mod store;
mod writer;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::server::VerifiedSender;
use nara_proto::event::SyncEvent;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use self::store::{Batch, Loaded, Store};
use self::writer::Writer;
use super::database::DatabaseError;
use crate::model::{Event, InboxKind, InboxMessage, ReceivedPostcard};

/// The most unacknowledged messages.
const MAX_MESSAGES: usize = 1024;

/// The most unacknowledged messages of one sender: a sender that floods the inbox drops its own.
const MAX_PER_SENDER: usize = 256;

/// The most bytes of unacknowledged messages.
const MAX_BYTES: usize = 8 << 20;

/// Runtime messages that are remembered to detect duplicates: senders retry unanswered ones.
const RECENT: usize = 1024;

/// Sequence numbers skipped at a restart: programs may have seen some that were not written to the file.
const LEAP: u64 = 1 << 32;

/// A position in an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The inbox, identified by its creation time.
    run: i64,
    seq: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.run, self.seq)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, seq) = text.split_once('-').ok_or(())?;
        Ok(Self {
            run: i64::from_str_radix(run, 16).map_err(drop)?,
            seq: seq.parse().map_err(drop)?,
        })
    }
}

/// Verified messages for this nara, kept until a program acknowledges them. Clones share the same inbox.
///
/// The [`MeshHandler`](nara_mesh::server::MeshHandler) of the nara adds them. The inbox holds at most 1024
/// messages and 8 MiB, and 256 messages of one sender. Beyond that, the oldest message of the sender with the
/// largest share is dropped and counted, so that no sender can displace the few messages of another.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    run: i64,
    kept: Arc<Mutex<Kept>>,
    /// The sequence number of the newest message.
    newest: watch::Sender<u64>,
    /// The writer of the file, if there is one.
    writer: Option<Writer>,
}

#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
    /// Fingerprints of the newest runtime messages.
    recent: VecDeque<u64>,
    marks: RandomState,
    /// Changes that are not written to the file yet.
    changes: Changes,
    /// Whether the last write failed.
    is_failing: bool,
}

/// Changes that are not written to the file yet.
#[derive(Debug, Default)]
struct Changes {
    /// The number of changes so far.
    count: u64,
    newest: u64,
    added: BTreeSet<u64>,
    removed: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
struct Entry {
    seq: u64,
    by: String,
    bytes: usize,
    message: Arc<InboxMessage>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::over(SystemClock.now_millis().get(), 0, Kept::default(), None)
    }
}

impl Inbox {
    /// Opens the inbox in this file, which is created if missing. Without a file ([`Inbox::default`])
    /// messages are lost when the nara stops.
    ///
    /// # Errors
    /// [`DatabaseError`] if the file cannot be used.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, DatabaseError> {
        let path = path.into();
        let opening = spawn_blocking(move || {
            let mut store = Store::open(&path, SystemClock.now_millis().get())?;
            let Loaded { run, newest, entries } = store.load()?;
            let newest = newest + LEAP;
            let mut kept = Kept::default();
            kept.changes.newest = newest;
            for entry in entries {
                kept.note(&entry);
                kept.add(entry);
                // They come from the file.
                kept.changes.added.clear();
            }
            kept.changes.count = 0;
            let leap = Batch {
                newest,
                ..Batch::default()
            };
            let run = match store.apply(&leap) {
                Ok(()) => run,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "the inbox can be read but not written: its cursors become invalid"
                    );
                    kept.is_failing = true;
                    SystemClock.now_millis().get()
                }
            };
            Ok(Self::over(run, newest, kept, Some(store)))
        });
        opening
            .await
            .unwrap_or_else(|error| Err(DatabaseError::Failed(error.into())))
    }

    fn over(run: i64, newest: u64, kept: Kept, store: Option<Store>) -> Self {
        let kept = Arc::new(Mutex::new(kept));
        Self(Arc::new(Shelf {
            run,
            writer: store.map(|store| Writer::start(store, kept.clone())),
            kept,
            newest: watch::Sender::new(newest),
        }))
    }

    /// Waits until all changes so far are written or have failed.
    pub async fn settled(&self) {
        let count = self.kept().changes.count;
        if let Some(writer) = &self.0.writer {
            writer.has_handled(count).await;
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.0.writer.is_some() && !self.kept().is_failing
    }

    /// Adds a direct message.
    pub fn direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        let event = Event::of(event);
        let bytes = event.as_json().len();
        let sender = sender.name().as_str();
        let message = InboxMessage {
            event: Some(event),
            ..blank(InboxKind::DirectMessage, sender)
        };
        self.put(sender, bytes, message);
    }

    /// Adds a postcard. `is_home`: this nara sent it.
    pub fn postcard(&self, postcard: &WorldMessage, is_home: bool) {
        let hops: Vec<String> = postcard.hops().iter().map(|hop| hop.nara.clone()).collect();
        let bytes =
            postcard.message.len() + postcard.originator.len() + hops.iter().map(String::len).sum::<usize>();
        // The last hop is ours.
        let by = postcard.relayed_by().unwrap_or(&postcard.originator);
        let received = ReceivedPostcard {
            message_id: postcard.id.clone(),
            message: postcard.message.clone(),
            originator: postcard.originator.clone(),
            hops,
            is_home,
        };
        let message = InboxMessage {
            postcard: Some(received),
            ..blank(InboxKind::Postcard, by)
        };
        self.put(by, bytes, message);
    }

    /// Adds a runtime message.
    pub fn runtime_message(&self, received: &RuntimeMessage) {
        let json = String::from_utf8(received.to_json()).unwrap_or_default();
        let Ok(json) = RawValue::from_string(json) else {
            return;
        };
        let bytes = json.get().len();
        if !self.kept().is_new(&received.from_id, &received.id) {
            return;
        }
        let message = InboxMessage {
            message: Some(json),
            ..blank(InboxKind::RuntimeMessage, &received.from_id)
        };
        self.put(&received.from_id, bytes, message);
    }

    /// `by`: the sender that handed it over, which determines whose messages it may displace.
    fn put(&self, by: &str, bytes: usize, message: InboxMessage) {
        let mut kept = self.kept();
        let seq = *self.0.newest.borrow() + 1;
        let bytes = bytes + message.from.len() + by.len();
        kept.add(Entry {
            seq,
            by: by.to_owned(),
            bytes,
            message: Arc::new(message),
        });
        kept.changes.newest = seq;
        self.0.newest.send_replace(seq);
        drop(kept);
        self.has_changed();
    }

    /// Returns the position after all messages so far.
    pub(super) fn end(&self) -> Place {
        self.place(*self.0.newest.borrow())
    }

    /// Returns the position before all messages.
    pub(super) fn start(&self) -> Place {
        self.place(0)
    }

    /// Returns whether a position belongs to this inbox.
    pub(super) fn has(&self, place: Place) -> bool {
        place.run == self.0.run
    }

    /// Returns the oldest messages after a position, and how many were dropped so far.
    pub(super) fn behind(&self, place: Place, most: usize) -> (Vec<InboxMessage>, u64) {
        let kept = self.kept();
        let begin = kept.messages.partition_point(|entry| entry.seq <= place.seq);
        let messages = kept.messages.iter().skip(begin).take(most);
        (messages.map(|entry| self.message(entry)).collect(), kept.dropped)
    }

    /// Removes the messages up to a position. Returns how many.
    pub(super) fn acknowledge(&self, through: Place) -> usize {
        let mut kept = self.kept();
        let end = kept.messages.partition_point(|entry| entry.seq <= through.seq);
        let gone: Vec<Entry> = kept.messages.drain(..end).collect();
        for entry in gone {
            kept.bytes -= entry.bytes;
            kept.changes.remove(entry.seq);
        }
        drop(kept);
        self.has_changed();
        end
    }

    /// Subscribes to new messages.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    fn message(&self, entry: &Entry) -> InboxMessage {
        InboxMessage {
            cursor: self.place(entry.seq).to_string(),
            ..InboxMessage::clone(&entry.message)
        }
    }

    fn has_changed(&self) {
        if let Some(writer) = &self.0.writer {
            writer.wake();
        }
    }

    fn place(&self, seq: u64) -> Place {
        Place { run: self.0.run, seq }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No method leaves the list half changed.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates an empty message that arrives now.
fn blank(kind: InboxKind, from: &str) -> InboxMessage {
    InboxMessage {
        cursor: String::new(),
        received_at_ms: SystemClock.now_millis().get(),
        kind,
        from: from.to_owned(),
        event: None,
        postcard: None,
        message: None,
    }
}

impl Changes {
    fn add(&mut self, seq: u64) {
        self.count += 1;
        self.added.insert(seq);
    }

    fn remove(&mut self, seq: u64) {
        self.count += 1;
        // If the file does not have it yet, it is not written at all.
        if !self.added.remove(&seq) {
            self.removed.insert(seq);
        }
    }
}

impl Kept {
    /// Returns whether a runtime message is not a duplicate, and remembers it.
    fn is_new(&mut self, from: &str, id: &str) -> bool {
        let mark = self.marks.hash_one((from, id));
        if id.is_empty() || self.recent.contains(&mark) {
            return id.is_empty();
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(mark);
        true
    }

    /// Remembers a runtime message from the file.
    fn note(&mut self, entry: &Entry) {
        let json = entry.message.message.as_ref().map(|json| json.get().as_bytes());
        if let Some(Ok(message)) = json.map(RuntimeMessage::from_json) {
            self.is_new(&message.from_id, &message.id);
        }
    }

    /// Adds a message, and drops others to make space.
    fn add(&mut self, entry: Entry) {
        let by = &entry.by;
        if self.messages.iter().filter(|entry| entry.by == *by).count() >= MAX_PER_SENDER
            && let Some(oldest) = self.messages.iter().position(|entry| entry.by == *by)
        {
            self.drop_at(oldest);
        }
        self.bytes += entry.bytes;
        self.changes.add(entry.seq);
        self.messages.push_back(entry);
        while self.messages.len() > MAX_MESSAGES || self.bytes > MAX_BYTES {
            let oldest = self.oldest_of_heaviest();
            self.drop_at(oldest);
        }
    }

    /// Returns the index of the oldest message of the sender with the largest share of the inbox, in messages
    /// and bytes combined.
    fn oldest_of_heaviest(&self) -> usize {
        let mut parts: HashMap<&str, usize> = HashMap::new();
        for entry in &self.messages {
            *parts.entry(&entry.by).or_default() += MAX_BYTES / MAX_MESSAGES + entry.bytes;
        }
        let largest = parts.values().max();
        let is_heaviest = |entry: &Entry| parts.get(entry.by.as_str()) == largest;
        self.messages.iter().position(is_heaviest).unwrap_or_default()
    }

    fn drop_at(&mut self, index: usize) {
        if let Some(entry) = self.messages.remove(index) {
            self.bytes -= entry.bytes;
            self.dropped += 1;
            self.changes.remove(entry.seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_mesh::LocalNara;
    use nara_proto::time::UnixNanos;

    use super::*;

    fn postcard(from: &str, number: usize) -> WorldMessage {
        WorldMessage::new(from, "hello", UnixNanos::new(i64::try_from(number).unwrap()))
    }

    #[test]
    fn a_postcard_is_from_the_nara_that_handed_it_over() {
        let [mallory, own] = ["mallory", "bob"].map(|name| LocalNara::generate(name).unwrap());
        let mut message = WorldMessage::new("alice", "I resign", UnixNanos::new(1));
        for nara in [&mallory, &own] {
            let now = SystemClock.now_millis().to_seconds();
            message
                .add_hop(nara.name().as_str(), now, nara.keypair())
                .unwrap();
        }
        let inbox = Inbox::default();
        inbox.postcard(&message, false);
        let (messages, _) = inbox.behind(inbox.start(), 10);
        assert_eq!(messages[0].from, "mallory");
        assert_eq!(messages[0].postcard.as_ref().unwrap().originator, "alice");
    }

    #[test]
    fn many_senders_that_flood_together_leave_the_few_messages_of_another() {
        let inbox = Inbox::default();
        inbox.postcard(&postcard("bob", 0), false);
        for number in 1..=2 * MAX_MESSAGES {
            inbox.postcard(&postcard(&format!("flood-{}", number % 8), number), false);
        }
        let (kept, dropped) = inbox.behind(inbox.start(), usize::MAX);
        assert_eq!((kept.len(), kept[0].from.as_str()), (MAX_MESSAGES, "bob"));
        assert_eq!(dropped, u64::try_from(MAX_MESSAGES + 1).unwrap());
    }

    #[test]
    fn one_large_message_goes_before_the_small_ones_of_others() {
        let inbox = Inbox::default();
        inbox.postcard(&postcard("bob", 0), false);
        for number in 1..=20 {
            let large = WorldMessage::new("carol", &"x".repeat(1 << 20), UnixNanos::new(number));
            inbox.postcard(&large, false);
        }
        let (kept, _) = inbox.behind(inbox.start(), usize::MAX);
        assert_eq!((kept.len(), kept[0].from.as_str()), (8, "bob"));
    }

    #[test]
    fn a_runtime_message_that_is_sent_again_is_kept_once() {
        let nara = LocalNara::generate("bob").unwrap();
        let inbox = Inbox::default();
        let message = |second: &str, id: &str| {
            let json = format!(
                r#"{{"id":"{id}","kind":"stash:ack","version":1,"from_id":"{}","timestamp":"2026-01-01T00:00:{second}Z","payload":{{}}}}"#,
                nara.id()
            );
            RuntimeMessage::from_json(json.as_bytes()).unwrap()
        };
        for received in [message("01", "a"), message("02", "b"), message("01", "a")] {
            inbox.runtime_message(&received);
        }
        assert_eq!(inbox.behind(inbox.start(), 10).0.len(), 2);
        // Also after it is acknowledged.
        inbox.acknowledge(inbox.end());
        inbox.runtime_message(&message("01", "a"));
        assert!(inbox.behind(inbox.start(), 10).0.is_empty());
        // Without an id, duplicates cannot be detected.
        for _ in 0..2 {
            inbox.runtime_message(&message("03", ""));
        }
        assert_eq!(inbox.behind(inbox.start(), 10).0.len(), 2);
    }

    #[test]
    fn messages_are_kept_until_they_are_acknowledged() {
        let inbox = Inbox::default();
        for number in 1..=3 {
            inbox.postcard(&postcard("bob", number), false);
        }
        let (first, _) = inbox.behind(inbox.start(), 2);
        assert_eq!(first.len(), 2);
        let place: Place = first[1].cursor.parse().unwrap();
        assert!(inbox.has(place));
        assert_eq!(inbox.acknowledge(place), 2);
        assert_eq!(inbox.acknowledge(place), 0);
        let (rest, dropped) = inbox.behind(inbox.start(), 10);
        assert_eq!((rest.len(), dropped), (1, 0));
        assert!(inbox.behind(inbox.end(), 10).0.is_empty());
        assert!(!Inbox::over(1, 0, Kept::default(), None).has(place));
        assert!("x-1".parse::<Place>().is_err() && "1".parse::<Place>().is_err());
    }
}
