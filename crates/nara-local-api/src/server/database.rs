//! A small SQLite database of the API.

use std::error::Error;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use nara_mesh::ledger::as_owner_of_folder;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode};

/// How long a statement waits for another process that uses the database.
const BUSY: Duration = Duration::from_secs(5);

/// The version of the schemas.
const VERSION: i64 = 1;

/// Why a database cannot store something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file is not a valid database.
    #[error("the file is damaged")]
    Damaged(#[source] Box<dyn Error + Send + Sync>),
    /// The database failed.
    #[error("the database failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The file cannot be created or opened.
    #[error("the database file cannot be opened")]
    File(#[source] io::Error),
    /// The disk is full. Data stored before is safe.
    #[error("the disk is full")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// The file is of a newer version of this program.
    #[error("the database is of a newer version of this program (version {0}): use that program")]
    Newer(i64),
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(error: rusqlite::Error) -> Self {
        let extended = error.sqlite_error().map(|error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error.into()),
            // No space for the shared-memory file of the WAL.
            _ if extended == Some(SQLITE_IOERR_SHMSIZE) => Self::Full(error.into()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.into()),
            _ => Self::Failed(error.into()),
        }
    }
}

/// Opens a database, or creates it with this schema, readable only by its owner.
pub(super) fn open(path: &Path, schema: &str) -> Result<Connection, DatabaseError> {
    as_owner_of_folder(path, || open_as_owner(path, schema)).map_err(DatabaseError::File)?
}

fn open_as_owner(path: &Path, schema: &str) -> Result<Connection, DatabaseError> {
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        tracing::warn!("{} is empty: if it had messages, they are lost", path.display());
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = options.open(path).map_err(DatabaseError::File)?;
    close_to_others(&file, path);
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let version: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    if version > VERSION {
        return Err(DatabaseError::Newer(version));
    }
    connection.pragma_update(None, "journal_mode", "wal")?;
    // A message that was acknowledged as stored must survive a power loss.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.execute_batch(schema)?;
    connection.pragma_update(None, "user_version", VERSION)?;
    Ok(connection)
}

/// Removes permissions of other users, if there are any: the file contains messages.
fn close_to_others(file: &File, path: &Path) {
    let Ok(mode) = file.metadata().map(|metadata| metadata.permissions().mode()) else {
        return;
    };
    if mode & 0o077 == 0 {
        return;
    }
    match file.set_permissions(Permissions::from_mode(0o600)) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), "other users could open this file: its mode is now 0600");
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "other users can open this file"),
    }
}

/// Converts a number to a column value.
pub(super) fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so_where_sqlite_names_the_index_of_the_log() {
        for code in [SQLITE_IOERR_SHMSIZE, rusqlite::ffi::SQLITE_FULL] {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            assert!(
                matches!(DatabaseError::from(error), DatabaseError::Full(_)),
                "{code}"
            );
        }
    }
}
