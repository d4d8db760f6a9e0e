//! Checkpoints of the write-ahead log.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;

use super::failure::counted;
use crate::seldom::warn_seldom;

/// Pages of 4 KiB in the log from which a background checkpoint starts. A page that changed several times by then
/// is written once. Each checkpoint costs one commit a wait for the disk, when the log is restarted: a commit of
/// one event writes some ten pages, so this affects one commit in hundreds.
const PAGES: usize = 4_000;

/// A single commit of this many pages is a bulk insert, with more to follow.
const BULK_PAGES: usize = 1_000;

/// Pages from which the writer checkpoints the log itself, because no background checkpoint did or a bulk insert
/// runs. 5,000 events change some 4,000 pages, mostly the same ones.
const MOST_PAGES: usize = 16_000;

/// Runs checkpoints for `writer` on a separate connection, so that no commit waits for the disk.
pub(super) fn checkpoint_beside(writer: &mut Connection, own: Connection) -> rusqlite::Result<()> {
    let own = Arc::new(Mutex::new(own));
    let mut before = 0;
    writer.wal_hook(Some(move |log: &mut Wal, pages: i32| {
        let pages = usize::try_from(pages).unwrap_or(0);
        let written = pages.saturating_sub(before);
        before = pages;
        if pages >= MOST_PAGES {
            // The commit is durable in the log either way.
            warn_of(log.checkpoint());
        } else if pages >= PAGES && written < BULK_PAGES {
            move_apart(&own);
        }
        Ok(())
    }))
}

/// Starts a checkpoint on a blocking thread, unless one is running.
fn move_apart(connection: &Arc<Mutex<Connection>>) {
    let (Ok(runtime), false) = (Handle::try_current(), is_busy(connection)) else {
        return;
    };
    let connection = connection.clone();
    runtime.spawn_blocking(move || {
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        // A passive checkpoint neither waits nor blocks others.
        warn_of(connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
    });
}

fn warn_of(outcome: rusqlite::Result<()>) {
    match outcome {
        // Another connection runs a checkpoint.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
        Err(error) => {
            let error = counted(error);
            warn_seldom!(%error, "cannot checkpoint the ledger's write-ahead log: it keeps growing");
        }
        Ok(()) => {}
    }
}

fn is_busy(connection: &Mutex<Connection>) -> bool {
    matches!(connection.try_lock(), Err(TryLockError::WouldBlock))
}
