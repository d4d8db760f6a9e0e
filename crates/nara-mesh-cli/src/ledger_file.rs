//! Opens ledger files and reports their failures.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{Ledger, LedgerError, SqliteLedger, as_owner_of_folder};
use nara_mesh::registry::{PeerKeeper, PeerRegistry};

use crate::failure::{Failure, Outcome};
use crate::settings::Settings;

/// The hint for a data folder that a nara uses.
pub(crate) const STOP_IT: &str =
    "stop it first; another nara needs its own soul and data folder (--soul-file, --data-dir)";

/// Returns the path of a file beside a ledger, or beside another file.
pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a ledger, and creates it if missing.
pub(crate) async fn open(path: &Path) -> Outcome<Arc<dyn Ledger>> {
    let file = path.to_path_buf();
    // Opening blocks on the disk.
    let opened = tokio::task::spawn_blocking(move || SqliteLedger::open(file)).await;
    match opened.unwrap_or(Err(LedgerError::Closed)) {
        Ok(ledger) => Ok(Arc::new(ledger)),
        Err(error) => Err(not_opened(unopenable(path), path, error)),
    }
}

/// Builds the failure of opening a ledger. SQLite does not report the reason; the operating system does.
pub(crate) fn not_opened(failure: Failure, path: &Path, error: LedgerError) -> Failure {
    match as_owner_of_folder(path, || why_not(path)).ok().flatten() {
        Some(reason) => failure.caused_by(reason).hint(format!(
            "check the owner and the permissions of {} and its folder",
            path.display()
        )),
        None => because(failure, error),
    }
}

/// Opens a ledger read-only, also on a read-only file system.
pub(crate) async fn open_to_read(path: &Path) -> Outcome<SqliteLedger> {
    let opened = read_only(path.to_path_buf()).await;
    opened.map_err(|error| because(unopenable(path), error))
}

async fn read_only(path: PathBuf) -> Result<SqliteLedger, LedgerError> {
    let opened = tokio::task::spawn_blocking(move || SqliteLedger::open_to_read(path)).await;
    opened.unwrap_or(Err(LedgerError::Closed))
}

fn unopenable(path: &Path) -> Failure {
    Failure::failed(format!("the ledger {} cannot be opened", path.display()))
}

/// The free space that a nara needs to go on storing: more than one page of events.
const ROOM: usize = 1 << 20;

/// Checks that a nara can store data in this folder by writing to an unnamed file: this also detects quotas,
/// process limits and a file system that became read-only.
pub(crate) fn room_in(folder: &Path) -> std::io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    let piece = [0; 64 << 10];
    for _ in 0..ROOM / piece.len() {
        file.write_all(&piece)?;
    }
    Ok(())
}

/// Opens a ledger for reading, also on a read-only file system. A ledger that only a writer can open is
/// opened for writing.
pub(crate) async fn open_to_look(path: &Path) -> Outcome<Arc<dyn Ledger>> {
    match read_only(path.to_path_buf()).await {
        Ok(ledger) => Ok(Arc::new(ledger)),
        Err(LedgerError::OlderSchema { .. } | LedgerError::Interrupted(_)) => open(path).await,
        Err(error) => Err(because(unopenable(path), error)),
    }
}

/// Returns the free bytes of the file system of a file.
pub(crate) fn disk_free(file: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(file).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The file of an open ledger.
#[derive(Clone, Debug)]
pub(crate) struct InUse {
    path: PathBuf,
    /// Device and inode of the file.
    file: Option<(u64, u64)>,
}

impl InUse {
    /// Records the file that is at this path now.
    pub(crate) fn new(path: PathBuf) -> Self {
        let file = file_at(&path);
        Self { path, file }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why writes would be lost: the file was deleted, moved or replaced.
    pub(crate) fn problem(&self) -> Option<String> {
        let found = file_at(&self.path);
        let what = match found {
            _ if found == self.file => return None,
            None => "was deleted or moved",
            Some(_) => "was replaced by another file",
        };
        Some(format!(
            "the ledger {} {what} while this nara runs, which still writes to the old one",
            self.path.display()
        ))
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Returns why there can be no ledger at this path, if the operating system knows.
fn why_not(path: &Path) -> Option<String> {
    let shown = path.display();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    if path.is_dir() {
        return Some(format!("{shown} is a folder"));
    }
    if let Err(error) = tempfile::tempfile_in(folder) {
        return Some(format!("{} cannot be written: {error}", folder.display()));
    }
    let refused = |file: &Path| {
        let opened = std::fs::OpenOptions::new().read(true).write(true).open(file);
        opened.err()
    };
    if let Some(error) = refused(path) {
        return Some(error.to_string());
    }
    ["-wal", "-shm"].into_iter().find_map(|suffix| {
        let file = beside(path, suffix);
        let error = refused(&file).filter(|error| error.kind() != std::io::ErrorKind::NotFound)?;
        Some(format!("{}: {error}", file.display()))
    })
}

/// Loads the stored peer data into the registry; see [`PeerRegistry::restore`].
pub(crate) async fn load_peers(ledger: &Arc<dyn Ledger>, registry: &PeerRegistry) -> Outcome<()> {
    let started = PeerKeeper::start(registry.clone(), ledger.clone()).await;
    let (_, recalled) = started.map_err(failed)?;
    for problem in &recalled.problems {
        tracing::warn!("the stored peer data is ignored: {problem}");
    }
    Ok(())
}

/// Converts a ledger error to a failure.
pub(crate) fn failed(error: LedgerError) -> Failure {
    because(Failure::failed("the ledger failed"), error)
}

/// Adds a ledger error and its hint to a failure: SQLite's messages do not say what to do.
pub(crate) fn because(failure: Failure, error: LedgerError) -> Failure {
    let failure = match &error {
        LedgerError::Full(_) | LedgerError::Interrupted(_) | LedgerError::ReadOnly(_) => {
            failure.hint(error.to_string())
        }
        LedgerError::Locked { .. } => failure.hint(STOP_IT),
        LedgerError::Altered { .. } => failure.hint(
            "show it with `sqlite3 ledger.db .schema` and drop it (`DROP TRIGGER name`), or restore a backup with `nara-mesh \
             restore FILE --replace`",
        ),
        LedgerError::Empty { .. } => failure.hint(
            "restore a backup with `nara-mesh restore FILE --replace`; or remove the file to start anew, without the events, \
             pinned keys and bans that it had",
        ),
        LedgerError::NewerSchema { .. } => failure.hint(
            "install the newer program again, or restore the copy from before the upgrade with \
             `nara-mesh restore FILE --replace`",
        ),
        LedgerError::File { path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => failure.hint(format!(
            "check the owner of {} and its folder: root acts there as the owner of the folder",
            path.display()
        )),
        LedgerError::Busy(_) => failure.hint(
            "another program is writing to the ledger, such as a nara that converts it at its start; try again once that is done",
        ),
        _ => failure,
    };
    failure.caused_by(error)
}

/// Loads presence from the ledger of this nara into the registry; does nothing without a ledger.
pub(crate) async fn recall_presence(settings: &Settings, registry: &PeerRegistry) {
    let Some(path) = settings
        .ledger_path()
        .unwrap_or_default()
        .filter(|path| path.exists())
    else {
        return;
    };
    let recalled = async {
        let ledger = read_only(path).await?;
        registry.recall_presence(&ledger, SystemClock.now_nanos()).await
    };
    if let Err(error) = recalled.await {
        tracing::debug!(%error, "cannot read presence from the ledger");
    }
}
