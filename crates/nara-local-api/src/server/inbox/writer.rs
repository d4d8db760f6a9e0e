//! Writes the file of the inbox on a separate thread, so that answers to senders do not wait for the disk.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use super::store::{Batch, Store};
use super::{Changes, Kept};

/// The pause before a failed write is retried, unless a new message arrives.
const RETRY: Duration = Duration::from_secs(5);

/// Wakes the writer thread.
#[derive(Debug)]
pub(super) struct Writer {
    wake: SyncSender<()>,
    /// The number of changes that were written or have failed.
    handled: watch::Receiver<u64>,
}

impl Writer {
    pub(super) fn start(store: Store, kept: Arc<Mutex<Kept>>) -> Self {
        let (wake, woken) = sync_channel(1);
        let (handled, seen) = watch::channel(0);
        let writing = thread::Builder::new().name("inbox".to_owned());
        let of_thread = kept.clone();
        let writing = writing.spawn(move || write(store, &of_thread, &woken, &handled));
        if let Err(error) = writing {
            tracing::warn!(%error, "the inbox is not written to its file: its messages are lost if the nara stops");
            kept.lock().unwrap_or_else(PoisonError::into_inner).is_failing = true;
        }
        Self { wake, handled: seen }
    }

    pub(super) fn wake(&self) {
        // A full channel wakes the thread as well.
        let _ = self.wake.try_send(());
    }

    /// Waits until this many changes are written or have failed.
    pub(super) async fn has_handled(&self, count: u64) {
        let mut handled = self.handled.clone();
        // An error means that the thread has ended.
        let _ = handled.wait_for(|handled| *handled >= count).await;
    }
}

/// Writes until the inbox is dropped.
fn write(mut store: Store, kept: &Mutex<Kept>, woken: &Receiver<()>, handled: &watch::Sender<u64>) {
    let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    let mut is_failing = false;
    loop {
        let ended = if is_failing {
            woken.recv_timeout(RETRY) == Err(RecvTimeoutError::Disconnected)
        } else {
            woken.recv().is_err()
        };
        let (batch, count) = lock().take_changes();
        let outcome = store.apply(&batch);
        match &outcome {
            Err(error) if !is_failing => {
                let error = error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the inbox is not written to its file: its messages are lost if the nara stops"
                );
            }
            Ok(()) if is_failing => tracing::info!("the inbox is being written to its file again"),
            _ => {}
        }
        is_failing = outcome.is_err();
        let mut kept = lock();
        kept.is_failing = is_failing;
        if is_failing {
            kept.changes.give_back(&batch);
        }
        drop(kept);
        handled.send_replace(count);
        if ended {
            return;
        }
    }
}

impl Kept {
    /// Takes the pending changes, and returns them with the number of changes so far.
    fn take_changes(&mut self) -> (Batch, u64) {
        let changes = &mut self.changes;
        let added = std::mem::take(&mut changes.added);
        let messages = self.messages.iter();
        let batch = Batch {
            newest: changes.newest,
            removed: std::mem::take(&mut changes.removed).into_iter().collect(),
            added: messages
                .filter(|entry| added.contains(&entry.seq))
                .cloned()
                .collect(),
        };
        (batch, changes.count)
    }
}

impl Changes {
    /// Restores the changes of a failed write.
    fn give_back(&mut self, batch: &Batch) {
        for entry in &batch.added {
            if !self.removed.remove(&entry.seq) {
                self.added.insert(entry.seq);
            }
        }
        self.removed.extend(&batch.removed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use nara_proto::time::UnixNanos;
    use nara_proto::world::WorldMessage;

    use super::super::{Inbox, LEAP, MAX_PER_SENDER, Place};
    use super::*;
    use crate::model::InboxMessage;

    fn put(inbox: &Inbox, number: i64) {
        let message = WorldMessage::new("bob", &number.to_string(), UnixNanos::new(number));
        inbox.postcard(&message, false);
    }

    fn texts(inbox: &Inbox) -> Vec<String> {
        let (messages, _) = inbox.behind(inbox.start(), usize::MAX);
        let text = |message: InboxMessage| message.postcard.unwrap().message;
        messages.into_iter().map(text).collect()
    }

    async fn open(path: &Path) -> Inbox {
        Inbox::open(path).await.unwrap()
    }

    #[tokio::test]
    async fn messages_survive_until_they_are_acknowledged_and_cursors_stay_valid() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.db");
        let inbox = open(&path).await;
        for number in 1..=3 {
            put(&inbox, number);
        }
        let (messages, _) = inbox.behind(inbox.start(), 2);
        let [first, second] = [0, 1].map(|index: usize| messages[index].cursor.parse::<Place>().unwrap());
        assert_eq!(inbox.acknowledge(first), 1);
        inbox.settled().await;
        assert!(inbox.is_durable());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        drop(inbox);
        let inbox = open(&path).await;
        // Nothing is pending.
        inbox.settled().await;
        assert_eq!(texts(&inbox), ["2", "3"]);
        assert!(inbox.has(first));
        assert_eq!(inbox.behind(second, 10).0.len(), 1);
        // No sequence number is reused, even if the last ones are missing in the file.
        assert!(inbox.end().seq > 2 * LEAP);
        put(&inbox, 4);
        assert_eq!(inbox.acknowledge(second), 1);
        assert_eq!(texts(&inbox), ["3", "4"]);
    }

    #[tokio::test]
    async fn the_file_is_bounded_as_the_inbox_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.db");
        let inbox = open(&path).await;
        for number in 0..2 * i64::try_from(MAX_PER_SENDER).unwrap() {
            put(&inbox, number);
        }
        inbox.settled().await;
        let before = texts(&inbox);
        let rows = Store::open(&path, 0).unwrap().load().unwrap().entries.len();
        assert_eq!((rows, before.len()), (MAX_PER_SENDER, MAX_PER_SENDER));
        drop(inbox);
        assert_eq!(texts(&open(&path).await), before);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_nobody_waits_for_it_and_all_is_written_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.db");
        let mut store = Store::open(&path, 7).unwrap();
        let loaded = store.load().unwrap();
        let pages: i64 = store
            .0
            .query_row("PRAGMA page_count", (), |row| row.get(0))
            .unwrap();
        store.0.pragma_update(None, "max_page_count", pages).unwrap();
        let inbox = Inbox::over(loaded.run, loaded.newest, Kept::default(), Some(store));
        let large = WorldMessage::new("bob", &"x".repeat(20_000), UnixNanos::new(1));
        inbox.postcard(&large, false);
        inbox.settled().await;
        assert!(!inbox.is_durable());
        assert_eq!(texts(&inbox).len(), 1);
        put(&inbox, 2);
        inbox.settled().await;
        assert!(!inbox.is_durable());
        // Without the large message there is space.
        let (messages, _) = inbox.behind(inbox.start(), 1);
        inbox.acknowledge(messages[0].cursor.parse().unwrap());
        inbox.settled().await;
        assert!(inbox.is_durable());
        drop(inbox);
        assert_eq!(texts(&open(&path).await), ["2"]);
    }

    #[tokio::test]
    async fn a_damaged_row_is_told_and_the_others_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inbox.db");
        let inbox = open(&path).await;
        put(&inbox, 1);
        put(&inbox, 2);
        inbox.settled().await;
        drop(inbox);
        let store = Store::open(&path, 0).unwrap();
        let damage = "UPDATE messages SET message = '{' WHERE seq = (SELECT min(seq) FROM messages)";
        store.0.execute(damage, ()).unwrap();
        drop(store);
        assert_eq!(texts(&open(&path).await), ["2"]);
        let rows = Store::open(&path, 0).unwrap().load().unwrap().entries.len();
        assert_eq!(rows, 1);
    }
}
