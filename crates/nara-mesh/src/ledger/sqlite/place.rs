//! Checks the type of a file.

use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::path::Path;

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
