//! The write-ahead log: who moves its pages into the database, and when.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;

use super::failure::counted;
use crate::seldom::warn_seldom;

/// Pages of 4 KiB in the log from which they are moved, beside the writer. A page that changed often by then is moved once.
/// Each move costs one commit a wait for the disk, as the log begins anew: a commit of one event writes some ten pages, so
/// that is one of hundreds.
const PAGES: usize = 4_000;

/// A commit that alone writes as many pages is one of many events, and others will follow.
const BULK_PAGES: usize = 1_000;

/// Pages from which the writer moves them itself: nobody did, or many events come at once. 5,000 of them change some 4,000
/// pages, mostly the same ones.
const MOST_PAGES: usize = 16_000;

/// Has the log of `writer` moved into the database on a connection of its own, so that no commit waits for the disk.
pub(super) fn checkpoint_beside(writer: &mut Connection, own: Connection) -> rusqlite::Result<()> {
    let own = Arc::new(Mutex::new(own));
    let mut before = 0;
    writer.wal_hook(Some(move |log: &mut Wal, pages: i32| {
        let pages = usize::try_from(pages).unwrap_or(0);
        let written = pages.saturating_sub(before);
        before = pages;
        if pages >= MOST_PAGES {
            // The commit is safe in the log whether this works or not.
            warn_of(log.checkpoint());
        } else if pages >= PAGES && written < BULK_PAGES {
            move_apart(&own);
        }
        Ok(())
    }))
}

/// Moves what is in the log, on a thread for work that blocks, unless another one does so already.
fn move_apart(connection: &Arc<Mutex<Connection>>) {
    let (Ok(runtime), false) = (Handle::try_current(), is_busy(connection)) else {
        return;
    };
    let connection = connection.clone();
    runtime.spawn_blocking(move || {
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        // Passive: it waits for nobody, and nobody for it.
        warn_of(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
    });
}

fn warn_of(outcome: rusqlite::Result<()>) {
    match outcome {
        // Somebody else moves it.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
        Err(error) => {
            let error = counted(error);
            warn_seldom!(%error, "the log of the ledger cannot be moved into the database: it grows");
        }
        Ok(()) => {}
    }
}

fn is_busy(connection: &Mutex<Connection>) -> bool {
    matches!(connection.try_lock(), Err(TryLockError::WouldBlock))
}
