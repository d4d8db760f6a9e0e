use crate::ledger::{DatabaseError, LedgerError};

/// Why an operation on the database failed. It becomes a [`LedgerError`] in one place.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database refused.
    Database(rusqlite::Error),
    /// What it holds is not usable.
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
            Failure::Database(error) => Self::Database(DatabaseError::new(error)),
            Failure::Ledger(error) => error,
        }
    }
}
