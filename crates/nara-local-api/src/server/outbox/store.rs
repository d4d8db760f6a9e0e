//! The outbox in a file.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, params};

use crate::model::OutboxEntry;

/// How long a statement waits for another process that reads the database.
const BUSY: Duration = Duration::from_secs(5);

/// The version of the schema.
const VERSION: i64 = 1;

/// Why the outbox does not keep something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The database failed.
    #[error("the database of the outbox failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The file cannot be made or opened.
    #[error("the file of the outbox cannot be opened")]
    File(#[source] io::Error),
    /// The disk is full. What was kept before is safe.
    #[error("the disk of the outbox is full")]
    Full(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A newer version of this program wrote the file.
    #[error("a newer version of this program wrote the outbox (version {0}): use that one")]
    Newer(i64),
    /// More messages wait than the outbox holds.
    #[error("{0}")]
    TooMany(String),
    /// The nara ends.
    #[error("the nara ends")]
    Ending,
}

impl From<rusqlite::Error> for OutboxError {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            Self::Full(error.into())
        } else {
            Self::Database(error.into())
        }
    }
}

/// Messages as rows of JSON, in a SQLite database of their own.
#[derive(Debug)]
pub(super) struct Store(Connection);

impl Store {
    /// Opens the database, or makes it, readable for its owner only.
    pub(super) fn open(path: &Path) -> Result<Self, OutboxError> {
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        options.open(path).map_err(OutboxError::File)?;
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        let version: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
        if version > VERSION {
            return Err(OutboxError::Newer(version));
        }
        connection.pragma_update(None, "journal_mode", "wal")?;
        // What the sender was told is kept must survive a loss of power.
        connection.pragma_update(None, "synchronous", "full")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL) STRICT",
        )?;
        connection.pragma_update(None, "user_version", VERSION)?;
        Ok(Self(connection))
    }

    /// All messages, oldest first. A row that cannot be read stays where it is, and is reported.
    pub(super) fn load(&self) -> Result<Vec<OutboxEntry>, OutboxError> {
        let mut statement = self.0.prepare("SELECT id, entry FROM messages ORDER BY id")?;
        let mut rows = statement.query(())?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let (id, json): (i64, String) = (row.get(0)?, row.get(1)?);
            match serde_json::from_str::<OutboxEntry>(&json) {
                Ok(entry) => entries.push(OutboxEntry {
                    id: id.unsigned_abs(),
                    ..entry
                }),
                Err(error) => {
                    tracing::warn!(id, %error, "a message of the outbox is damaged, and is not sent")
                }
            }
        }
        Ok(entries)
    }

    /// Adds a message; returns its id.
    pub(super) fn add(&self, entry: &OutboxEntry) -> Result<u64, OutboxError> {
        self.0
            .execute("INSERT INTO messages (entry) VALUES (?1)", [json(entry)])?;
        Ok(self.0.last_insert_rowid().unsigned_abs())
    }

    pub(super) fn replace(&self, entry: &OutboxEntry) -> Result<(), OutboxError> {
        let row = params![row(entry.id), json(entry)];
        self.0
            .execute("UPDATE messages SET entry = ?2 WHERE id = ?1", row)?;
        Ok(())
    }

    pub(super) fn remove(&self, id: u64) -> Result<(), OutboxError> {
        self.0.execute("DELETE FROM messages WHERE id = ?1", [row(id)])?;
        Ok(())
    }
}

fn json(entry: &OutboxEntry) -> String {
    serde_json::to_string(entry).unwrap_or_default()
}

fn row(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::server::outbox::tests::entry;

    #[test]
    fn messages_survive_are_replaced_and_removed_and_no_id_is_used_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let store = Store::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let ids = [(); 3].map(|()| store.add(&entry("bob", 0)).unwrap());
        assert_eq!(ids, [1, 2, 3]);
        store.remove(3).unwrap();
        let mut second = store.load().unwrap().remove(1);
        second.attempts = 7;
        store.replace(&second).unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let loaded: Vec<_> = store
            .load()
            .unwrap()
            .iter()
            .map(|entry| (entry.id, entry.attempts))
            .collect();
        assert_eq!(loaded, [(1, 0), (2, 7)]);
        assert_eq!(store.add(&entry("bob", 0)).unwrap(), 4);
    }

    #[test]
    fn a_full_disk_is_told_and_what_was_kept_is_safe() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("outbox.db")).unwrap();
        store.add(&entry("bob", 0)).unwrap();
        let pages: i64 = store
            .0
            .query_row("PRAGMA page_count", (), |row| row.get(0))
            .unwrap();
        store.0.pragma_update(None, "max_page_count", pages).unwrap();
        let full = store.add(&entry("bob", 20_000)).unwrap_err();
        assert!(matches!(full, OutboxError::Full(_)), "{full:?}");
        assert_eq!(store.load().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_row_and_the_file_of_a_newer_version_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        let store = Store::open(&path).unwrap();
        store.add(&entry("bob", 0)).unwrap();
        store.0.execute("UPDATE messages SET entry = '{'", ()).unwrap();
        assert!(store.load().unwrap().is_empty());
        store.0.pragma_update(None, "user_version", 2).unwrap();
        drop(store);
        assert!(matches!(Store::open(&path), Err(OutboxError::Newer(2))));
    }
}
