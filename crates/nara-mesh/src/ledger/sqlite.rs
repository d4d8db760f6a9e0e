mod failure;
mod items;
mod peers;
mod pool;
mod read;
mod rows;
mod schema;
mod shelf;
mod sql;

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;
use rusqlite::OptionalExtension as _;

use self::items::SharedInventory;
use self::pool::Pool;
use self::read::Order;
use self::shelf::SqliteShelf;
use super::admission::admit;
use super::retention::Retention;
use super::{
    Arrival, ArrivalLog, Arrivals, CursorStore, EventFeed, EventStore, Insertion, KnownNames, LedgerError,
    LedgerFuture, PeerStore, ReconcileStore, RetentionPolicy, Sample, Slice,
};
use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// A ledger in a SQLite database.
///
/// A write is one transaction; readers do not wait for it. Its operations run on the blocking threads of
/// tokio, so they need its runtime. An operation whose future is dropped is finished in the background.
///
/// A process that is killed loses nothing that was stored; a computer that loses power may lose the last
/// transactions, but no half ones.
#[derive(Debug)]
pub struct SqliteLedger {
    pool: Pool,
    retention: Retention,
    feed: EventFeed,
    inventory: SharedInventory,
}

impl SqliteLedger {
    /// Opens the ledger in this file, or creates it, readable and writable by its owner alone, with
    /// [`RetentionPolicy::default`] and every name known.
    ///
    /// It blocks on the disk, so call it before the program serves.
    ///
    /// # Errors
    /// [`LedgerError`] if the file cannot be opened, is not a ledger, or was made by a newer version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open(path.as_ref())?))
    }

    /// A ledger that lives as long as this value.
    ///
    /// # Errors
    /// [`LedgerError::Database`] if there is not enough memory.
    pub fn open_in_memory() -> Result<Self, LedgerError> {
        Ok(Self::over(Pool::open_in_memory()?))
    }

    fn over(pool: Pool) -> Self {
        Self {
            feed: EventFeed::new(pool.epoch),
            pool,
            retention: Retention::default(),
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
}

impl EventStore for SqliteLedger {
    fn insert_from(
        &self,
        events: Vec<SyncEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>> {
        let retention = self.retention.clone();
        let feed = self.feed.clone();
        let inventory = self.inventory.clone();
        let told_by = origin.clone();
        self.pool
            .write_then(
                move |transaction| {
                    let copies = if feed.has_listeners() {
                        events.clone()
                    } else {
                        Vec::new()
                    };
                    let from = rows::position(transaction)?;
                    let mut shelf =
                        SqliteShelf::new(transaction)?.recording(inventory.recorder(transaction)?);
                    let admitted = admit(&mut shelf, &retention, events, origin.as_ref())?;
                    let (changes, to) = shelf.finish()?;
                    let noted = (inventory, changes);
                    Ok((admitted, copies, from, to, feed, noted))
                },
                move |(admitted, mut copies, from, to, feed, (inventory, changes))| {
                    inventory.apply(changes);
                    if copies.is_empty() {
                        // Whoever began to listen meanwhile may have looked before the commit.
                        feed.publish(to, to, []);
                        return admitted.outcomes;
                    }
                    let arrivals = admitted.stored.iter().map(|(seq, index)| {
                        let mut event = std::mem::take(&mut copies[*index]);
                        if event.id.is_empty() {
                            event.id = event.compute_id();
                        }
                        Arc::new(Arrival::new(*seq, event, told_by.clone()))
                    });
                    feed.publish(from, to, arrivals);
                    admitted.outcomes
                },
            )
            .boxed()
    }

    fn page(&self, filter: EventFilter, after: Cursor, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| {
                let page = read::select(snapshot, &filter, &after, Order::OldestFirst, limit)?;
                read::load(snapshot, page)
            })
            .boxed()
    }

    fn recent(&self, filter: EventFilter, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| {
                let recent = read::select(snapshot, &filter, &Cursor::START, Order::NewestFirst, limit)?;
                read::load(snapshot, recent)
            })
            .boxed()
    }

    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| read::load(snapshot, read::slice(snapshot, &filter, slice)?))
            .boxed()
    }

    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| read::load(snapshot, read::sample(snapshot, &filter, &sample)?))
            .boxed()
    }

    fn since(&self, since: UnixNanos, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| read::load(snapshot, read::since(snapshot, since, limit)?))
            .boxed()
    }

    fn checkpoints(&self, limit: usize, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)> {
        self.pool
            .read(move |snapshot| {
                let page = read::checkpoints(snapshot, limit, offset)?;
                Ok((read::load(snapshot, page)?, read::count_checkpoints(snapshot)?))
            })
            .boxed()
    }

    fn count(&self) -> LedgerFuture<'_, usize> {
        self.pool.read(|snapshot| Ok(read::count(snapshot)?)).boxed()
    }
}

impl ArrivalLog for SqliteLedger {
    fn feed(&self) -> &EventFeed {
        &self.feed
    }

    fn position(&self) -> LedgerFuture<'_, i64> {
        self.pool.read(|snapshot| Ok(rows::position(snapshot)?)).boxed()
    }

    fn arrived_after(&self, filter: EventFilter, after: i64, limit: usize) -> LedgerFuture<'_, Arrivals> {
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

impl ReconcileStore for SqliteLedger {
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet> {
        let inventory = self.inventory.clone();
        // As the writer, because only between its transactions nothing can change.
        let items = self.pool.write_then(
            move |transaction| Ok(inventory.current(transaction)?),
            move |set| set.within(&scope),
        );
        items.boxed()
    }

    fn by_ids(&self, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<SyncEvent>> {
        self.pool
            .read(move |snapshot| read::load(snapshot, items::places(snapshot, &items)?))
            .boxed()
    }

    fn reject(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, ()> {
        self.pool
            .write(move |transaction| Ok(items::reject(transaction, &peer, &items)?))
            .boxed()
    }

    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>> {
        self.pool
            .read(move |snapshot| Ok(items::rejected(snapshot, &peer, items)?))
            .boxed()
    }
}

impl CursorStore for SqliteLedger {
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

    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>> {
        self.pool.read(peers::load).boxed()
    }
}

#[cfg(test)]
mod tests;
