mod backup;
mod check;
mod columns;
mod convert;
mod failure;
mod items;
mod lock;
mod peers;
mod place;
mod pool;
mod read;
mod rows;
mod schema;
mod shelf;
mod sql;
mod wal;

use std::path::Path;
use std::sync::Arc;
use std::vec::IntoIter;

use futures_util::FutureExt as _;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;
use rusqlite::OptionalExtension as _;

pub use self::backup::LedgerCopy;
pub use self::check::LedgerCheck;
use self::items::SharedInventory;
use self::pool::Pool;
use self::read::Order;
use self::shelf::SqliteShelf;
use super::admission::{Shelf as _, admit};
use super::retention::Retention;
use super::{
    Arrival, ArrivalLog, Arrivals, CheckedEvent, EventFeed, EventSize, EventStore, Insertion, KnownNames,
    LedgerError, LedgerFuture, Opening, PeerStore, ReadLimit, RetentionPolicy, Sample, Slice, TransferStore,
};
use crate::clock::{Clock, SystemClock};
use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// A ledger in a SQLite database.
///
/// A write is one transaction, and an insertion of thousands of events several, so that others get their turn;
/// readers do not wait for it. Operations run on tokio's blocking threads, so they need its runtime. A transaction
/// whose future is dropped completes in the background.
///
/// If the process is killed, no stored event is lost. A power failure may lose the last transactions, but never
/// leaves a partial one.
#[derive(Debug)]
pub struct SqliteLedger {
    pool: Pool,
    retention: Retention,
    clock: Arc<dyn Clock>,
    feed: EventFeed,
    inventory: SharedInventory,
}

impl SqliteLedger {
    /// Opens the ledger in this file, or creates it with access for its owner only, with
    /// [`RetentionPolicy::default`] and every name known.
    ///
    /// Blocks on disk I/O, so call it before the program serves.
    ///
    /// # Errors
    /// [`LedgerError`] if the file cannot be opened, is not a ledger, or was made by a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open(path.as_ref(), None, None)?))
    }

    /// Like [`SqliteLedger::open`], for a daemon: takes an exclusive lock under the name `holder`, which is
    /// reported to any other daemon that tries to open the ledger. Commands may still use [`SqliteLedger::open`]
    /// and [`SqliteLedger::open_to_read`].
    ///
    /// Checks for damage. A ledger that was copied or restored from a backup gets a new epoch, so that peers that
    /// follow its stream start over.
    ///
    /// # Errors
    /// [`LedgerError::Locked`] if another process holds the lock, [`LedgerError::Corrupt`] if the ledger is
    /// damaged, and the errors of [`SqliteLedger::open`].
    pub fn open_locked(path: impl AsRef<Path>, holder: &str) -> Result<Self, LedgerError> {
        Self::open_watched(path, holder, None)
    }

    /// Like [`SqliteLedger::open_locked`]; `opening` receives the progress of a long conversion and may cancel
    /// it.
    pub(crate) fn open_watched(
        path: impl AsRef<Path>,
        holder: &str,
        opening: Option<Opening>,
    ) -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open(path.as_ref(), Some(holder), opening)?))
    }

    /// Opens the ledger in this file read-only, even next to a running nara or on a read-only file system. Every
    /// write fails with [`LedgerError::ReadOnly`].
    ///
    /// # Errors
    /// [`LedgerError`] if the file is missing or not a ledger, or if its schema has another version.
    pub fn open_to_read(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open_to_read(path.as_ref())?))
    }

    /// Copies a snapshot of the ledger to a new file, with access for its owner only, while the ledger is in use;
    /// see [`SqliteLedger::restore`]. The copy is compacted.
    ///
    /// # Errors
    /// [`LedgerError`] if the file exists or cannot be written.
    pub fn backup(&self, to: impl AsRef<Path>) -> LedgerFuture<'_, LedgerCopy> {
        let to = to.as_ref().to_owned();
        self.pool
            .apart(move |source| backup::back_up(source, &to))
            .boxed()
    }

    /// Reports the content of the ledger and checks its file for damage. Reads the whole file.
    ///
    /// # Errors
    /// [`LedgerError`] if the file cannot be read at all. Damage is reported, not an error.
    pub fn check(&self) -> LedgerFuture<'_, LedgerCheck> {
        self.pool.read(check::check).boxed()
    }

    /// Creates a ledger in memory that lives as long as this value.
    ///
    /// # Errors
    /// [`LedgerError::Database`] if memory is short.
    pub fn open_in_memory() -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open_in_memory()?))
    }

    fn over(pool: Pool) -> Self {
        Self {
            feed: EventFeed::new(pool.epoch),
            pool,
            retention: Retention::default(),
            clock: Arc::new(SystemClock),
            inventory: SharedInventory::default(),
        }
    }

    /// Sets the retention policy.
    #[must_use]
    pub fn with_retention(mut self, policy: RetentionPolicy) -> Self {
        self.retention.policy = policy;
        self
    }

    /// Sets which names are known.
    #[must_use]
    pub fn with_known_names(mut self, known: Arc<dyn KnownNames>) -> Self {
        self.retention.known = known;
        self
    }

    /// Sets the clock that decides which events are in the future and how old unverified ones are.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

/// Number of events in a transaction after which other operations get their turn.
const TURN: usize = 5_000;

impl SqliteLedger {
    /// Stores the events in one transaction, or some of them if other operations wait. Returns the outcomes, and the
    /// rest of the events.
    fn insert_some(
        &self,
        mut events: IntoIter<CheckedEvent>,
        origin: Option<NaraName>,
    ) -> impl Future<Output = Result<(Vec<Insertion>, IntoIter<CheckedEvent>), LedgerError>> + Send {
        let retention = self.retention.clone();
        let feed = self.feed.clone();
        let inventory = self.inventory.clone();
        let told_by = origin.clone();
        let now = self.clock.now_nanos();
        let others_wait = self.pool.waiting();
        self.pool.write_then(
            move |transaction| {
                pool::pace(transaction, events.len())?;
                let is_heard = feed.has_listeners();
                let mut copies = Vec::new();
                let mut taken = 0;
                let some = std::iter::from_fn(|| {
                    if taken >= TURN && others_wait() {
                        return None;
                    }
                    taken += 1;
                    let event = events.next()?;
                    if is_heard {
                        copies.push(event.clone());
                    }
                    Some(event)
                });
                let from = rows::position(transaction)?;
                let mut shelf = SqliteShelf::new(transaction)?.recording(inventory.recorder(transaction)?);
                let admitted = admit(&mut shelf, &retention, some, origin.as_ref(), now)?;
                let (changes, to) = shelf.finish()?;
                let noted = (inventory, changes);
                Ok((admitted, copies, events, from, to, feed, noted))
            },
            move |(admitted, mut copies, rest, from, to, feed, (inventory, changes))| {
                inventory.apply(changes);
                if copies.is_empty() {
                    // A listener that just subscribed may have read before this commit.
                    feed.publish(to, to, []);
                    return (admitted.outcomes, rest);
                }
                let arrivals = admitted.stored.iter().map(|(seq, index)| {
                    let copy = &mut copies[*index];
                    let trust = copy.trust;
                    let mut event = std::mem::take(&mut copy.event);
                    if event.id.is_empty() {
                        event.id = event.compute_id();
                    }
                    Arc::new(Arrival::new(*seq, event, told_by.clone(), trust))
                });
                feed.publish(from, to, arrivals);
                (admitted.outcomes, rest)
            },
        )
    }
}

impl EventStore for SqliteLedger {
    fn insert(
        &self,
        events: Vec<CheckedEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>> {
        let inserting = async move {
            let mut outcomes = Vec::with_capacity(events.len());
            let mut rest = events.into_iter();
            loop {
                let (stored, left) = self.insert_some(rest, origin.clone()).await?;
                outcomes.extend(stored);
                if left.len() == 0 {
                    return Ok(outcomes);
                }
                rest = left;
            }
        };
        inserting.boxed()
    }

    fn page(
        &self,
        filter: EventFilter,
        after: Cursor,
        limit: ReadLimit,
    ) -> LedgerFuture<'_, Vec<CheckedEvent>> {
        self.pool
            .read(move |snapshot| read::page(snapshot, &filter, &after, Order::OldestFirst, limit))
            .boxed()
    }

    fn recent(&self, filter: EventFilter, limit: ReadLimit) -> LedgerFuture<'_, Vec<CheckedEvent>> {
        self.pool
            .read(move |snapshot| read::page(snapshot, &filter, &Cursor::START, Order::NewestFirst, limit))
            .boxed()
    }

    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| {
                let places = read::slice(snapshot, &filter, slice)?;
                Ok(reversed(read::load(snapshot, places, slice.limit.bytes)?))
            })
            .boxed()
    }

    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| {
                let places = read::sample(snapshot, &filter, &sample)?;
                read::load(snapshot, places, sample.bytes)
            })
            .boxed()
    }

    fn since(&self, since: UnixNanos, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| {
                let places = read::since(snapshot, since, limit.events)?;
                Ok(reversed(read::load(snapshot, places, limit.bytes)?))
            })
            .boxed()
    }

    fn checkpoints(&self, limit: ReadLimit, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)> {
        self.pool
            .read(move |snapshot| {
                let page = read::checkpoints(snapshot, limit.events, offset)?;
                Ok((
                    read::load(snapshot, page, limit.bytes)?,
                    read::count_checkpoints(snapshot)?,
                ))
            })
            .boxed()
    }

    fn unverified_by(&self, actor: String) -> LedgerFuture<'_, Vec<Arrival>> {
        self.pool
            .read(move |snapshot| read::unverified_by(snapshot, &actor))
            .boxed()
    }

    fn remove_unverified(&self, ids: Vec<String>) -> LedgerFuture<'_, usize> {
        self.pool
            .write(move |transaction| {
                let mut shelf = SqliteShelf::new(transaction)?;
                let mut removed = 0;
                for id in &ids {
                    let held = shelf.find(id)?.filter(|held| !held.rank.is_verified());
                    if let Some(held) = held {
                        shelf.remove(&held.place)?;
                        removed += 1;
                    }
                }
                shelf.finish()?;
                Ok(removed)
            })
            .boxed()
    }

    fn count(&self) -> LedgerFuture<'_, usize> {
        self.pool.read(|snapshot| Ok(read::count(snapshot)?)).boxed()
    }

    fn services(&self) -> LedgerFuture<'_, Vec<(String, EventSize)>> {
        self.pool.read(|snapshot| Ok(check::services(snapshot)?)).boxed()
    }

    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet> {
        let inventory = self.inventory.clone();
        // Run on the writer: only between its transactions is the set stable.
        let items = self.pool.write_then(
            move |transaction| Ok(inventory.current(transaction)?),
            move |set| set.within(&scope),
        );
        items.boxed()
    }

    fn by_ids(&self, items: Vec<ItemId>, bytes: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| read::by_ids(snapshot, &items, bytes))
            .boxed()
    }
}

impl ArrivalLog for SqliteLedger {
    fn feed(&self) -> &EventFeed {
        &self.feed
    }

    fn position(&self) -> LedgerFuture<'_, i64> {
        self.pool.read(|snapshot| Ok(rows::position(snapshot)?)).boxed()
    }

    fn arrived_after(&self, filter: EventFilter, after: i64, limit: ReadLimit) -> LedgerFuture<'_, Arrivals> {
        self.pool
            .read(move |snapshot| read::arrived_after(snapshot, &filter, after, limit))
            .boxed()
    }

    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64> {
        self.pool
            .read(move |snapshot| Ok(read::position_before(snapshot, since)?))
            .boxed()
    }
}

impl TransferStore for SqliteLedger {
    fn reject(&self, peer: String, rejected: Vec<(ItemId, Option<String>)>) -> LedgerFuture<'_, ()> {
        self.pool
            .write(move |transaction| Ok(items::reject(transaction, &peer, &rejected)?))
            .boxed()
    }

    fn forgive(&self, learned: Vec<String>) -> LedgerFuture<'_, ()> {
        self.pool
            .write(move |transaction| Ok(items::forgive(transaction, &learned)?))
            .boxed()
    }

    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>> {
        self.pool
            .read(move |snapshot| Ok(items::rejected(snapshot, &peer, items)?))
            .boxed()
    }

    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()> {
        self.pool
            .write(move |transaction| {
                transaction.prepare_cached(sql::STORE_CURSOR)?.execute((
                    peer,
                    cursor.ts().get(),
                    cursor.id(),
                ))?;
                Ok(())
            })
            .boxed()
    }

    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>> {
        self.pool
            .read(move |snapshot| {
                let cursor = snapshot
                    .prepare_cached(sql::CURSOR)?
                    .query_row([peer], |row| {
                        Ok(Cursor::new(
                            UnixNanos::new(row.get(0)?),
                            row.get_ref(1)?.as_str()?,
                        ))
                    })
                    .optional()?;
                Ok(cursor)
            })
            .boxed()
    }

    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()> {
        self.pool
            .write(move |transaction| {
                let epoch = cursor.epoch.get().cast_signed();
                transaction
                    .prepare_cached(sql::STORE_ARRIVAL_CURSOR)?
                    .execute((peer, epoch, cursor.seq))?;
                Ok(())
            })
            .boxed()
    }

    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>> {
        self.pool
            .read(move |snapshot| {
                let cursor = snapshot
                    .prepare_cached(sql::ARRIVAL_CURSOR)?
                    .query_row([peer], |row| {
                        let epoch: i64 = row.get(0)?;
                        Ok(ArrivalCursor::new(
                            LedgerEpoch::new(epoch.cast_unsigned()),
                            row.get(1)?,
                        ))
                    })
                    .optional()?;
                Ok(cursor)
            })
            .boxed()
    }
}

impl PeerStore for SqliteLedger {
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()> {
        if learned.is_empty() {
            return std::future::ready(Ok(())).boxed();
        }
        self.pool
            .write(move |transaction| peers::learn(transaction, learned))
            .boxed()
    }

    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>> {
        self.pool
            .write(move |transaction| peers::change(transaction, name, change))
            .boxed()
    }

    fn forget_ghosts(&self, names: Option<Vec<NaraName>>) -> LedgerFuture<'_, usize> {
        self.pool
            .write(move |transaction| peers::forget_ghosts(transaction, names))
            .boxed()
    }

    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>> {
        self.pool.read(peers::load).boxed()
    }
}

fn reversed(mut events: Vec<SyncEvent>) -> Vec<SyncEvent> {
    events.reverse();
    events
}

#[cfg(test)]
mod tests;
