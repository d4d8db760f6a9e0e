//! What came in for the nara, until a program has acknowledged it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::server::VerifiedSender;
use nara_proto::event::SyncEvent;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::model::{Event, InboxKind, InboxMessage, ReceivedPostcard};

/// The most messages that wait.
const MAX_MESSAGES: usize = 1024;

/// The most messages of one sender that wait: one that floods drops its own.
const MAX_PER_SENDER: usize = 256;

/// The most bytes of the messages that wait.
const MAX_BYTES: usize = 8 << 20;

/// A place in the inbox of one run of the nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
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

/// Verified messages for this nara, kept in memory until a program acknowledges them. Cloning gives another handle to the
/// same inbox.
///
/// The [`MeshHandler`](nara_mesh::server::MeshHandler) of the nara puts them in. 1024 messages and 8 MiB wait at most, and 256
/// of one sender; beyond it the oldest of whoever has the most there is dropped and counted, so that nobody pushes out the
/// few messages of another.
#[derive(Clone, Debug)]
pub struct Inbox(Arc<Shelf>);

#[derive(Debug)]
struct Shelf {
    run: i64,
    kept: Mutex<Kept>,
    /// The number of the newest message.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    by: String,
    bytes: usize,
    message: InboxMessage,
}

impl Default for Inbox {
    fn default() -> Self {
        Self(Arc::new(Shelf {
            run: SystemClock.now_millis().get(),
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
        }))
    }
}

impl Inbox {
    /// Keeps a direct message.
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

    /// Keeps a postcard. `is_home`: it is one of this nara.
    pub fn postcard(&self, postcard: &WorldMessage, is_home: bool) {
        let hops: Vec<String> = postcard.hops().iter().map(|hop| hop.nara.clone()).collect();
        let bytes = postcard.message.len() + hops.iter().map(String::len).sum::<usize>();
        // The last hop is ours. The one before it, whose signature the server verified, handed the postcard over; the
        // originator is what that one says.
        let by = hops.iter().rev().nth(1).unwrap_or(&postcard.originator).clone();
        let received = ReceivedPostcard {
            message_id: postcard.id.clone(),
            message: postcard.message.clone(),
            hops,
            is_home,
        };
        let message = InboxMessage {
            postcard: Some(received),
            ..blank(InboxKind::Postcard, &postcard.originator)
        };
        self.put(&by, bytes, message);
    }

    /// Keeps a runtime message.
    pub fn runtime_message(&self, received: &RuntimeMessage) {
        let json = String::from_utf8(received.to_json()).unwrap_or_default();
        let Ok(json) = RawValue::from_string(json) else {
            return;
        };
        let bytes = json.get().len();
        let message = InboxMessage {
            message: Some(json),
            ..blank(InboxKind::RuntimeMessage, &received.from_id)
        };
        self.put(&received.from_id, bytes, message);
    }

    /// `by`: who handed it over, and whose messages it may push out.
    fn put(&self, by: &str, bytes: usize, mut message: InboxMessage) {
        let mut kept = self.kept();
        let seq = *self.0.newest.borrow() + 1;
        message.cursor = self.place(seq).to_string();
        let bytes = bytes + message.from.len() + by.len();
        if kept.messages.iter().filter(|entry| entry.by == by).count() >= MAX_PER_SENDER
            && let Some(oldest) = kept.messages.iter().position(|entry| entry.by == by)
        {
            kept.drop_at(oldest);
        }
        kept.bytes += bytes;
        let by = by.to_owned();
        kept.messages.push_back(Entry {
            seq,
            by,
            bytes,
            message,
        });
        while kept.messages.len() > MAX_MESSAGES || kept.bytes > MAX_BYTES {
            let oldest = kept.oldest_of_heaviest();
            kept.drop_at(oldest);
        }
        self.0.newest.send_replace(seq);
    }

    /// The place behind everything that came in until now.
    pub(super) fn end(&self) -> Place {
        self.place(*self.0.newest.borrow())
    }

    /// The place before everything.
    pub(super) fn start(&self) -> Place {
        self.place(0)
    }

    /// Whether a place belongs to this run of the nara.
    pub(super) fn has(&self, place: Place) -> bool {
        place.run == self.0.run
    }

    /// The oldest messages behind a place, and how many were dropped so far.
    pub(super) fn behind(&self, place: Place, most: usize) -> (Vec<InboxMessage>, u64) {
        let kept = self.kept();
        let begin = kept.messages.partition_point(|entry| entry.seq <= place.seq);
        let messages = kept.messages.iter().skip(begin).take(most);
        (
            messages.map(|entry| entry.message.clone()).collect(),
            kept.dropped,
        )
    }

    /// Removes the messages up to a place. Returns how many.
    pub(super) fn acknowledge(&self, through: Place) -> usize {
        let mut kept = self.kept();
        let end = kept.messages.partition_point(|entry| entry.seq <= through.seq);
        let bytes: usize = kept.messages.drain(..end).map(|entry| entry.bytes).sum();
        kept.bytes -= bytes;
        end
    }

    /// Tells of new messages.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.0.newest.subscribe()
    }

    fn place(&self, seq: u64) -> Place {
        Place { run: self.0.run, seq }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No method leaves the list half changed.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that arrives now, still empty.
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

impl Kept {
    /// Where the oldest message of the sender is who takes the largest part of the inbox, in messages and bytes together.
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
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::time::UnixNanos;

    use super::*;

    fn postcard(from: &str, number: usize) -> WorldMessage {
        WorldMessage::new(from, "hello", UnixNanos::new(i64::try_from(number).unwrap()))
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
        assert!(
            !Inbox(Arc::new(Shelf {
                run: 1,
                kept: Mutex::default(),
                newest: watch::Sender::new(0),
            }))
            .has(place)
        );
        assert!("x-1".parse::<Place>().is_err() && "1".parse::<Place>().is_err());
    }
}
