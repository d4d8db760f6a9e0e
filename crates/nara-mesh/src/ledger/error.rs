use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// Why an operation of a ledger failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A newer version of this program wrote the database.
    #[error(
        "the ledger has schema version {found}, and this program supports up to {known}: use a newer program"
    )]
    NewerSchema {
        /// The version in the file.
        found: i64,
        /// The newest version that this program supports.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("{path} is a database of another program: give the ledger a file of its own")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database file cannot be created or opened.
    #[error("the ledger {path} cannot be opened: check that its folder exists and is writable")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the ledger database failed")]
    Database(#[source] DatabaseError),
    /// A stored event cannot be decoded.
    #[error("event {id} in the ledger is damaged: {reason}")]
    Damaged {
        /// The id of the event.
        id: String,
        /// The reason.
        reason: String,
    },
    /// A stored peer record cannot be decoded.
    #[error("the ledger entry of peer {name} is damaged ({reason}): delete its row in the table peers")]
    DamagedPeer {
        /// The name of the nara.
        name: String,
        /// The reason.
        reason: String,
    },
    /// The runtime that the ledger works on was shut down, or an earlier operation panicked half-way.
    #[error("the ledger was shut down: open it again")]
    Closed,
}

/// What the database said. Which one it is, is not part of the interface.
#[derive(Debug)]
pub struct DatabaseError(Box<dyn Error + Send + Sync>);

impl DatabaseError {
    #[cfg(feature = "sqlite")]
    pub(super) fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for DatabaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for DatabaseError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
