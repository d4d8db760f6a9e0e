//! The memory of a nara: the [`Ledger`], composed of small traits, in memory or in a SQLite database.

mod admission;
mod checked;
mod error;
mod feed;
mod filter;
mod follow;
mod held;
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

pub use error::LedgerError;
pub use nara_proto::event::CheckedEvent;

pub use feed::{Arrival, Arrivals, EventFeed};
pub use follow::{Followed, Follower};
pub use limit::ReadLimit;
pub use memory::MemoryLedger;
pub(crate) use rejections::ANY_VOTER;
pub use retention::{KnownNames, RetentionPolicy, Standing};
pub(crate) use select::select;
#[cfg(feature = "sqlite")]
pub use sqlite::{LedgerCheck, LedgerCopy, SqliteLedger};

/// For the project's other databases, which live next to a ledger.
#[cfg(feature = "sqlite")]
#[doc(hidden)]
pub use crate::folder_owner::as_owner_of_folder;

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;

use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// The result of a ledger operation.
pub type LedgerFuture<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// Called repeatedly while a ledger is opened, with the number of events converted so far and the total; returns
/// whether to continue.
#[cfg(any(feature = "server", feature = "sqlite"))]
pub(crate) type Opening = Box<dyn FnMut(u64, u64) -> std::ops::ControlFlow<()> + Send>;

/// The outcome of storing one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Insertion {
    /// An event with this id is already stored.
    Duplicate,
    /// The mesh agreed to forget this event (docs/protocol/v1.md, section 8.6, no. 6).
    Forgotten,
    /// The retention policy rejects the event: it does not fit, is too large, or its time is in the future.
    NotRetained,
    /// The event is new and stored.
    Stored,
}

/// Keeps events and finds them by time and by id.
///
/// A store does not verify events: the caller does (see [`nara_proto::event::verify_events`]) and passes the
/// verdict. The store drops duplicates by id, except that a verified event replaces an unverified one, and bounds
/// its size by its retention policy.
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Stores events that this nara signed itself, or whose signatures were verified elsewhere; see
    /// [`EventStore::insert`].
    fn insert_verified(&self, events: Vec<SyncEvent>) -> LedgerFuture<'_, Vec<Insertion>> {
        self.insert(events.into_iter().map(CheckedEvent::verified).collect(), None)
    }

    /// Stores events in one transaction, or thousands of them in a few, and returns one outcome per event, in order.
    ///
    /// `origin` is the peer that sent them, if any: streams to that peer skip them.
    fn insert(&self, events: Vec<CheckedEvent>, origin: Option<NaraName>)
    -> LedgerFuture<'_, Vec<Insertion>>;

    /// Returns the first `limit` events after `after`, by time and id, and the trust in each.
    fn page(
        &self,
        filter: EventFilter,
        after: Cursor,
        limit: ReadLimit,
    ) -> LedgerFuture<'_, Vec<CheckedEvent>>;

    /// Returns the newest `limit` events, newest first, and the trust in each.
    fn recent(&self, filter: EventFilter, limit: ReadLimit) -> LedgerFuture<'_, Vec<CheckedEvent>>;

    /// Returns the legacy selection (docs/protocol/v1.md, section 7.3): events later than `since` if that is
    /// positive, by time; every `slice_total`-th of them from `slice_index` on; the newest `limit` of the result,
    /// oldest first.
    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Returns all critical events and a weighted random choice of the others, `sample.size` in total, oldest
    /// first. If there are that many critical events, returns the oldest of them.
    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Returns the last events with a time of `since` or later, in the order of arrival.
    fn since(&self, since: UnixNanos, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Returns verified checkpoints in the order of arrival, and their total number.
    fn checkpoints(&self, limit: ReadLimit, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)>;

    /// Returns the unverified events in which this nara acts, with the peers that sent them. When its key is
    /// learned, they are inserted again as verified, from the same peers.
    fn unverified_by(&self, actor: String) -> LedgerFuture<'_, Vec<Arrival>>;

    /// Removes the events with these ids that are still unverified, because a newly learned key disproves them.
    /// Returns the number removed.
    fn remove_unverified(&self, ids: Vec<String>) -> LedgerFuture<'_, usize>;

    /// Returns the items of the verified events in a scope, for a reconciliation. The first call reads all ids;
    /// the ledger keeps the set up to date from then on.
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet>;

    /// Returns the stored events among `items`, in any order, up to `bytes` bytes of JSON.
    fn by_ids(&self, items: Vec<ItemId>, bytes: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Returns the number of stored events.
    fn count(&self) -> LedgerFuture<'_, usize>;

    /// Returns the number and size of the stored events per service, largest first. Reads all events.
    fn services(&self) -> LedgerFuture<'_, Vec<(String, EventSize)>>;
}

/// The order in which events arrived, for [`Follower`]s.
pub trait ArrivalLog: Debug + Send + Sync + 'static {
    /// Returns the feed that announces events as they are stored; see [`Follower`].
    fn feed(&self) -> &EventFeed;

    /// Returns the position of the newest event in the order of arrival, whether it is still stored or not; 0 for
    /// an empty ledger.
    fn position(&self) -> LedgerFuture<'_, i64>;

    /// Returns the first events after the position `after`, in the order of arrival. A search with few matches
    /// may end early: see [`Arrivals::end`].
    fn arrived_after(&self, filter: EventFilter, after: i64, limit: ReadLimit) -> LedgerFuture<'_, Arrivals>;

    /// Returns the position just before the first arrival with a time of `since` or later;
    /// [`ArrivalLog::position`] if no such event exists.
    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64>;
}

/// Persists the progress of transfers from each peer: cursors, and the events that were not stored.
pub trait TransferStore: Debug + Send + Sync + 'static {
    /// Stores how far the events of a peer were fetched; `peer` is any text that identifies the peer.
    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()>;

    /// Returns how far the events of a peer were fetched.
    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>>;

    /// Stores how far the stream of a peer was read; `peer` is any text that identifies the peer.
    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()>;

    /// Returns how far the stream of a peer was read.
    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>>;

    /// Records events of a peer that were not stored, because they do not verify or the retention policy rejects
    /// them, so that they are not fetched from that peer again. Only the newest rejections are kept, up to a
    /// limit. Rejections are per peer, so that no peer can block an event that others have.
    ///
    /// Each event comes with the name of the nara whose key could change the verdict, if any. An empty name
    /// stands for the voters of a checkpoint, which are listed by id.
    fn reject(&self, peer: String, rejected: Vec<(ItemId, Option<String>)>) -> LedgerFuture<'_, ()>;

    /// Forgets the rejections that awaited the keys of these naras, so that the events are fetched again.
    fn forgive(&self, learned: Vec<String>) -> LedgerFuture<'_, ()>;

    /// Returns the items that were rejected from this peer.
    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>>;
}

/// Persists what a nara has learned about its peers.
pub trait PeerStore: Debug + Send + Sync + 'static {
    /// Stores learned peer records; see [`PeerChange::Learn`].
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()>;

    /// Changes the record of a peer atomically and returns the new record. Safe to call from several processes at
    /// once.
    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>>;

    /// Removes the records of naras that were only introduced by others ([`PeerRecord::is_ghost`]): the named
    /// ones, or all. Returns the number removed.
    fn forget_ghosts(&self, names: Option<Vec<NaraName>>) -> LedgerFuture<'_, usize>;

    /// Returns the records of all peers, by name.
    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>>;
}

/// The whole memory of a nara.
pub trait Ledger: EventStore + ArrivalLog + TransferStore + PeerStore {}

impl<T: EventStore + ArrivalLog + TransferStore + PeerStore + ?Sized> Ledger for T {}

/// A number of events and their size as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSize {
    /// Number of events.
    pub events: usize,
    /// Size in bytes.
    pub bytes: usize,
}

/// Maximum number of groups in a report; the largest are kept.
const MAX_GROUPS: usize = 1_000;

/// Sorts by size, largest first; ties by name.
fn sort_groups(groups: &mut [(String, EventSize)]) {
    groups.sort_unstable_by(|(name, size), (other, than)| (than.bytes, name).cmp(&(size.bytes, other)));
}

/// The selection of [`EventStore::slice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Only events later than this, if positive.
    pub since: UnixNanos,
    /// Index of the slice; below `slice_total`.
    pub slice_index: usize,
    /// Number of slices; at least 1.
    pub slice_total: usize,
    /// Maximum size of the result.
    pub limit: ReadLimit,
}

impl Slice {
    /// Returns the cursor at which the selection begins.
    fn start(&self) -> Cursor {
        if self.since > UnixNanos::new(0) {
            Cursor::after_time(self.since)
        } else {
            Cursor::START
        }
    }
}

/// The parameters of [`EventStore::sample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Number of events.
    pub size: usize,
    /// Maximum size in bytes of JSON.
    pub bytes: usize,
    /// Name of the nara that draws the sample: events about it weigh more.
    pub responder: String,
    /// The current time, for the age of events.
    pub now: UnixNanos,
    /// Seed of the random choice.
    pub seed: u64,
}

#[cfg(test)]
mod tests;
