mod shelf;

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::FutureExt as _;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};
use nara_proto::sync::{Cursor, EventFilter, is_critical, sample_weight};
use nara_proto::time::UnixNanos;

use self::shelf::MemoryShelf;
use super::admission::{Shelf as _, admit};
use super::filter::Wanted;
use super::rejections::Rejections;
use super::retention::Retention;
use super::sampler::Sampler;
use super::{
    ArrivalLog, Arrivals, CursorStore, EventFeed, EventStore, Insertion, KnownNames, LedgerError,
    LedgerFuture, PeerStore, ReconcileStore, RetentionPolicy, Sample, Slice,
};
use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// A ledger in memory. Its futures are ready at once.
#[derive(Debug)]
pub struct MemoryLedger {
    retention: Retention,
    shelf: RwLock<MemoryShelf>,
    peers: RwLock<BTreeMap<NaraName, PeerRecord>>,
    cursors: RwLock<HashMap<String, Cursor>>,
    arrival_cursors: RwLock<HashMap<String, ArrivalCursor>>,
    rejections: RwLock<Rejections>,
    feed: EventFeed,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        // What is drawn only has to differ from what other ledgers drew.
        let epoch = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
        Self {
            retention: Retention::default(),
            shelf: RwLock::default(),
            peers: RwLock::default(),
            cursors: RwLock::default(),
            arrival_cursors: RwLock::default(),
            rejections: RwLock::default(),
            feed: EventFeed::new(LedgerEpoch::new(epoch)),
        }
    }
}

impl MemoryLedger {
    /// An empty ledger with [`RetentionPolicy::default`] and every name known.
    pub fn new() -> Self {
        Self::default()
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

    /// The selected events, copied after the lock is released.
    fn select<I>(&self, select: impl FnOnce(&MemoryShelf) -> I) -> Result<Vec<SyncEvent>, LedgerError>
    where
        I: IntoIterator<Item = Arc<SyncEvent>>,
    {
        let events = select(&*read(&self.shelf)?);
        Ok(events.into_iter().map(Arc::unwrap_or_clone).collect())
    }
}

/// A lock is poisoned if an operation panicked half-way: what it guards cannot be trusted any more.
fn read<T>(lock: &RwLock<T>) -> Result<RwLockReadGuard<'_, T>, LedgerError> {
    lock.read().map_err(|_| LedgerError::Closed)
}

fn write<T>(lock: &RwLock<T>) -> Result<RwLockWriteGuard<'_, T>, LedgerError> {
    lock.write().map_err(|_| LedgerError::Closed)
}

impl EventStore for MemoryLedger {
    fn insert_from(
        &self,
        events: Vec<SyncEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>> {
        let outcome = write(&self.shelf).map(|mut shelf| {
            let from = shelf.position();
            let Ok(admitted) = admit(&mut *shelf, &self.retention, events, origin.as_ref());
            // With the lock held, so that the feed has the order of the places.
            if self.feed.has_listeners() {
                let stored = admitted.stored.keys();
                let arrivals = stored.filter_map(|seq| shelf.arrival(*seq)).map(Arc::new);
                self.feed.publish(from, shelf.position(), arrivals);
            }
            admitted.outcomes
        });
        ready(outcome).boxed()
    }

    fn page(&self, filter: EventFilter, after: Cursor, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let page = self.select(|shelf| -> Vec<_> {
            shelf
                .after(&after)
                .filter(|event| wanted.matches(event))
                .take(limit)
                .cloned()
                .collect()
        });
        ready(page).boxed()
    }

    fn recent(&self, filter: EventFilter, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let recent = self.select(|shelf| -> Vec<_> {
            shelf
                .after(&Cursor::START)
                .rev()
                .filter(|event| wanted.matches(event))
                .take(limit)
                .cloned()
                .collect()
        });
        ready(recent).boxed()
    }

    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let selected = self.select(|shelf| {
            let mut selected: Vec<_> = shelf
                .after(&slice.start())
                .filter(|event| wanted.matches(event))
                .skip(slice.slice_index)
                .step_by(slice.slice_total.max(1))
                .cloned()
                .collect();
            selected.split_off(selected.len().saturating_sub(slice.limit))
        });
        ready(selected).boxed()
    }

    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let drawn = self.select(|shelf| -> Vec<_> {
            let mut sampler = Sampler::new(sample.size, sample.seed);
            for (place, event) in shelf.arrivals().filter(|(_, event)| wanted.matches(event)) {
                if is_critical(event) {
                    sampler.offer_critical(place.clone());
                } else {
                    let weight = sample_weight(event, &sample.responder, sample.now);
                    sampler.offer(weight, || place.clone());
                }
            }
            let drawn = sampler.finish();
            drawn.iter().filter_map(|place| shelf.get(place)).collect()
        });
        ready(drawn).boxed()
    }

    fn since(&self, since: UnixNanos, limit: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        ready(self.select(|shelf| shelf.last_arrivals(since, limit))).boxed()
    }

    fn checkpoints(&self, limit: usize, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)> {
        let mut total = 0;
        let checkpoints = self.select(|shelf| -> Vec<_> {
            total = shelf.checkpoints().len();
            shelf.checkpoints().skip(offset).take(limit).collect()
        });
        ready(checkpoints.map(|checkpoints| (checkpoints, total))).boxed()
    }

    fn count(&self) -> LedgerFuture<'_, usize> {
        ready(read(&self.shelf).map(|shelf| shelf.count())).boxed()
    }
}

impl ArrivalLog for MemoryLedger {
    fn feed(&self) -> &EventFeed {
        &self.feed
    }

    fn position(&self) -> LedgerFuture<'_, i64> {
        ready(read(&self.shelf).map(|shelf| shelf.position())).boxed()
    }

    fn arrived_after(&self, filter: EventFilter, after: i64, limit: usize) -> LedgerFuture<'_, Arrivals> {
        let wanted = Wanted::new(&filter);
        let found = read(&self.shelf).map(|shelf| {
            let places = shelf.arrivals_after(after);
            let wanted = places.filter(|(_, event)| wanted.matches(event));
            let found: Vec<_> = wanted.take(limit).map(|(seq, _)| seq).collect();
            let full = found.len() == limit;
            let end = found
                .last()
                .copied()
                .filter(|_| full)
                .unwrap_or_else(|| shelf.position());
            Arrivals {
                events: found.into_iter().filter_map(|seq| shelf.arrival(seq)).collect(),
                end,
                is_newest: end >= shelf.position(),
            }
        });
        ready(found).boxed()
    }

    fn position_before(&self, since: UnixNanos) -> LedgerFuture<'_, i64> {
        ready(read(&self.shelf).map(|shelf| shelf.position_before(since))).boxed()
    }
}

impl ReconcileStore for MemoryLedger {
    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet> {
        let items = write(&self.shelf).map(|mut shelf| shelf.items());
        ready(items.map(|items| items.within(&scope))).boxed()
    }

    fn by_ids(&self, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<SyncEvent>> {
        ready(self.select(|shelf| shelf.by_ids(&items))).boxed()
    }

    fn reject(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, ()> {
        ready(write(&self.rejections).map(|mut rejections| rejections.add(&peer, items))).boxed()
    }

    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>> {
        ready(read(&self.rejections).map(|rejections| rejections.select(&peer, items))).boxed()
    }
}

impl CursorStore for MemoryLedger {
    fn store_cursor(&self, peer: String, cursor: Cursor) -> LedgerFuture<'_, ()> {
        let stored = write(&self.cursors).map(|mut cursors| {
            cursors.insert(peer, cursor);
        });
        ready(stored).boxed()
    }

    fn cursor(&self, peer: String) -> LedgerFuture<'_, Option<Cursor>> {
        ready(read(&self.cursors).map(|cursors| cursors.get(&peer).cloned())).boxed()
    }

    fn store_arrival_cursor(&self, peer: String, cursor: ArrivalCursor) -> LedgerFuture<'_, ()> {
        let stored = write(&self.arrival_cursors).map(|mut cursors| {
            cursors.insert(peer, cursor);
        });
        ready(stored).boxed()
    }

    fn arrival_cursor(&self, peer: String) -> LedgerFuture<'_, Option<ArrivalCursor>> {
        ready(read(&self.arrival_cursors).map(|cursors| cursors.get(&peer).copied())).boxed()
    }
}

impl PeerStore for MemoryLedger {
    fn learn_peers(&self, learned: Vec<PeerRecord>) -> LedgerFuture<'_, ()> {
        let stored = write(&self.peers).map(|mut peers| {
            for record in learned {
                let name = record.name.clone();
                let known = peers.entry(name.clone()).or_insert_with(|| PeerRecord::new(name));
                known.learn(record);
            }
        });
        ready(stored).boxed()
    }

    fn change_peer(
        &self,
        name: NaraName,
        change: PeerChange,
    ) -> LedgerFuture<'_, Result<PeerRecord, PeerChangeError>> {
        let changed = write(&self.peers).map(|mut peers| {
            let known = peers.get(&name).cloned();
            let mut record = known.unwrap_or_else(|| PeerRecord::new(name));
            record.apply(change)?;
            peers.insert(record.name.clone(), record.clone());
            Ok(record)
        });
        ready(changed).boxed()
    }

    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>> {
        ready(read(&self.peers).map(|peers| peers.values().cloned().collect())).boxed()
    }
}
