//! Backs up a running ledger and restores it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::convert::Converted;
use super::failure::Failure;
use super::lock::Lock;
use super::place::{LOG, check_file, with_suffix};
use super::pool::{create_new_private, read_only};
use super::{rows, schema, sql};
use crate::folder_owner::as_owner_of_folder;
use crate::ledger::{LedgerError, SqliteLedger};

/// The content of a copied ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerCopy {
    /// Number of events.
    pub events: usize,
    /// Number of peer records.
    pub peers: usize,
    /// Size of the file in bytes.
    pub file_bytes: u64,
}

impl SqliteLedger {
    /// Replaces the ledger at `to`, which no process may have open, by a backup.
    ///
    /// Keeps keys, decisions and cursors. The ledger gets a new epoch, so that peers that follow its stream start
    /// over and miss nothing. Blocks on disk I/O.
    ///
    /// # Errors
    /// [`LedgerError`] if `from` is not an undamaged ledger, if `to` is in use, or if it cannot be written.
    /// Nothing changes in that case.
    pub fn restore(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<LedgerCopy, LedgerError> {
        Ok(replace(from.as_ref(), to.as_ref())?)
    }
}

fn replace(from: &Path, to: &Path) -> Result<LedgerCopy, Failure> {
    // Open the source first: perhaps only root can read it.
    let source = open_source(from)?;
    as_owner_of_folder(to, || replace_as_owner(from, source, to)).map_err(|source| LedgerError::File {
        path: to.to_owned(),
        source,
    })?
}

fn replace_as_owner(from: &Path, source: Connection, to: &Path) -> Result<LedgerCopy, Failure> {
    let mut lock = Lock::take(to, "nara-mesh restore")?;
    lock.extend_to(to)?;
    let new = Unfinished::beside(to)?;
    copy(&source, &new.0)?;
    drop(source);
    let mut connection = Connection::open_with_flags(&new.0, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    schema::migrate(&mut connection, from, &Converted::default())?;
    let damage = damage(&connection, 1)?;
    if let Some(first) = damage.into_iter().next() {
        return Err(LedgerError::Corrupt { reason: first }.into());
    }
    connection.execute(sql::MARK_COPY, [])?;
    let copied = describe(&connection, &new.0)?;
    connection.close().map_err(|(_, error)| error)?;
    // The log of the old ledger must not be applied to the new one.
    for path in LOG.map(|suffix| with_suffix(to, suffix)) {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(LedgerError::File { path, source }.into());
            }
            _ => {}
        }
    }
    new.finish(to)?;
    Ok(copied)
}

/// Copies a snapshot of a ledger to a new file.
pub(super) fn back_up(source: &Connection, to: &Path) -> Result<LedgerCopy, Failure> {
    if to.exists() {
        return Err(LedgerError::File {
            path: to.to_owned(),
            source: std::io::ErrorKind::AlreadyExists.into(),
        }
        .into());
    }
    let new = Unfinished::beside(to)?;
    copy(source, &new.0)?;
    let connection = Connection::open_with_flags(&new.0, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.execute(sql::MARK_COPY, [])?;
    let copied = describe(&connection, &new.0)?;
    connection.close().map_err(|(_, error)| error)?;
    new.finish(to)?;
    Ok(copied)
}

fn copy(source: &Connection, to: &Path) -> Result<(), Failure> {
    // SQLite accepts an empty file as the target; creating it first sets the permissions.
    create_new_private(to).map_err(|source| LedgerError::File {
        path: to.to_owned(),
        source,
    })?;
    let Some(path) = to.to_str() else {
        return Err(LedgerError::File {
            path: to.to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8"),
        }
        .into());
    };
    source.execute(sql::COPY, [path])?;
    Ok(())
}

fn open_source(from: &Path) -> Result<Connection, Failure> {
    let failed = |source| LedgerError::File {
        path: from.to_owned(),
        source,
    };
    let found = check_file(from).map_err(failed)?;
    if found.len() == 0 {
        let empty = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is empty");
        return Err(failed(empty).into());
    }
    File::open(from).map_err(failed)?;
    let connection = read_only(from)?;
    schema::check_foreign(&connection, from)?;
    Ok(connection)
}

/// Returns up to `limit` findings of SQLite's integrity check and differences from the schema.
pub(super) fn damage(connection: &Connection, limit: usize) -> Result<Vec<String>, Failure> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({limit})"))?;
    let mut findings: Vec<String> = statement
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    findings.retain(|finding| finding != "ok");
    findings.extend(schema::differences(connection)?);
    findings.truncate(limit);
    Ok(findings)
}

fn describe(connection: &Connection, path: &Path) -> Result<LedgerCopy, Failure> {
    let peers: i64 = connection.query_row(sql::COUNT_PEERS, [], |row| row.get(0))?;
    let sizes = rows::sizes(connection)?;
    let file = fs::metadata(path).map_err(|source| LedgerError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(LedgerCopy {
        events: sizes.values().map(|size| size.events).sum(),
        peers: usize::try_from(peers).unwrap_or(0),
        file_bytes: file.len(),
    })
}

/// A temporary file that is removed unless it is finished.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(path: &Path) -> Result<Self, LedgerError> {
        let new = with_suffix(path, ".new");
        match fs::remove_file(&new) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(LedgerError::File { path: new, source })
            }
            _ => Ok(Self(new)),
        }
    }

    /// Syncs the file and renames it to `name`.
    fn finish(mut self, name: &Path) -> Result<(), LedgerError> {
        let renamed = File::open(&self.0)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.0, name));
        renamed.map_err(|source| LedgerError::File {
            path: name.to_owned(),
            source,
        })?;
        self.0 = PathBuf::new();
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // If this fails, the next attempt removes the file.
            let _ = fs::remove_file(&self.0);
        }
    }
}
