//! The transfers in progress.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use nara_mesh::client::SyncProgress;
use nara_proto::time::UnixMillis;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::places::{Place, SharedPlaces};
use super::rights::Caller;
use crate::model::{Progress, Transfer, TransferKind};
use crate::{Problem, ProblemClass};

/// The most transfers and comparisons at once: each keeps the ledger and a core busy.
const MOST: usize = 16;

/// The most by callers without all rights, and by one of these.
const MOST_OF_OTHERS: usize = 12;
const MOST_OF_ONE: usize = 6;

/// Time limit of a transfer. Events received before are stored.
pub(super) const LONGEST: Duration = Duration::from_secs(6 * 60 * 60);

/// The transfers in progress.
#[derive(Clone, Debug)]
pub(super) struct Transfers {
    places: SharedPlaces,
    table: Arc<Mutex<Table>>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            places: SharedPlaces::new(MOST, MOST_OF_OTHERS, MOST_OF_ONE),
            table: Arc::default(),
        }
    }
}

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

/// A transfer that is listed until dropped.
#[derive(Debug)]
pub(super) struct Running {
    id: u64,
    cancelled: CancellationToken,
    of: Transfers,
    _place: Place,
}

/// The kind, the peer and the caller of a transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of<'a> {
    pub(super) kind: TransferKind,
    pub(super) peer: &'a str,
    pub(super) caller: &'a Caller,
}

impl Transfers {
    pub(super) fn begin(
        &self,
        Of { kind, peer, caller }: Of<'_>,
        now: UnixMillis,
        progress: watch::Receiver<SyncProgress>,
    ) -> Result<Running, Problem> {
        let place = self.places.take(caller).ok_or_else(|| self.too_many(caller))?;
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
        Ok(Running {
            id,
            cancelled,
            of: self.clone(),
            _place: place,
        })
    }

    /// Returns the permits in use and their number.
    pub(super) fn in_use(&self) -> (usize, usize) {
        self.places.in_use()
    }

    fn too_many(&self, caller: &Caller) -> Problem {
        let (status, class) = (StatusCode::SERVICE_UNAVAILABLE, ProblemClass::Failed);
        let detail = self.places.full(caller, "transfers");
        let problem = Problem::new("too_many_transfers", status, class, detail);
        problem.hint(
            "wait until one of them ends (GET /v1/transfers), or cancel one (DELETE /v1/transfers/{id})",
        )
    }

    /// Returns all transfers, oldest first.
    pub(super) fn list(&self) -> Vec<Transfer> {
        let table = self.table();
        table.running.values().map(Entry::now).collect()
    }

    /// Cancels a transfer; returns its last state if it was in progress.
    pub(super) fn cancel(&self, id: u64) -> Option<Transfer> {
        let mut table = self.table();
        let entry = table.running.remove(&id)?;
        entry.cancelled.cancel();
        Some(entry.now())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every update is a single insertion or removal.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
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
