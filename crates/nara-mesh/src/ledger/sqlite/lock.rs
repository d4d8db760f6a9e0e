//! Who has a ledger: one daemon at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::place::check_file;
use crate::ledger::LedgerError;

/// The longest text of a lock file that is read.
const MAX_TEXT: u64 = 4096;

/// The lock of a ledger. The operating system releases it at the end of the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// How often the ledger was opened with this lock before.
    pub(super) opens: Option<i64>,
    name: String,
}

impl Lock {
    /// Takes the lock of the ledger at `path`, in the name of `name`.
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
            // What a link leads to would be overwritten.
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
        // A pipe would never end.
        check_file(&beside).map_err(failed)?;
        let locked = file.try_lock();
        let mut text = String::new();
        // What another program wrote there is nobody's name.
        let _ = (&mut file).take(MAX_TEXT).read_to_string(&mut text);
        match locked {
            Ok(()) => {
                let mut lock = Self {
                    file,
                    opens: text.lines().nth(2).and_then(|line| line.parse().ok()),
                    name: name.to_owned(),
                };
                // At once, because opening may take long. On a full disk the name is missing, and no more.
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

    /// Writes down how often the ledger was opened.
    pub(super) fn note(&mut self, opens: i64) -> std::io::Result<()> {
        self.opens = Some(opens);
        self.write()
    }

    /// Writes down who holds it, and how often the ledger was opened, if that is known.
    fn write(&mut self) -> std::io::Result<()> {
        let name = self.name.replace(char::is_control, " ");
        let opens = self.opens.map(|opens| format!("{opens}\n")).unwrap_or_default();
        let text = format!("{}\n{name}\n{opens}", std::process::id());
        self.file.rewind()?;
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)
    }
}

fn holder(text: &str) -> Option<String> {
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.parse().ok()?;
    Some(format!("{} (process {pid})", lines.next()?.escape_debug()))
}

/// The lock file lies beside the database: locks on the database itself are SQLite's own.
fn lock_path(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    beside.into()
}
