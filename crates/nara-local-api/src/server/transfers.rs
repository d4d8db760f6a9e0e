//! The transfers of events that go on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_mesh::client::SyncProgress;
use nara_proto::time::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::{Progress, Transfer, TransferKind};

/// The transfers that go on: as many as there are callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Transfers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    newest: u64,
    running: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    transfer: Transfer,
    progress: watch::Receiver<SyncProgress>,
    cancelled: CancellationToken,
}

/// A transfer that is listed until this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    cancelled: CancellationToken,
    of: Transfers,
}

impl Transfers {
    pub(super) fn begin(
        &self,
        kind: TransferKind,
        peer: &str,
        now: UnixMillis,
        progress: watch::Receiver<SyncProgress>,
    ) -> Running {
        let mut table = self.table();
        table.newest += 1;
        let id = table.newest;
        let cancelled = CancellationToken::new();
        let transfer = Transfer {
            id,
            kind,
            peer: peer.to_owned(),
            begun_at_ms: now.get(),
            progress: Progress::default(),
        };
        let entry = Entry {
            transfer,
            progress,
            cancelled: cancelled.clone(),
        };
        table.running.insert(id, entry);
        Running {
            id,
            cancelled,
            of: self.clone(),
        }
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> Vec<Transfer> {
        let table = self.table();
        table.running.values().map(Entry::now).collect()
    }

    /// Ends a transfer; returns it as it was, if it goes on.
    pub(super) fn cancel(&self, id: u64) -> Option<Transfer> {
        let mut table = self.table();
        let entry = table.running.remove(&id)?;
        entry.cancelled.cancel();
        Some(entry.now())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn now(&self) -> Transfer {
        Transfer {
            progress: Progress::of(&self.progress.borrow()),
            ..self.transfer.clone()
        }
    }
}

impl Running {
    pub(super) async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.of.table().running.remove(&self.id);
    }
}
