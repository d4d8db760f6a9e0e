//! Stores the outbox in a file.

use std::path::Path;

use rusqlite::{Connection, params};

use crate::model::OutboxEntry;
use crate::server::database::{self, DatabaseError, column};

const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL) STRICT";

/// Messages as rows of JSON, in a separate SQLite database.
#[derive(Debug)]
pub(super) struct Store(Connection);

impl Store {
    /// Opens the database, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        database::open(path, SCHEMA).map(Self)
    }

    /// Reads all messages, oldest first. An unreadable row is kept and reported.
    pub(super) fn load(&self) -> Result<Vec<OutboxEntry>, DatabaseError> {
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
                    tracing::warn!(id, %error, "a message of the outbox is damaged and will not be sent")
                }
            }
        }
        Ok(entries)
    }

    /// Adds a message; returns its id.
    pub(super) fn add(&self, entry: &OutboxEntry) -> Result<u64, DatabaseError> {
        self.0
            .execute("INSERT INTO messages (entry) VALUES (?1)", [json(entry)])?;
        Ok(self.0.last_insert_rowid().unsigned_abs())
    }

    pub(super) fn replace(&self, entry: &OutboxEntry) -> Result<(), DatabaseError> {
        let row = params![column(entry.id), json(entry)];
        self.0
            .execute("UPDATE messages SET entry = ?2 WHERE id = ?1", row)?;
        Ok(())
    }

    pub(super) fn remove(&self, id: u64) -> Result<(), DatabaseError> {
        self.0
            .execute("DELETE FROM messages WHERE id = ?1", [column(id)])?;
        Ok(())
    }
}

fn json(entry: &OutboxEntry) -> String {
    serde_json::to_string(entry).unwrap_or_default()
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
        assert!(matches!(full, DatabaseError::Full(_)), "{full:?}");
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
        assert!(matches!(Store::open(&path), Err(DatabaseError::Newer(2))));
    }

    #[test]
    fn a_damaged_file_is_told_and_what_others_may_open_is_closed_to_them() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        std::fs::write(&path, "no database ".repeat(100)).unwrap();
        assert!(matches!(Store::open(&path), Err(DatabaseError::Damaged(_))));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        Store::open(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
