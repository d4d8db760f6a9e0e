use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_READONLY_ROLLBACK};

use crate::ledger::LedgerError;
use crate::metrics;

/// The reason why a database operation failed. Converted to [`LedgerError`] in one place.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite returned an error.
    Database(rusqlite::Error),
    /// The content of the database is unusable.
    Ledger(LedgerError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Database(error) => {
                let code = error.sqlite_error_code();
                let reason = error.to_string();
                let extended = error.sqlite_error().map(|error| error.extended_code);
                let source = Box::new(error);
                match code {
                    Some(ErrorCode::DiskFull) => Self::Full(source),
                    // The file system has no space for the shared-memory file of the log.
                    _ if extended == Some(SQLITE_IOERR_SHMSIZE) => Self::Full(source),
                    Some(ErrorCode::ReadOnly) if extended == Some(SQLITE_READONLY_ROLLBACK) => {
                        Self::Interrupted(source)
                    }
                    Some(ErrorCode::ReadOnly) => Self::ReadOnly(source),
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(source),
                    Some(ErrorCode::OperationInterrupted) => Self::Stopped,
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { reason },
                    _ => Self::Database(source),
                }
            }
            Failure::Ledger(error) => error,
        }
    }
}

/// Counts a failure in the metrics, by reason.
pub(super) fn counted(failure: impl Into<Failure>) -> LedgerError {
    let error = LedgerError::from(failure.into());
    let reason = match error {
        LedgerError::Full(_) => "full",
        LedgerError::ReadOnly(_) => "read_only",
        LedgerError::Busy(_) => "busy",
        LedgerError::Corrupt { .. } | LedgerError::Altered { .. } => "corrupt",
        _ => "other",
    };
    ::metrics::counter!(metrics::LEDGER_ERRORS, "reason" => reason).increment(1);
    error
}
