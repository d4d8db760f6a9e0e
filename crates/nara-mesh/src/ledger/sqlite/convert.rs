//! Converts events of an older schema.

use std::borrow::Cow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use rusqlite::{Connection, Row};

use super::columns::{EventRow, IdKey, ServiceKey, without_columns};
use super::failure::Failure;
use super::rows::unsigned;
use super::sql;

/// Number of unused pages in the database that are tolerated.
const SPARE_PAGES: i64 = 256;

/// The progress of a conversion, readable from other threads.
#[derive(Debug, Default)]
pub(super) struct Converted {
    done: AtomicU64,
    all: AtomicU64,
}

impl Converted {
    /// Sets the total number of events to convert.
    pub(super) fn begin(&self, all: u64) {
        self.all.store(all, Ordering::Relaxed);
    }

    /// Returns the number of converted events and the total; 0 and 0 if there is nothing to convert.
    pub(super) fn progress(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.all.load(Ordering::Relaxed),
        )
    }
}

/// Copies the table `old_events` of version 4 to the table `events`, within a transaction.
pub(super) fn events(transaction: &Connection, converted: &Converted) -> Result<(), Failure> {
    let mut read = transaction.prepare(
        "SELECT seq, id, ts, svc, emitter, actor, target, importance, critical, priority, rank, account, origin, received, \
         octet_length(json), json, \
         EXISTS (SELECT 1 FROM old_events AS other INDEXED BY events_by_time \
                 WHERE other.ts = event.ts AND other.seq <> event.seq) \
         FROM old_events AS event ORDER BY seq",
    )?;
    let mut add = transaction.prepare_cached(sql::ADD)?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        copy(row, &mut add)?;
        converted.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn copy(row: &Row<'_>, add: &mut rusqlite::CachedStatement<'_>) -> rusqlite::Result<()> {
    let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
    let optional = |index| {
        row.get_ref(index)?
            .as_str_or_null()
            .map_err(rusqlite::Error::from)
    };
    let json = text(15)?;
    // Keep a damaged event as it is; reading it reports the damage.
    let event = go_json::from_slice_exact::<SyncEvent>(json.as_bytes()).ok();
    let kept = event
        .as_ref()
        .map_or(Cow::Borrowed(json), |event| without_columns(event, json));
    let row = EventRow {
        seq: row.get(0)?,
        id: &IdKey::new(text(1)?),
        ts: row.get(2)?,
        is_tied: row.get(16)?,
        svc: &ServiceKey::new(text(3)?),
        emitter: text(4)?,
        actor: text(5)?,
        target: text(6)?,
        importance: row.get(7)?,
        critical: row.get(8)?,
        priority: row.get(9)?,
        rank: row.get(10)?,
        account: optional(11)?,
        origin: optional(12)?,
        received: row.get(13)?,
        bytes: unsigned(row, 14)?,
        sig: event.as_ref().map_or("", |event| &event.sig),
        json: &kept,
    };
    row.store(add)
}

/// Returns the space of the old table to the file system. Best effort: a failure is only logged.
pub(super) fn give_back(connection: &Connection, path: &Path) {
    let vacuum = || {
        let unused: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
        if unused < SPARE_PAGES {
            return Ok(());
        }
        // VACUUM makes a temporary copy, which may be large.
        connection.pragma_update(None, "temp_store", "file")?;
        let done = connection.execute_batch("VACUUM");
        connection.pragma_update(None, "temp_store", "memory")?;
        done
    };
    if let Err(error) = vacuum() {
        tracing::info!(path = %path.display(), %error, "the ledger file was not compacted after its conversion");
    }
}
