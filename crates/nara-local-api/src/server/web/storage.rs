//! Files of mode 0600 in the data folder.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system reports an error.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It was not written by this program.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Other users can read or change it.
    #[error("other users can use {} (mode {mode:04o}): run `chmod 600` on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Reads a file that only its owner can access; `None` if it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, StorageError> {
    use std::io::Read as _;
    let failed = |source| StorageError::Io {
        path: path.to_owned(),
        source,
    };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StorageError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Reads JSON; `None` if the file does not exist.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StorageError> {
    let text = read(path)?;
    let parse = |text: String| serde_json::from_str(&text);
    text.map(parse).transpose().map_err(|_| StorageError::Malformed {
        path: path.to_owned(),
    })
}

/// Replaces a file atomically, with mode 0600.
pub(super) fn write(path: &Path, text: &str) -> Result<(), StorageError> {
    let replace = || -> io::Result<()> {
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        // Temporary files have mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    replace().map_err(|source| StorageError::Io {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StorageError> {
    write(path, &serde_json::to_string_pretty(value).unwrap_or_default())
}
