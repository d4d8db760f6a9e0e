//! The lock file of a ledger: one daemon at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::place::{check_file, with_suffix};
use crate::ledger::LedgerError;

/// Maximum number of bytes read from a lock file.
const MAX_TEXT: u64 = 4096;

/// The lock of a ledger. The operating system releases it when the process ends, even by a crash.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Number of times the ledger was opened under this lock before.
    pub(super) opens: Option<i64>,
    name: String,
    /// The database file, which is locked as well.
    database: Option<File>,
}

impl Lock {
    /// Takes the lock of the ledger at `path` for the holder `name`.
    pub(super) fn take(path: &Path, name: &str) -> Result<Self, LedgerError> {
        let beside = lock_path(path);
        let failed = |source| LedgerError::File {
            path: beside.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            // Following a symbolic link would overwrite its target.
            let no_links = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
            options.mode(0o600).custom_flags(no_links);
        }
        let mut file = match options.open(&beside) {
            Err(_) if beside.is_symlink() => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "it is a symbolic link",
            )),
            opened => opened,
        }
        .map_err(failed)?;
        // Reading from a pipe would block forever.
        check_file(&beside).map_err(failed)?;
        let locked = file.try_lock();
        let mut text = String::new();
        // Ignore errors: another program's text names no holder.
        let _ = (&mut file).take(MAX_TEXT).read_to_string(&mut text);
        match locked {
            Ok(()) => {
                let mut lock = Self {
                    file,
                    opens: opens(&text),
                    name: name.to_owned(),
                    database: None,
                };
                // Write at once, because opening may take long. If the disk is full, only the name is missing.
                let _ = lock.write();
                Ok(lock)
            }
            Err(TryLockError::WouldBlock) => Err(LedgerError::Locked {
                path: path.to_owned(),
                holder: holder(&text),
            }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Locks the database file too, if there is one: the lock file may have been removed while its holder runs.
    pub(super) fn extend_to(&mut self, path: &Path) -> Result<(), LedgerError> {
        // On other systems, this lock would keep SQLite from taking its own.
        if !cfg!(target_os = "linux") || check_file(path).is_err() {
            return Ok(());
        }
        // Opening the database reports why it cannot be opened.
        let Ok(file) = File::open(path) else {
            return Ok(());
        };
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            // Closing it would release the locks that SQLite has on it in this process.
            std::mem::forget(file);
            return Err(LedgerError::Locked {
                path: path.to_owned(),
                holder: None,
            });
        }
        self.database = Some(file);
        Ok(())
    }

    /// Records the number of times the ledger was opened.
    pub(super) fn note(&mut self, opens: i64) -> std::io::Result<()> {
        self.opens = Some(opens);
        self.write()
    }

    /// Writes the holder and, if known, the number of times the ledger was opened.
    fn write(&mut self) -> std::io::Result<()> {
        let name = self.name.replace(char::is_control, " ");
        let opens = self.opens.map(|opens| format!("{opens}\n")).unwrap_or_default();
        let text = format!("{}\n{name}\n{opens}", std::process::id());
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }
}

/// Returns the number of times that daemons opened the ledger at `path`; `None` if there was none.
pub(super) fn opens_of(path: &Path) -> Option<i64> {
    let beside = lock_path(path);
    // Reading from a pipe would block forever.
    check_file(&beside).ok()?;
    let mut text = String::new();
    File::open(beside)
        .ok()?
        .take(MAX_TEXT)
        .read_to_string(&mut text)
        .ok()?;
    opens(&text)
}

fn opens(text: &str) -> Option<i64> {
    text.lines().nth(2)?.parse().ok()
}

fn holder(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.parse().ok()?;
    Some(format!("{} (process {pid})", lines.next()?.escape_debug()))
}

/// Returns the path of the lock file next to the database: SQLite itself locks the database file.
fn lock_path(path: &Path) -> PathBuf {
    with_suffix(path, ".lock")
}
