//! Replies to runtime messages, which arrive as separate requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_proto::runtime_message::RuntimeMessage;
use tokio::sync::oneshot;

use super::error::Problem;

/// The runtime messages that await replies. Cloning gives another handle to the same table.
///
/// The client waits in [`call_runtime`](super::PeerHandle::call_runtime); the server passes every runtime message
/// to [`PendingReplies::resolve`] once its signature is verified.
#[derive(Clone, Debug)]
pub struct PendingReplies {
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
    capacity: usize,
}

#[derive(Debug)]
struct Waiting {
    /// The nara id that must reply; empty for any.
    from_id: String,
    reply: oneshot::Sender<RuntimeMessage>,
}

/// Removes the message from the table when the caller is gone.
#[derive(Debug)]
pub(super) struct PendingReply {
    table: PendingReplies,
    id: String,
    pub(super) reply: oneshot::Receiver<RuntimeMessage>,
}

impl Default for PendingReplies {
    fn default() -> Self {
        Self::with_capacity(Self::CAPACITY)
    }
}

impl PendingReplies {
    /// Default capacity, in messages.
    pub const CAPACITY: usize = 1024;

    /// Creates a table for at most `capacity` messages.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            waiting: Arc::default(),
            capacity,
        }
    }

    /// Delivers a message whose signature is **verified**. Returns it if no caller awaits it, or if it comes from
    /// a nara other than the one that was asked.
    ///
    /// # Errors
    /// The message itself, to be handled as unsolicited.
    pub fn resolve(&self, message: RuntimeMessage) -> Result<(), Box<RuntimeMessage>> {
        let mut waiting = self.lock();
        let expected = waiting
            .get(&message.in_reply_to)
            .is_some_and(|waiting| waiting.from_id.is_empty() || waiting.from_id == message.from_id);
        if !expected {
            return Err(Box::new(message));
        }
        match waiting.remove(&message.in_reply_to) {
            Some(waiting) => waiting.reply.send(message).map_err(Box::new),
            None => Err(Box::new(message)),
        }
    }

    /// Returns the number of messages that await replies.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns whether no message awaits a reply.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Registers a wait for the reply to `message` from the nara with id `from_id`; empty for any.
    pub(super) fn wait_for(&self, message: &RuntimeMessage, from_id: &str) -> Result<PendingReply, Problem> {
        let mut waiting = self.lock();
        if waiting.len() >= self.capacity {
            return Err(Problem::TooManyPending(self.capacity));
        }
        if message.id.is_empty() || waiting.contains_key(&message.id) {
            return Err(Problem::DuplicateMessage);
        }
        let (sender, receiver) = oneshot::channel();
        waiting.insert(
            message.id.clone(),
            Waiting {
                from_id: from_id.to_owned(),
                reply: sender,
            },
        );
        Ok(PendingReply {
            table: self.clone(),
            id: message.id.clone(),
            reply: receiver,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        // Every change is complete when it could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        // Once resolved, another caller may use the id again: that entry is not ours.
        self.reply.close();
        let mut waiting = self.table.lock();
        if waiting.get(&self.id).is_some_and(|entry| entry.reply.is_closed()) {
            waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::go_json::Timestamp;
    use nara_proto::runtime_message::{MessagePayload, StashRequest};
    use nara_proto::time::UnixNanos;

    use super::*;

    fn message(nanos: i64) -> RuntimeMessage {
        let payload = MessagePayload::StashRequest(StashRequest::default());
        RuntimeMessage::new("alice", "id", Timestamp::utc(UnixNanos::new(nanos)), payload)
    }

    #[test]
    fn the_table_is_bounded_and_gives_places_back() {
        let table = PendingReplies::with_capacity(1);
        let first = table.wait_for(&message(1), "").unwrap();
        assert!(matches!(
            table.wait_for(&message(2), ""),
            Err(Problem::TooManyPending(1))
        ));
        drop(first);
        assert!(table.is_empty());
        table.wait_for(&message(2), "").unwrap();
    }

    #[test]
    fn a_caller_that_was_answered_does_not_take_the_place_of_the_next() {
        let table = PendingReplies::default();
        let answered = table.wait_for(&message(1), "").unwrap();
        let mut reply = message(5);
        reply.in_reply_to = message(1).id;
        table.resolve(reply).unwrap();
        let next = table.wait_for(&message(1), "").unwrap();
        drop(answered);
        assert_eq!(table.len(), 1);
        drop(next);
        assert!(table.is_empty());
    }
}
