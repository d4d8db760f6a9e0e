use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nara_proto::stream::LedgerEpoch;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::config::DbConfig;
use rusqlite::ffi::{SQLITE_IOERR_SHMMAP, SQLITE_IOERR_SHMOPEN, SQLITE_IOERR_SHMSIZE};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::convert::Converted;
use super::failure::{Failure, counted};
use super::lock::Lock;
use super::place::check_file;
use super::{schema, sql, wal};
use crate::clock::monotonic_now;
use crate::folder_owner::as_owner_of_folder;
use crate::ledger::{LedgerError, Opening};

/// Connections that read at once; more readers wait their turn.
const READERS: usize = 4;

/// How long a connection waits for another *process* that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two attempts where SQLite does not wait by itself.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The most that the writer keeps of the database.
const WRITER_CACHE_KIB: i64 = 8 << 10;

/// The same while many events come at once: the pages that 5,000 events of one transaction touch, so that none is written
/// twice.
const BULK_CACHE_KIB: i64 = 64 << 10;

/// The most that each reader keeps of the database: the inner pages of every index of a million events.
const READER_CACHE_KIB: i64 = 4 << 10;

/// What the connection that moves the log into the database keeps of it: it reads none of it.
const CHECKPOINT_CACHE_KIB: i64 = 64;

/// Events of one transaction that count as many.
const BULK: usize = 1_000;

/// Steps of SQLite between two looks at whether it should go on: some milliseconds of work.
const STEPS: i32 = 100_000;

/// Prepared statements that a connection keeps.
const CACHED_STATEMENTS: usize = 64;

/// The connections to one database: one that writes, and some that read a snapshot meanwhile.
#[derive(Debug)]
pub(super) struct Pool {
    // Dropped first: the connection that is closed last tidies up the log, and only the writer may write.
    readers: Option<Readers>,
    /// Names this ledger.
    pub(super) epoch: LedgerEpoch,
    writer: Arc<tokio::sync::Mutex<Connection>>,
    /// `None`: in memory.
    path: Option<PathBuf>,
    /// Released last.
    _lock: Option<Lock>,
}

#[derive(Clone, Debug)]
struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// Opens the database, and takes its lock in the name of `holder`.
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
        let made = create_private(path).and_then(|()| check_file(path));
        made.map_err(|source| LedgerError::File {
            path: path.to_owned(),
            source,
        })?;
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
        // Only now: it would change a file that is not ours.
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
            path: Some(path.to_owned()),
            _lock: lock,
        })
    }

    /// Opens the database to read it only, also where nothing can be written.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, Failure> {
        if let Err(source) = check_file(path).and_then(|_| File::open(path)) {
            return Err(LedgerError::File {
                path: path.to_owned(),
                source,
            }
            .into());
        }
        let reader = read_only(path)?;
        schema::check_readable(&reader, path)?;
        Ok(Self {
            epoch: epoch(&reader)?,
            readers: None,
            writer: Arc::new(tokio::sync::Mutex::new(reader)),
            path: Some(path.to_owned()),
            _lock: None,
        })
    }

    /// A database in memory has one connection: nobody else can see it.
    pub(super) fn open_in_memory() -> Result<Self, Failure> {
        let mut writer = configure(Connection::open_in_memory()?, WRITER_CACHE_KIB)?;
        schema::migrate(&mut writer, Path::new(":memory:"), &Converted::default())?;
        Ok(Self {
            epoch: epoch(&writer)?,
            readers: None,
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            path: None,
            _lock: None,
        })
    }

    /// Runs `work` outside of a transaction, on a connection of its own if the database is a file.
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

    /// Runs `work` in a transaction, which is committed if it succeeds.
    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> impl Future<Output = Result<T, LedgerError>> + Send {
        self.write_then(work, |result| result)
    }

    /// As [`Pool::write`]; runs `then` after the commit and before the next writer.
    pub(super) fn write_then<T: Send + 'static, U: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> impl Future<Output = Result<U, LedgerError>> + Send {
        let writer = self.writer.clone();
        let work = move |writer: &mut Connection| {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(then(result))
        };
        async move {
            let mut writer = writer.lock_owned().await;
            blocking(move || work(&mut writer)).await
        }
    }

    /// Runs `work` on a snapshot of the database.
    pub(super) fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> impl Future<Output = Result<T, LedgerError>> + Send {
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

/// Gives the writer more room while many events come at once, and takes it back when they do not.
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
    let outcome = spawn_blocking(work).await.map_err(|_| LedgerError::Closed)?;
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
        // Pushing and popping cannot leave it half-way.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader that goes back when it is dropped, also by a panic. There is one for each permit.
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

/// Lets readers and the writer work beside each other. While another program does the same to a new file, SQLite says at once
/// that it is busy, and does not wait as elsewhere.
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
    // Else a statement is compiled anew whenever another limit is bound to it, though its plan never depends on it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // Negative: in KiB.
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    // The log shrinks to this, in bytes, after it grew for a large transaction.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(connection)
}

/// Makes the file if it is missing. The log beside it gets the permissions that it has.
pub(super) fn create_private(path: &Path) -> std::io::Result<()> {
    match create_new_private(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The same where there must be no file: one that somebody else put there would be readable for them.
pub(super) fn create_new_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Opens a database that is not written to, also where the index of its log cannot be made.
pub(super) fn read_only(path: &Path) -> rusqlite::Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = configure(Connection::open_with_flags(path, flags)?, READER_CACHE_KIB)?;
        // Only a look shows whether it can be read like this: that of a setting, or this one.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
            row.get::<_, i64>(0)
        })?;
        Ok(connection)
    };
    match open() {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => immutable(path),
        // There is no room for the index of the log: nobody has the ledger open. What is in a log must not be missed.
        Err(error) if has_no_room(&error) && is_log_empty(path) => immutable(path),
        opened => opened,
    }
}

/// Whether the disk is full, in the words of SQLite: also where it says only that it cannot work on the index of the log.
fn has_no_room(error: &rusqlite::Error) -> bool {
    let extended = error.sqlite_error().map(|error| error.extended_code);
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
        || matches!(
            extended,
            Some(SQLITE_IOERR_SHMSIZE | SQLITE_IOERR_SHMOPEN | SQLITE_IOERR_SHMMAP)
        )
}

fn is_log_empty(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).map_or(true, |log| log.len() == 0)
}

/// Opens a database that nobody changes meanwhile. What is only in its log is not seen.
pub(super) fn immutable(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let path = percent_encode(path.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC);
    let uri = format!("file:{path}?immutable=1");
    configure(Connection::open_with_flags(uri, flags)?, READER_CACHE_KIB)
}

/// Refuses a damaged database. It takes a second for 300,000 events.
fn check_damage(connection: &Connection) -> Result<(), Failure> {
    let finding: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if finding == "ok" {
        Ok(())
    } else {
        Err(LedgerError::Corrupt { reason: finding }.into())
    }
}

/// Gives a ledger another epoch that was copied, or that was put back as it was before it was last opened: its places are
/// used again for other events.
fn note_opened(connection: &Connection, path: &Path, lock: &mut Lock) -> Result<(), Failure> {
    let (file, opens): (Option<String>, i64) =
        connection.query_row(sql::OPENED, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let failed = |source| LedgerError::File {
        path: path.to_owned(),
        source,
    };
    let here = file_id(path).map_err(failed)?;
    if opens > 0 && (file != here || lock.opens != Some(opens)) {
        connection.execute(sql::NEW_EPOCH, [])?;
        tracing::info!(path = %path.display(), "the ledger is a copy or was restored: it gets a new epoch");
    }
    connection.execute(sql::NOTE_OPENED, (here, opens + 1))?;
    lock.note(opens + 1).map_err(failed)?;
    Ok(())
}

/// Tells a file from a copy of it.
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
