//! Persistent storage of stashes.

use std::fmt::Debug;
use std::io;

use nara_proto::time::UnixSeconds;

/// The stash of an owner, sealed with a key that only the owner has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedStash {
    /// The nara id of the owner.
    pub owner_id: String,
    /// The nonce, 24 bytes.
    pub nonce: Vec<u8>,
    /// The sealed bytes.
    pub ciphertext: Vec<u8>,
    /// The time of storage, in seconds.
    pub stored_at: UnixSeconds,
}

/// A persistent store of stashes. The server holds all of them in memory as well, within
/// [`ServerLimits::stash_owners`](super::ServerLimits::stash_owners) and
/// [`ServerLimits::stash_bytes`](super::ServerLimits::stash_bytes), so that a store is read only once.
///
/// Errors are those of the storage. The methods may block; they are not called on async threads, except `load` when the
/// server is built.
pub trait StashStore: Debug + Send + Sync + 'static {
    /// Loads all stashes.
    ///
    /// # Errors
    /// If they cannot be read.
    fn load(&self) -> io::Result<Vec<SealedStash>>;

    /// Stores a stash, replacing an earlier one of its owner.
    ///
    /// # Errors
    /// If it was not stored.
    fn save(&self, stash: &SealedStash) -> io::Result<()>;

    /// Removes the stash of an owner.
    ///
    /// # Errors
    /// If it may still be stored.
    fn remove(&self, owner_id: &str) -> io::Result<()>;
}

#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStash;

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::io;
    use std::path::Path;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use nara_proto::time::UnixSeconds;
    use rusqlite::{Connection, params};

    use super::{SealedStash, StashStore};
    use crate::folder_owner::as_owner_of_folder;

    /// How long a statement waits for another process that uses the database.
    const BUSY: Duration = Duration::from_secs(5);

    /// Stashes in a separate SQLite database. Several processes may open it.
    #[derive(Debug)]
    pub struct SqliteStash(Mutex<Connection>);

    impl SqliteStash {
        /// Opens the database at `path`, or creates it, readable for its owner only.
        ///
        /// # Errors
        /// If that fails.
        pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
            let path = path.as_ref();
            as_owner_of_folder(path, || Self::open_as_owner(path))?
        }

        fn open_as_owner(path: &Path) -> io::Result<Self> {
            if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
                tracing::warn!(
                    "{} is empty: if peers had stashes here, they are lost",
                    path.display()
                );
            }
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(path)?;
            let connection = Connection::open(path).map_err(failed)?;
            connection.busy_timeout(BUSY).map_err(failed)?;
            // Its files are created now, by their owner. Each change creates the journal anew.
            connection
                .pragma_update(None, "journal_mode", "wal")
                .map_err(failed)?;
            connection
                .execute_batch(
                    "CREATE TABLE IF NOT EXISTS stashes (
                        owner_id TEXT PRIMARY KEY,
                        nonce BLOB NOT NULL,
                        ciphertext BLOB NOT NULL,
                        stored_at INTEGER NOT NULL
                    ) STRICT",
                )
                .map_err(failed)?;
            Ok(Self(Mutex::new(connection)))
        }

        fn connection(&self) -> MutexGuard<'_, Connection> {
            // Each statement is a transaction, so no change is left half-way.
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl StashStore for SqliteStash {
        fn load(&self) -> io::Result<Vec<SealedStash>> {
            let connection = self.connection();
            let mut statement = connection
                .prepare("SELECT owner_id, nonce, ciphertext, stored_at FROM stashes ORDER BY stored_at DESC")
                .map_err(failed)?;
            let stashes = statement.query_map((), |row| {
                Ok(SealedStash {
                    owner_id: row.get(0)?,
                    nonce: row.get(1)?,
                    ciphertext: row.get(2)?,
                    stored_at: UnixSeconds::new(row.get(3)?),
                })
            });
            stashes.map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
        }

        fn save(&self, stash: &SealedStash) -> io::Result<()> {
            let SealedStash {
                owner_id,
                nonce,
                ciphertext,
                stored_at,
            } = stash;
            let stored = self.connection().execute(
                "INSERT OR REPLACE INTO stashes (owner_id, nonce, ciphertext, stored_at) VALUES (?1, ?2, ?3, ?4)",
                params![owner_id, nonce, ciphertext, stored_at.get()],
            );
            stored.map(drop).map_err(failed)
        }

        fn remove(&self, owner_id: &str) -> io::Result<()> {
            let removed = self
                .connection()
                .execute("DELETE FROM stashes WHERE owner_id = ?1", [owner_id]);
            removed.map(drop).map_err(failed)
        }
    }

    fn failed(error: rusqlite::Error) -> io::Error {
        io::Error::other(error)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn stash(owner: &str, at: i64) -> SealedStash {
            SealedStash {
                owner_id: owner.to_owned(),
                nonce: vec![1; 24],
                ciphertext: vec![2; 100],
                stored_at: UnixSeconds::new(at),
            }
        }

        #[test]
        fn stashes_survive_and_are_replaced_and_removed() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("stash.db");
            let store = SqliteStash::open(&path).unwrap();
            for stash in [stash("a", 1), stash("b", 2), stash("a", 3)] {
                store.save(&stash).unwrap();
            }
            drop(store);
            let store = SqliteStash::open(&path).unwrap();
            assert_eq!(store.load().unwrap(), [stash("a", 3), stash("b", 2)]);
            // Like `nara-mesh stash list` next to a running nara.
            let beside = SqliteStash::open(&path).unwrap();
            assert_eq!(beside.load().unwrap().len(), 2);
            store.remove("a").unwrap();
            assert_eq!(beside.load().unwrap(), [stash("b", 2)]);
            assert_eq!(store.load().unwrap(), [stash("b", 2)]);
        }
    }
}
