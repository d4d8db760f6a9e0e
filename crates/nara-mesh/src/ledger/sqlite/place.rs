//! The files of a database.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The suffixes of the log of a database, and of the index of the log.
pub(super) const LOG: [&str; 2] = ["-wal", "-shm"];

/// Returns the path of a file beside a database.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Refuses folders and special files, on which SQLite would hang or fail with an unhelpful code.
pub(super) fn check_file(path: &Path) -> Result<Metadata, Error> {
    let found = std::fs::metadata(path)?;
    let reason = match () {
        () if found.is_dir() => "it is a folder",
        () if !found.is_file() => "it is a pipe or a device, not a file",
        () => return Ok(found),
    };
    Err(Error::new(ErrorKind::InvalidInput, reason))
}

/// Makes the log of a database writable if the database is: SQLite gives the log the permissions that the database
/// has when it is first read, which may have been protected then.
pub(super) fn unprotect_log(path: &Path, database: &Metadata) {
    if database.permissions().readonly() {
        return;
    }
    for file in LOG.map(|suffix| with_suffix(path, suffix)) {
        let is_protected = std::fs::symlink_metadata(&file)
            .is_ok_and(|found| found.is_file() && found.permissions().readonly());
        // If it fails, SQLite reports that the database is read-only.
        if is_protected && let Err(error) = std::fs::set_permissions(&file, database.permissions()) {
            tracing::warn!(%error, "{} cannot be made writable", file.display());
        }
    }
}
