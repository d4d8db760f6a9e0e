//! Stores the inbox in a file.

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::Entry;
use crate::model::InboxMessage;
use crate::server::database::{self, DatabaseError, column};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY, sender TEXT NOT NULL, bytes INTEGER NOT NULL, message TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS place (run INTEGER NOT NULL, newest INTEGER NOT NULL) STRICT";

/// Messages as rows of JSON, in a separate SQLite database.
#[derive(Debug)]
pub(super) struct Store(pub(super) Connection);

/// The changes of one write.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The sequence number of the newest message.
    pub(super) newest: u64,
    pub(super) added: Vec<Entry>,
    pub(super) removed: Vec<u64>,
}

/// The contents of the file.
#[derive(Debug)]
pub(super) struct Loaded {
    /// When the inbox was created.
    pub(super) run: i64,
    /// The sequence number of the newest message.
    pub(super) newest: u64,
    /// All messages, oldest first.
    pub(super) entries: Vec<Entry>,
}

impl Store {
    /// Opens the database, or creates it with this creation time.
    pub(super) fn open(path: &Path, run: i64) -> Result<Self, DatabaseError> {
        let connection = database::open(path, SCHEMA)?;
        connection.execute(
            "INSERT INTO place SELECT ?1, 0 WHERE NOT EXISTS (SELECT * FROM place)",
            [run],
        )?;
        Ok(Self(connection))
    }

    /// Reads everything. An unreadable row is reported and removed.
    pub(super) fn load(&mut self) -> Result<Loaded, DatabaseError> {
        let place = "SELECT run, newest FROM place";
        let (run, newest): (i64, i64) = self
            .0
            .query_row(place, (), |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut entries = Vec::new();
        let mut damaged = Vec::new();
        {
            let rows = "SELECT seq, sender, bytes, message FROM messages ORDER BY seq";
            let mut statement = self.0.prepare(rows)?;
            let mut rows = statement.query(())?;
            while let Some(row) = rows.next()? {
                let (seq, bytes): (i64, i64) = (row.get(0)?, row.get(2)?);
                let seq = seq.unsigned_abs();
                let json: String = row.get(3)?;
                match serde_json::from_str::<InboxMessage>(&json) {
                    Ok(message) => entries.push(Entry {
                        seq,
                        by: row.get(1)?,
                        bytes: usize::try_from(bytes).unwrap_or_default(),
                        message: Arc::new(message),
                    }),
                    Err(error) => {
                        tracing::warn!(seq, %error, "removed a damaged message from the inbox");
                        damaged.push(seq);
                    }
                }
            }
        }
        let newest = newest.unsigned_abs();
        if !damaged.is_empty() {
            self.apply(&Batch {
                newest,
                removed: damaged,
                ..Batch::default()
            })?;
        }
        Ok(Loaded { run, newest, entries })
    }

    /// Applies all changes in one transaction.
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<(), DatabaseError> {
        let transaction = self.0.transaction()?;
        {
            let mut add =
                transaction.prepare_cached("INSERT OR REPLACE INTO messages VALUES (?1, ?2, ?3, ?4)")?;
            for entry in &batch.added {
                let json = serde_json::to_string(&*entry.message).unwrap_or_default();
                let bytes = i64::try_from(entry.bytes).unwrap_or(i64::MAX);
                add.execute(params![column(entry.seq), entry.by, bytes, json])?;
            }
            let mut remove = transaction.prepare_cached("DELETE FROM messages WHERE seq = ?1")?;
            for &seq in &batch.removed {
                remove.execute([column(seq)])?;
            }
            let newest = [column(batch.newest)];
            transaction.execute("UPDATE place SET newest = max(newest, ?1)", newest)?;
        }
        transaction.commit()?;
        Ok(())
    }
}
