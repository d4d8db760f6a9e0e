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

/// For the other databases of this project beside a ledger.
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

/// The outcome of an operation of a ledger.
pub type LedgerFuture<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// Hears again and again how many events were converted, and how many are to be, while a ledger is opened, and says whether
/// to go on.
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
    /// The retention policy rejects it: there is no room, it is too large, or its time is in the future.
    NotRetained,
    /// The event is new and stored.
    Stored,
}

/// Keeps events and finds them by time and by id.
///
/// A store does not verify events: the caller does (see [`nara_proto::event::verify_events`]), and passes the verdict. It
/// drops duplicates by id, except that a verified event replaces an unverified one, and limits its size by its retention
/// policy.
pub trait EventStore: Debug + Send + Sync + 'static {
    /// Stores events that this nara signed itself, or whose signatures were verified elsewhere; see
    /// [`EventStore::insert`].
    fn insert_verified(&self, events: Vec<SyncEvent>) -> LedgerFuture<'_, Vec<Insertion>> {
        self.insert(events.into_iter().map(CheckedEvent::verified).collect(), None)
    }

    /// Stores events in one transaction; returns one outcome for each, in order.
    ///
    /// `origin` is the peer that they were received from, if any: streams to that peer skip them.
    fn insert(&self, events: Vec<CheckedEvent>, origin: Option<NaraName>)
    -> LedgerFuture<'_, Vec<Insertion>>;

    /// The first `limit` events behind `after`, by time and id, and how far to trust each.
    fn page(
        &self,
        filter: EventFilter,
        after: Cursor,
        limit: ReadLimit,
    ) -> LedgerFuture<'_, Vec<CheckedEvent>>;

    /// The newest `limit` events, newest first, and how far to trust each.
    fn recent(&self, filter: EventFilter, limit: ReadLimit) -> LedgerFuture<'_, Vec<CheckedEvent>>;

    /// The legacy selection (docs/protocol/v1.md, section 7.3): events later than `since` if that is positive, by
    /// time; every `slice_total`-th of them from `slice_index` on; the newest `limit` of the result, oldest first.
    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// All critical events and a weighted random choice of the others, `sample.size` in all, oldest first; if the
    /// critical events alone are as many, the oldest of them.
    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The last events from `since` on (inclusive), in the order of arrival.
    fn since(&self, since: UnixNanos, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// Verified checkpoints in the order of arrival, and their total number.
    fn checkpoints(&self, limit: ReadLimit, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)>;

    /// The unverified events in which this nara acts, with the peers that told them: to be inserted again as verified,
    /// from the same peers, when its key is learned.
    fn unverified_by(&self, actor: String) -> LedgerFuture<'_, Vec<Arrival>>;

    /// Removes events with these ids as far as they are still unverified: those that a key disproves when it is
    /// learned. Returns their number.
    fn remove_unverified(&self, ids: Vec<String>) -> LedgerFuture<'_, usize>;

    /// The items of the verified events of a scope for a reconciliation. The first call reads all ids; from then on the
    /// ledger keeps the set up to date.
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet>;

    /// The stored ones among these events, in any order, up to `bytes` bytes of JSON.
    fn by_ids(&self, items: Vec<ItemId>, bytes: usize) -> LedgerFuture<'_, Vec<SyncEvent>>;

    /// The number of stored events.
    fn count(&self) -> LedgerFuture<'_, usize>;

    /// How much is stored of each service, the largest first. It reads all events.
    fn services(&self) -> LedgerFuture<'_, Vec<(String, EventSize)>>;
}

/// The order in which events arrived, for [`Follower`]s.
pub trait ArrivalLog: Debug + Send + Sync + 'static {
    /// Announces events as they are stored; see [`Follower`].
    fn feed(&self) -> &EventFeed;

    /// The place of the newest event in the order of arrival, whether it is still stored or not; 0 for an empty
    /// ledger.
    fn position(&self) -> LedgerFuture<'_, i64>;

    /// The first events behind the place `after`, in the order of arrival. A search that finds little may end early:
    /// see [`Arrivals::end`].
    fn arrived_after(&self, filter: EventFilter, after: i64, limit: ReadLimit) -> LedgerFuture<'_, Arrivals>;

    /// The place before the first event in the order of arrival that has the time `since` or a later one;
    /// [`ArrivalLog::position`] without one.
    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64>;
}

/// What a nara remembers of the transfers from each peer: how far they got, and which events were not stored.
pub trait TransferStore: Debug + Send + Sync + 'static {
    /// Stores how far the events of a peer were fetched; `peer` is any text that names the peer.
    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()>;

    /// How far the events of a peer were fetched.
    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>>;

    /// Stores how far the stream of a peer was read; `peer` is any text that names the peer.
    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()>;

    /// How far the stream of a peer was read.
    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>>;

    /// Records events of a peer that were not stored, because they do not verify or because the retention policy
    /// rejects them, so that they are not fetched from that peer again. The newest ones are kept, up to a limit.
    /// Rejections are per peer, so that no peer can spoil an event that others have.
    ///
    /// Beside each event stands the name of the nara whose key may change that, if one may. An empty name stands for
    /// the voters of a checkpoint, which names them by ids.
    fn reject(&self, peer: String, rejected: Vec<(ItemId, Option<String>)>) -> LedgerFuture<'_, ()>;

    /// Forgets the rejections that waited for the keys of these naras, so that the events are fetched again.
    fn forgive(&self, learned: Vec<String>) -> LedgerFuture<'_, ()>;

    /// The ones among these events that were rejected from this peer.
    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>>;
}

/// What a nara has learned about its peers.
pub trait PeerStore: Debug + Send + Sync + 'static {
    /// Stores learned peer records; see [`PeerChange::Learn`].
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()>;

    /// Changes the record of a peer atomically, and returns the new record. Several processes may do so at once.
    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>>;

    /// Removes the records of naras that were only introduced by others ([`PeerRecord::is_ghost`]): the named ones, or
    /// all. Returns their number.
    fn forget_ghosts(&self, names: Option<Vec<NaraName>>) -> LedgerFuture<'_, usize>;

    /// The records of all peers, by name.
    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>>;
}

/// The whole memory of a nara.
pub trait Ledger: EventStore + ArrivalLog + TransferStore + PeerStore {}

impl<T: EventStore + ArrivalLog + TransferStore + PeerStore + ?Sized> Ledger for T {}

/// A number of events, and their bytes as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSize {
    /// Events.
    pub events: usize,
    /// Bytes.
    pub bytes: usize,
}

/// Groups of events that are reported at most, the largest.
const MAX_GROUPS: usize = 1_000;

/// The largest groups first; of two with as many bytes, the first by name.
fn sort_groups(groups: &mut [(String, EventSize)]) {
    groups.sort_unstable_by(|(name, size), (other, than)| (than.bytes, name).cmp(&(size.bytes, other)));
}

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
