use std::error::Error;
use std::path::PathBuf;

use nara_proto::event::EventProblem;

/// Why an operation of a ledger failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// An event of this nara that its peers would refuse. Nothing was stored.
    #[error("every nara that gets this event would refuse it")]
    Refused(#[source] EventProblem),
    /// An event of this nara that the retention policy does not keep. Nothing was stored.
    #[error("the ledger does not keep this event: it keeps newer or more important ones")]
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
    /// The file is a database of another program.
    #[error("{path} is a database of another program: give the ledger a file of its own")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The database was made by an older version of this program, and is opened to be read only.
    #[error(
        "the ledger has schema version {found}, which is converted to {known} when the nara is started: start it once"
    )]
    OlderSchema {
        /// The version in the file.
        found: i64,
        /// The version that this program reads.
        known: i64,
    },
    /// Another process has the ledger.
    #[error("the ledger {path} is in use{}", holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default())]
    Locked {
        /// The file.
        path: PathBuf,
        /// The name and the process that have it, if they are known.
        holder: Option<String>,
    },
    /// The disk is full. Nothing of this operation was stored, and nothing that was stored is lost.
    #[error("the disk of the ledger is full: make room; what was stored is safe")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// The ledger cannot be written.
    #[error("the ledger can only be read: its file or folder is read-only, or it was opened so")]
    ReadOnly(#[source] Box<dyn Error + Send + Sync>),
    /// A program ended while it changed the ledger, and who opens it to read only cannot take the change back.
    #[error(
        "a program was ended while it changed the ledger: start the nara once, which takes the change back"
    )]
    Interrupted(#[source] Box<dyn Error + Send + Sync>),
    /// Opening was stopped by the program itself, such as by [`NaraBuilder::on_opening`](crate::nara::NaraBuilder::on_opening).
    #[error("the ledger was not opened, because that was stopped: it is as it was")]
    Stopped,
    /// Another process writes to the database for too long.
    #[error("another process keeps the database of the ledger busy: try again")]
    Busy(#[source] Box<dyn Error + Send + Sync>),
    /// The database is damaged.
    #[error("the database of the ledger is damaged ({reason}): restore a backup")]
    Corrupt {
        /// The reason.
        reason: String,
    },
    /// The database has a trigger or a view that this program did not make, and that could change or hide events.
    #[error("the ledger has {object}, which is not of this program: drop it, or restore a backup")]
    Altered {
        /// The kind and the name of the object.
        object: String,
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
    /// The runtime that the ledger works on was shut down, or an earlier operation panicked half-way.
    #[error("the ledger was shut down: open it again")]
    Closed,
}
