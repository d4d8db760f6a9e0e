//! Where a nara keeps its memory: the [`Ledger`], as small traits, in memory or in a SQLite database.

mod admission;
mod checked;
mod error;
mod feed;
mod filter;
mod follow;
mod inventory;
mod limit;
mod memory;
mod rank;
mod rejections;
mod retention;
mod sampler;
mod select;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use checked::CheckedEvent;
pub use error::{DatabaseError, LedgerError};
pub use feed::{Arrival, Arrivals, EventFeed};
pub use follow::{Followed, Follower};
pub use limit::ReadLimit;
pub use memory::MemoryLedger;
pub use retention::{EveryoneKnown, KnownNames, MemoryMode, RetentionPolicy, Standing};
pub(crate) use select::select;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteLedger;

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;

use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// The outcome of an operation of a ledger.
pub type LedgerFuture<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// What became of an event that was handed to a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Insertion {
    /// An event with this id is there already.
    Duplicate,
    /// It is one of those that the mesh agreed to forget (docs/protocol/v1.md, section 8.6, no. 6).
    Forgotten,
    /// A rule of retention keeps it out: there is no room for it, it is too large, or it is of the future.
    NotRetained,
    /// It is new and stored.
    Stored,
}

/// Keeps events and finds them by time.
///
/// A store keeps what it is given: whether events are valid and verified is the business of the caller (see
/// [`nara_proto::event::verify_events`]). It drops duplicates by id, except that a verified event takes the place of an
/// unverified one, and keeps its size by its retention rules.
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Stores events that this nara signed itself, or whose signatures were verified elsewhere; see
    /// [`EventStore::insert`].
    fn insert_verified(&self, events: Vec<SyncEvent>) -> LedgerFuture<'_, Vec<Insertion>> {
        self.insert(events.into_iter().map(CheckedEvent::verified).collect(), None)
    }

    /// Stores events, all or none of them if the storage fails; one outcome each, in order.
    ///
    /// `origin` is the peer that told them, if it was one: streams to that peer leave them out.
    fn insert(
        &self,
        events: Vec<CheckedEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>>;

    /// The first `limit` events behind `after`, by time and id.
    fn page(&self, filter: EventFilter, after: Cursor, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The newest `limit` events, newest first.
    fn recent(&self, filter: EventFilter, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The legacy selection: events later than `since` if that is positive, by time; of those every
    /// `slice_total`-th from `slice_index` on; of those the newest `limit`, still oldest first.
    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// All critical events and a weighted random choice of the others, `sample.size` in all, oldest first; if
    /// the critical ones alone are as many, the oldest of them.
    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The last `limit` events from `since` on (inclusive), in the order in which they came.
    fn since(&self, since: UnixNanos, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Verified checkpoints in the order in which they came, and how many there are in all.
    fn checkpoints(&self, limit: ReadLimit, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)>;

    /// The unverified events that claim this emitter: to be inserted again as verified when its key is learned.
    fn unverified_by(&self, emitter: String) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// How many events are stored.
    fn count(&self) -> LedgerFuture<'_, usize>;
}

/// The order in which events arrived, for [`Follower`]s.
pub trait ArrivalLog: Debug + Send + Sync + 'static {
    /// Tells of events as they are stored; see [`Follower`].
    fn feed(&self) -> &EventFeed;

    /// The place of the newest event in the order of arrival, whether it is still stored or not; 0 if there was
    /// none.
    fn position(&self) -> LedgerFuture<'_, i64>;

    /// The first `limit` events that came behind the place `after`, in the order in which they came. A look
    /// that finds little may end early: see [`Arrivals::end`].
    fn arrived_after(&self, filter: EventFilter, after: i64, limit: ReadLimit) -> LedgerFuture<'_, Arrivals>;

    /// The place before the first event that came and has the time `since` or a later one; [`ArrivalLog::position`] if
    /// there is none.
    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64>;
}

/// What a reconciliation with a peer needs to know about the events.
pub trait ReconcileStore: Debug + Send + Sync + 'static {
    /// What stands for the verified events of a scope in a reconciliation. The first call reads all ids; from then on
    /// the ledger keeps the set up to date.
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet>;

    /// Those of these events that are stored, in any order, up to so many bytes.
    fn by_ids(&self, items: Vec<ItemId>, bytes: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Remembers that events of a peer were not stored, be it that they do not verify or that the rules of
    /// retention keep them out, so that they are not fetched from it again. A bounded number is remembered, the
    /// newest. It goes by peer, so that nobody can spoil an event that others have.
    fn reject(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, ()>;

    /// Those of these events of a peer that were rejected.
    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>>;
}

/// How far the events of each peer were read.
pub trait CursorStore: Debug + Send + Sync + 'static {
    /// Remembers how far the events of a peer were fetched; `peer` is any text that names it.
    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()>;

    /// How far the events of a peer were fetched.
    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>>;

    /// Remembers how far the stream of a peer was read; `peer` is any text that names it.
    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()>;

    /// How far the stream of a peer was read.
    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>>;
}

/// What was learned of naras.
pub trait PeerStore: Debug + Send + Sync + 'static {
    /// Remembers what was learned of naras; see [`PeerChange::Learn`].
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()>;

    /// Changes what is remembered of a nara, and returns what it is then. Nothing comes between: several processes
    /// may do so at once.
    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>>;

    /// Forgets naras that are known only because others introduced them ([`PeerRecord::is_ghost`]): these, or all. How
    /// many there were.
    fn forget_ghosts(&self, names: Option<Vec<NaraName>>) -> LedgerFuture<'_, usize>;

    /// What is remembered of all naras, by name.
    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>>;
}

/// The whole memory of a nara.
pub trait Ledger: EventStore + ArrivalLog + ReconcileStore + CursorStore + PeerStore {}

impl<T: EventStore + ArrivalLog + ReconcileStore + CursorStore + PeerStore + ?Sized> Ledger for T {}

/// What [`EventStore::slice`] selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Only events later than this, if positive.
    pub since: UnixNanos,
    /// Which slice; below `slice_total`.
    pub slice_index: usize,
    /// Of how many; at least 1.
    pub slice_total: usize,
    /// How much.
    pub limit: ReadLimit,
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

/// How [`EventStore::sample`] draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How many events.
    pub size: usize,
    /// How many bytes of JSON.
    pub bytes: usize,
    /// The name of the nara that draws: events about it weigh more.
    pub responder: String,
    /// Now, for the age of the events.
    pub now: UnixNanos,
    /// The seed of the random choice.
    pub seed: u64,
}

#[cfg(test)]
mod tests;
