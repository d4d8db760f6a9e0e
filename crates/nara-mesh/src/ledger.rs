//! Where a nara keeps its memory: the [`Ledger`] trait, and two of its kind.

mod admission;
mod feed;
mod filter;
mod follow;
mod inventory;
mod memory;
mod rejections;
mod retention;
mod sampler;
mod select;
mod sqlite;

pub use feed::{Arrival, Arrivals, EventFeed};
pub use follow::{Followed, Follower};
pub use memory::MemoryLedger;
pub use retention::{EveryoneKnown, KnownNames, MemoryMode, PinnedNames, RetentionPolicy};
pub(crate) use select::select;
pub use sqlite::SqliteLedger;

use std::fmt::Debug;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;

use crate::registry::{PeerChange, PeerChangeError, PeerRecord};

/// The outcome of an operation of a ledger.
pub type LedgerFuture<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// A ledger that cannot do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The database was made by a newer version of this program.
    #[error(
        "the ledger has schema version {found}, and this program supports up to {known}: use a newer program"
    )]
    NewerSchema {
        /// The version in the file.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file is a database of another program.
    #[error("{path} is a database of another program: give the ledger a file of its own")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file of the database cannot be made or opened.
    #[error("the ledger {path} cannot be opened: check that its folder exists and is writable")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the ledger database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// What is stored cannot be read back.
    #[error("event {id} in the ledger is damaged: {reason}")]
    Damaged {
        /// The id of the event.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is stored of a nara cannot be read back.
    #[error("the ledger entry of peer {name} is damaged ({reason}): delete its row in the table peers")]
    DamagedPeer {
        /// The name of the nara.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The runtime that the ledger works on was shut down, or an earlier operation panicked half-way.
    #[error("the ledger was shut down: open it again")]
    Closed,
}

/// What became of an event that was handed to a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Insertion {
    /// An event with this id is there already.
    Duplicate,
    /// It is one of those that the mesh agreed to forget (docs/protocol/v1.md, section 8.6, no. 6).
    Forgotten,
    /// A rule of retention keeps it out.
    NotRetained,
    /// It is new and stored.
    Stored,
}

/// Keeps events, in the order in which they came, and finds them by time.
///
/// A ledger stores what it is given: that events are valid and verified is the business of the caller (see
/// [`nara_proto::event::verify_events`]). It drops duplicates by id and keeps its size by its retention rules.
pub trait Ledger: Debug + Send + Sync + 'static {
    /// Stores events, all or none of them if the storage fails; one outcome each, in order.
    fn insert(&self, events: Vec<SyncEvent>) -> LedgerFuture<'_, Vec<Insertion>> {
        self.insert_from(events, None)
    }

    /// As [`Ledger::insert`], for events that a peer told: streams to that peer leave them out.
    fn insert_from(
        &self,
        events: Vec<SyncEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>>;

    /// Tells of events as they are stored; see [`Follower`].
    fn feed(&self) -> &EventFeed;

    /// The place of the newest event in the order of arrival, whether it is still stored or not; 0 if there was
    /// none.
    fn position(&self) -> LedgerFuture<'_, i64>;

    /// The first `limit` events that came behind the place `after`, in the order in which they came. A look
    /// that finds little may end early: see [`Arrivals::end`].
    fn arrived_after(&self, filter: EventFilter, after: i64, limit: usize) -> LedgerFuture<'_, Arrivals>;

    /// The place before the first event that came and has the time `since` or a later one; [`Ledger::position`] if
    /// there is none.
    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64>;

    /// The first `limit` events behind `after`, by time and id.
    fn page(&self, filter: EventFilter, after: Cursor, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The newest `limit` events, newest first.
    fn recent(&self, filter: EventFilter, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The legacy selection: events later than `since` if that is positive, by time; of those every
    /// `slice_total`-th from `slice_index` on; of those the newest `limit`, still oldest first.
    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// All critical events and a weighted random choice of the others, `sample.size` in all, oldest first; if
    /// the critical ones alone are as many, the oldest of them.
    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The last `limit` events from `since` on (inclusive), in the order in which they came.
    fn since(&self, since: UnixNanos, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Checkpoints in the order in which they came, and how many there are in all.
    fn checkpoints(&self, limit: usize, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)>;

    /// How many events are stored.
    fn count(&self) -> LedgerFuture<'_, usize>;

    /// What stands for the events of a scope in a reconciliation. The first call reads all ids; from then on
    /// the ledger keeps the set up to date.
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet>;

    /// Those of these events that are stored, in any order.
    fn by_ids(&self, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Remembers that events of a peer were not stored, be it that they do not verify or that the rules of
    /// retention keep them out, so that they are not fetched from it again. A bounded number is remembered, the
    /// newest. It goes by peer, so that nobody can spoil an event that others have.
    fn reject(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, ()>;

    /// Those of these events of a peer that were rejected.
    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>>;

    /// Remembers what was learned of naras; see [`PeerChange::Learn`].
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()>;

    /// Changes what is remembered of a nara, and returns what it is then. Nothing comes between: several processes
    /// may do so at once.
    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>>;

    /// What is remembered of all naras, by name.
    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>>;

    /// Remembers how far the events of a peer were fetched; `peer` is any text that names it.
    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()>;

    /// How far the events of a peer were fetched.
    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>>;

    /// Remembers how far the stream of a peer was read; `peer` is any text that names it.
    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()>;

    /// How far the stream of a peer was read.
    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>>;
}

/// What [`Ledger::slice`] selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Only events later than this, if positive.
    pub since: UnixNanos,
    /// Which slice; below `slice_total`.
    pub slice_index: usize,
    /// Of how many; at least 1.
    pub slice_total: usize,
    /// How many events.
    pub limit: usize,
}

impl Slice {
    /// Where the selection begins.
    fn start(&self) -> Cursor {
        if self.since > UnixNanos::new(0) {
            Cursor::after_time(self.since)
        } else {
            Cursor::START
        }
    }
}

/// How [`Ledger::sample`] draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many events.
    pub size: usize,
    /// The name of the nara that draws: events about it weigh more.
    pub responder: String,
    /// Now, for the age of the events.
    pub now: UnixNanos,
    /// The seed of the random choice.
    pub seed: u64,
}

#[cfg(test)]
mod tests;
