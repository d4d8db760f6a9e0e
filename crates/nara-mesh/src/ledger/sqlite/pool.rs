use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use nara_proto::stream::LedgerEpoch;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::ffi::{
    SQLITE_IOERR_SHMMAP, SQLITE_IOERR_SHMOPEN, SQLITE_IOERR_SHMSIZE, SQLITE_READONLY_DIRECTORY,
};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::convert::Converted;
use super::failure::{Failure, counted};
use super::lock::{Lock, opens_of};
use super::place::{check_file, unprotect_log, with_suffix};
use super::{schema, sql, wal};
use crate::clock::monotonic_now;
use crate::erased::{Erased, typed};
use crate::folder_owner::as_owner_of_folder;
use crate::ledger::{LedgerError, Opening};
use crate::offload::on_blocking_thread;

/// Number of concurrent readers; further ones wait.
const READERS: usize = 4;

/// How long a connection waits for a writing *process*.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Page cache of the writer.
const WRITER_CACHE_KIB: i64 = 8 << 10;

/// Page cache of the writer during bulk inserts: holds the pages that 20,000 events of one transaction touch,
/// so that none is written twice.
const BULK_CACHE_KIB: i64 = 64 << 10;

/// Page cache of each reader: holds the inner pages of every index of a million events.
const READER_CACHE_KIB: i64 = 4 << 10;

/// Page cache of the connection that runs checkpoints: it reads nothing.
const CHECKPOINT_CACHE_KIB: i64 = 64;

/// Number of events in a transaction from which it counts as a bulk insert.
const BULK: usize = 1_000;

/// SQLite instructions between two calls of the progress handler: some milliseconds of work.
const STEPS: i32 = 100_000;

/// Number of prepared statements that a connection caches.
const CACHED_STATEMENTS: usize = 64;

/// The connections to one database: one writer, and several readers of snapshots.
#[derive(Debug)]
pub(super) struct Pool {
    // Dropped first: the connection closed last cleans up the log, and only the writer may write.
    readers: Option<Readers>,
    /// Identifies this ledger.
    pub(super) epoch: LedgerEpoch,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    /// Held by this pool, and by each operation that waits for the writer.
    queue: Arc<()>,
    /// `None` for a database in memory.
    path: Option<PathBuf>,
    /// Dropped last.
    _lock: Option<Lock>,
}

#[derive(Clone, Debug)]
struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// Opens the database and, if there is a `holder`, takes its lock.
    pub(super) fn open(path: &Path, holder: Option<&str>, opening: Option<Opening>) -> Result<Self, Failure> {
        as_owner_of_folder(path, || Self::open_as_owner(path, holder, opening)).map_err(|source| {
            LedgerError::File {
                path: path.to_owned(),
                source,
            }
        })?
    }

    fn open_as_owner(path: &Path, holder: Option<&str>, opening: Option<Opening>) -> Result<Self, Failure> {
        let mut lock = holder.map(|holder| Lock::take(path, holder)).transpose()?;
        let failed = |source| LedgerError::File {
            path: path.to_owned(),
            source,
        };
        let is_new = create_private(path).map_err(failed)?;
        let found = check_file(path).map_err(failed)?;
        let was_used = || {
            let opens = lock.as_ref().map_or_else(|| opens_of(path), |lock| lock.opens);
            opens.is_some()
        };
        // Else it is the leftover of a first start that failed.
        if found.len() == 0 && !is_new && was_used() {
            return Err(empty(path));
        }
        unprotect_log(path, &found);
        if let Some(lock) = &mut lock {
            lock.extend_to(path)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut writer = configure(Connection::open_with_flags(path, flags)?, WRITER_CACHE_KIB)?;
        let converted = Arc::new(Converted::default());
        if let Some(mut opening) = opening {
            let converted = converted.clone();
            let looks = move || {
                let (done, all) = converted.progress();
                opening(done, all).is_break()
            };
            writer.progress_handler(STEPS, Some(looks))?;
        }
        schema::migrate(&mut writer, path, &converted)?;
        // Only after `migrate`: WAL mode would change a file that is not ours.
        write_ahead(&writer)?;
        wal::checkpoint_beside(
            &mut writer,
            configure(Connection::open_with_flags(path, flags)?, CHECKPOINT_CACHE_KIB)?,
        )?;
        if let Some(lock) = &mut lock {
            check_damage(&writer)?;
            note_opened(&writer, path, lock)?;
        }
        writer.progress_handler(0, None::<fn() -> bool>)?;
        writer.execute(sql::SKIP_PLACES, [])?;
        let epoch = epoch(&writer)?;
        let readers = (0..READERS)
            .map(|_| {
                let reader = configure(Connection::open_with_flags(path, flags)?, READER_CACHE_KIB)?;
                reader.pragma_update(None, "query_only", true)?;
                Ok(reader)
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self {
            epoch,
            readers: Some(Readers {
                idle: Arc::new(Mutex::new(readers)),
                permits: Arc::new(Semaphore::new(READERS)),
            }),
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            queue: Arc::new(()),
            path: Some(path.to_owned()),
            _lock: lock,
        })
    }

    /// Opens the database read-only, even on a read-only file system.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, Failure> {
        let found = check_file(path).and_then(|found| File::open(path).map(|_| found));
        let found = found.map_err(|source| LedgerError::File {
            path: path.to_owned(),
            source,
        })?;
        if found.len() == 0 {
            return Err(empty(path));
        }
        let reader = read_only(path)?;
        schema::check_readable(&reader, path)?;
        Ok(Self {
            epoch: epoch(&reader)?,
            readers: None,
            writer: Arc::new(tokio::sync::Mutex::new(reader)),
            queue: Arc::new(()),
            path: Some(path.to_owned()),
            _lock: None,
        })
    }

    /// Opens a database in memory, which has one connection: no other can see it.
    pub(super) fn open_in_memory() -> Result<Self, Failure> {
        let mut writer = configure(Connection::open_in_memory()?, WRITER_CACHE_KIB)?;
        schema::migrate(&mut writer, Path::new(":memory:"), &Converted::default())?;
        Ok(Self {
            epoch: epoch(&writer)?,
            readers: None,
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            queue: Arc::new(()),
            path: None,
            _lock: None,
        })
    }

    /// Runs `work` outside of a transaction, on a separate connection if the database is a file.
    pub(super) fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> impl Future<Output = Result<T, LedgerError>> + Send {
        let path = self.path.clone();
        let writer = self.writer.clone();
        async move {
            match path {
                Some(path) => blocking(move || work(&read_only(&path)?)).await,
                None => {
                    let writer = writer.lock_owned().await;
                    blocking(move || work(&writer)).await
                }
            }
        }
    }

    /// Runs `work` in a transaction and commits if it succeeds.
    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> impl Future<Output = Result<T, LedgerError>> + Send {
        self.write_then(work, |result| result)
    }

    /// Returns what tells whether operations wait for the writer.
    pub(super) fn waiting(&self) -> impl Fn() -> bool + Send + 'static {
        let queue = Arc::downgrade(&self.queue);
        move || queue.strong_count() > 1
    }

    /// Like [`Pool::write`]; runs `then` after the commit and before the next writer.
    pub(super) fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> impl Future<Output = Result<U, LedgerError>> + Send {
        let then = |result| -> Erased { Box::new(then(typed(result))) };
        self.write_erased(erased(work), Box::new(then)).map_ok(typed)
    }

    fn write_erased(
        &self,
        work: Work,
        then: Box<dyn FnOnce(Erased) -> Erased + Send>,
    ) -> impl Future<Output = Result<Erased, LedgerError>> + Send {
        let (writer, place) = (self.writer.clone(), self.queue.clone());
        let work = move |writer: &mut Connection| {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(then(result))
        };
        async move {
            let mut writer = writer.lock_owned().await;
            drop(place);
            blocking(move || work(&mut writer)).await
        }
    }

    /// Runs `work` on a snapshot of the database.
    pub(super) fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> impl Future<Output = Result<T, LedgerError>> + Send {
        self.read_erased(erased(work)).map_ok(typed)
    }

    fn read_erased(&self, work: Work) -> impl Future<Output = Result<Erased, LedgerError>> + Send {
        let readers = self.readers.clone();
        let writer = self.writer.clone();
        async move {
            let mut lease = match readers {
                Some(readers) => Lease::Reader(readers.lease().await?),
                None => Lease::Writer(writer.lock_owned().await),
            };
            blocking(move || work(&lease.connection()?.transaction()?)).await
        }
    }
}

/// What a transaction does. Connections are leased, and transactions committed, by code that is compiled once.
type Work = Box<dyn FnOnce(&Transaction<'_>) -> Result<Erased, Failure> + Send>;

fn erased<T: Send + 'static>(
    work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
) -> Work {
    Box::new(|transaction| Ok(Box::new(work(transaction)?)))
}

/// Enlarges the page cache of the writer during bulk inserts and shrinks it afterwards.
pub(super) fn pace(writer: &Connection, events: usize) -> rusqlite::Result<()> {
    let cache = if events < BULK {
        WRITER_CACHE_KIB
    } else {
        BULK_CACHE_KIB
    };
    let held: i64 = writer.pragma_query_value(None, "cache_size", |row| row.get(0))?;
    if held != -cache {
        writer.pragma_update(None, "cache_size", -cache)?;
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, LedgerError> {
    let outcome = on_blocking_thread(work).await.map_err(|_| LedgerError::Closed)?;
    outcome.map_err(counted)
}

enum Lease {
    Reader(ReaderLease),
    Writer(OwnedMutexGuard<Connection>),
}

impl Lease {
    fn connection(&mut self) -> Result<&mut Connection, LedgerError> {
        match self {
            Self::Reader(lease) => lease.connection.as_mut().ok_or(LedgerError::Closed),
            Self::Writer(guard) => Ok(guard),
        }
    }
}

impl Readers {
    async fn lease(self) -> Result<ReaderLease, LedgerError> {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| LedgerError::Closed)?;
        let connection = self.idle().pop();
        Ok(ReaderLease {
            connection,
            readers: self,
            _permit: permit,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // Pushing and popping cannot leave it in an inconsistent state.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader that returns to the pool when dropped, even by a panic. There is one per permit.
struct ReaderLease {
    connection: Option<Connection>,
    readers: Readers,
    _permit: OwnedSemaphorePermit,
}

impl Drop for ReaderLease {
    fn drop(&mut self) {
        // The permit is released after this.
        self.readers.idle().extend(self.connection.take());
    }
}

/// Enables the write-ahead log, so that readers and the writer work concurrently. While another process does the
/// same on a new file, SQLite reports "busy" without the usual wait.
fn write_ahead(connection: &Connection) -> rusqlite::Result<()> {
    let began = monotonic_now();
    loop {
        match connection.pragma_update(None, "journal_mode", "wal") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && monotonic_now().duration_since(began) < BUSY_TIMEOUT =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            done => return done,
        }
    }
}

fn configure(connection: Connection, cache_kib: i64) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Without it, SQLite recompiles a statement whenever another limit is bound, though its plan never depends on
    // the limit.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // A negative size is in KiB.
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // Truncate the log to this size in bytes after a large transaction.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(connection)
}

fn empty(path: &Path) -> Failure {
    LedgerError::Empty {
        path: path.to_owned(),
    }
    .into()
}

/// Creates the file if it is missing, and returns whether it was. SQLite gives the log the same permissions.
fn create_private(path: &Path) -> std::io::Result<bool> {
    match create_new_private(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates the file and fails if it exists: an existing file may be readable for its creator.
pub(super) fn create_new_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Opens a database read-only, even where the shared-memory file of its log cannot be created.
pub(super) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = configure(Connection::open_with_flags(path, flags)?, READER_CACHE_KIB)?;
        // Only a read shows whether this works: either the read of a setting in `configure`, or this one.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(connection)
    };
    match open() {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => immutable(path),
        // There is no log, and it cannot be created, so no process has the ledger open.
        Err(error) if extended_code(&error) == Some(SQLITE_READONLY_DIRECTORY) => immutable(path),
        // No space for the shared-memory file, so no process has the ledger open. A non-empty log must not be
        // ignored.
        Err(error) if has_no_room(&error) && is_log_empty(path) => immutable(path),
        opened => opened,
    }
}

/// Returns whether SQLite ran out of disk space, including errors on the shared-memory file of the log.
fn has_no_room(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || matches!(
            extended_code(error),
            Some(SQLITE_IOERR_SHMSIZE | SQLITE_IOERR_SHMOPEN | SQLITE_IOERR_SHMMAP)
        )
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    Some(error.sqlite_error()?.extended_code)
}

fn is_log_empty(path: &Path) -> bool {
    std::fs::metadata(with_suffix(path, "-wal")).map_or(true, |log| log.len() == 0)
}

/// Opens a database that no process changes meanwhile, ignoring its log.
pub(super) fn immutable(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let path = percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC);
    let uri = format!("file:{path}?immutable=1");
    configure(Connection::open_with_flags(uri, flags)?, READER_CACHE_KIB)
}

/// Refuses a damaged database. Takes a second for 300,000 events.
fn check_damage(connection: &Connection) -> Result<(), Failure> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" {
        Ok(())
    } else {
        Err(LedgerError::Corrupt { reason: finding }.into())
    }
}

/// Assigns a new epoch to a ledger that was copied, or restored to an older state: its positions are reused for
/// other events.
fn note_opened(connection: &Connection, path: &Path, lock: &mut Lock) -> Result<(), Failure> {
    let (file, opens): (Option<String>, i64) =
        connection.query_row(sql::OPENED, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let failed = |source| LedgerError::File {
        path: path.to_owned(),
        source,
    };
    let here = file_id(path).map_err(failed)?;
    if opens == 0 && lock.opens.is_some() {
        tracing::warn!(
            "the ledger {} is new, but a nara ran here before: its events, pinned keys and bans are lost unless its ledger \
             is put back or restored",
            path.display()
        );
    }
    if opens > 0 && (file != here || lock.opens != Some(opens)) {
        connection.execute(sql::NEW_EPOCH, [])?;
        tracing::info!(path = %path.display(), "the ledger was copied or restored: assigned a new epoch");
    }
    connection.execute(sql::NOTE_OPENED, (here, opens + 1))?;
    lock.note(opens + 1).map_err(failed)?;
    Ok(())
}

/// Returns an id that differs between a file and its copy.
fn file_id(path: &Path) -> std::io::Result<Option<String>> {
    #[cfg(unix)]
    {
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path)?);
        Ok(Some(inode.to_string()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(None)
    }
}

fn epoch(connection: &Connection) -> rusqlite::Result<LedgerEpoch> {
    let number: i64 = connection.query_row(sql::EPOCH, [], |row| row.get(0))?;
    Ok(LedgerEpoch::new(number.cast_unsigned()))
}
