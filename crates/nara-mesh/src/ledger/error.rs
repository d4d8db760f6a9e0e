use std::error::Error;
use std::path::PathBuf;

use nara_proto::event::EventProblem;

/// The reason why a ledger operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// Peers would refuse this event of this nara. Nothing was stored.
    #[error("peers would refuse this event")]
    Refused(#[source] EventProblem),
    /// The retention policy does not keep this event of this nara. Nothing was stored.
    #[error("the retention policy drops this event: the ledger is full of newer or more important ones")]
    NotRetained,
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
    /// The file is another program's database.
    #[error("{path} is another program's database: give the ledger its own file")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// An older version of this program wrote the database, and it was opened read-only.
    #[error("the ledger has schema version {found}: start the nara once to convert it to version {known}")]
    OlderSchema {
        /// The version in the file.
        found: i64,
        /// The version that this program reads.
        known: i64,
    },
    /// Another process holds the lock of the ledger.
    #[error("the ledger {path} is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Name and process id of the lock holder, if known.
        holder: Option<String>,
    },
    /// The disk is full. Nothing of this operation was stored; earlier data is intact.
    #[error("the disk that holds the ledger is full: free some space; stored events are safe")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// The ledger is read-only.
    #[error("the ledger is read-only: its file or folder is, or it was opened read-only")]
    ReadOnly(#[source] Box<dyn Error + Send + Sync>),
    /// A program ended during a write, and a read-only connection cannot roll the write back.
    #[error("a program ended while it wrote to the ledger: start the nara once to roll that write back")]
    Interrupted(#[source] Box<dyn Error + Send + Sync>),
    /// The program stopped opening the ledger, for example through
    /// [`NaraBuilder::on_opening`](crate::nara::NaraBuilder::on_opening).
    #[error("opening the ledger was cancelled; the ledger is unchanged")]
    Stopped,
    /// Another process held the write lock of the database for too long.
    #[error("another process is writing to the ledger database: try again")]
    Busy(#[source] Box<dyn Error + Send + Sync>),
    /// The database is corrupt.
    #[error("the database of the ledger is damaged ({reason}): restore a backup")]
    Corrupt {
        /// The reason.
        reason: String,
    },
    /// The database has a trigger or a view that this program did not create and that could change or hide
    /// events.
    #[error("the ledger has {object}, which this program did not create: drop it, or restore a backup")]
    Altered {
        /// The kind and the name of the object.
        object: String,
    },
    /// The database file was emptied.
    #[error("the ledger {path} is empty: its file has 0 bytes")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The database file cannot be created or opened.
    #[error("the ledger {path} cannot be opened: check that its folder exists and is writable")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The database failed for another reason.
    #[error("the ledger database failed")]
    Database(#[source] Box<dyn Error + Send + Sync>),
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
    /// The runtime that the ledger works on was shut down, or an earlier operation panicked.
    #[error("the ledger was shut down: open it again")]
    Closed,
}
