mod shelf;

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures_util::FutureExt as _;
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet, Scope};
use nara_proto::stream::{ArrivalCursor, LedgerEpoch};
use nara_proto::sync::{Cursor, EventFilter, is_critical, sample_weight};
use nara_proto::time::UnixNanos;

use self::shelf::{Entry, MemoryShelf};
use super::admission::admit;
use super::checked::without_trust;
use super::filter::Wanted;
use super::limit::ByteBudget;
use super::rejections::Rejections;
use super::retention::Retention;
use super::sampler::Sampler;
use super::{
    Arrival, ArrivalLog, Arrivals, CheckedEvent, EventFeed, EventSize, EventStore, Insertion, KnownNames,
    LedgerError, LedgerFuture, MAX_GROUPS, PeerStore, ReadLimit, RetentionPolicy, Sample, Slice,
    TransferStore, sort_groups,
};
use crate::clock::{Clock, SystemClock};
use crate::peer::{PeerChange, PeerChangeError, PeerRecord};

/// A ledger in memory. Its futures complete immediately.
#[derive(Debug)]
pub struct MemoryLedger {
    retention: Retention,
    clock: Arc<dyn Clock>,
    shelf: RwLock<MemoryShelf>,
    peers: RwLock<BTreeMap<NaraName, PeerRecord>>,
    cursors: RwLock<HashMap<String, Cursor>>,
    arrival_cursors: RwLock<HashMap<String, ArrivalCursor>>,
    rejections: RwLock<Rejections>,
    feed: EventFeed,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        // The epoch only has to differ from the epochs of other ledgers.
        let epoch = getrandom::u64().unwrap_or_else(|_| std::process::id().into());
        Self {
            retention: Retention::default(),
            clock: Arc::new(SystemClock),
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
    /// Creates an empty ledger with [`RetentionPolicy::default`] and every name known.
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

    /// Sets the clock that decides which events are in the future and how old unverified ones are.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Returns the selected events up to a limit; copies them after releasing the lock.
    fn select(
        &self,
        limit: ReadLimit,
        select: impl FnOnce(&MemoryShelf, &mut dyn FnMut(&Entry) -> bool),
    ) -> Result<Vec<CheckedEvent>, LedgerError> {
        let mut budget = ByteBudget::new(limit.bytes);
        let mut events: Vec<(Arc<SyncEvent>, EventTrust)> = Vec::new();
        select(&*read(&self.shelf)?, &mut |entry| {
            let fits = events.len() < limit.events && budget.take(entry.bytes);
            if fits {
                events.push((entry.event.clone(), entry.trust()));
            }
            fits
        });
        let copied = events
            .into_iter()
            .map(|(event, trust)| CheckedEvent::new(Arc::unwrap_or_clone(event), trust));
        Ok(copied.collect())
    }
}

/// Fails if the lock is poisoned: an operation panicked, and its data may be inconsistent.
fn read<T>(lock: &RwLock<T>) -> Result<RwLockReadGuard<'_, T>, LedgerError> {
    lock.read().map_err(|_| LedgerError::Closed)
}

fn write<T>(lock: &RwLock<T>) -> Result<RwLockWriteGuard<'_, T>, LedgerError> {
    lock.write().map_err(|_| LedgerError::Closed)
}

impl EventStore for MemoryLedger {
    fn insert(
        &self,
        events: Vec<CheckedEvent>,
        origin: Option<NaraName>,
    ) -> LedgerFuture<'_, Vec<Insertion>> {
        let now = self.clock.now_nanos();
        let outcome = write(&self.shelf).map(|mut shelf| {
            let from = shelf.position();
            let Ok(admitted) = admit(&mut *shelf, &self.retention, events, origin.as_ref(), now);
            // Publish under the lock, so that the feed keeps the order of positions.
            if self.feed.has_listeners() {
                let stored = admitted.stored.keys();
                let arrivals = stored.filter_map(|seq| shelf.arrival(*seq)).map(Arc::new);
                self.feed.publish(from, shelf.position(), arrivals);
            }
            admitted.outcomes
        });
        ready(outcome).boxed()
    }

    fn page(
        &self,
        filter: EventFilter,
        after: Cursor,
        limit: ReadLimit,
    ) -> LedgerFuture<'_, Vec<CheckedEvent>> {
        let wanted = Wanted::new(&filter);
        let page = self.select(limit, |shelf, take| {
            let mut wanted = shelf.after(&after).filter(|entry| wanted.matches(&entry.event));
            while wanted.next().is_some_and(&mut *take) {}
        });
        ready(page).boxed()
    }

    fn recent(&self, filter: EventFilter, limit: ReadLimit) -> LedgerFuture<'_, Vec<CheckedEvent>> {
        let wanted = Wanted::new(&filter);
        let start = Cursor::START;
        let recent = self.select(limit, |shelf, take| {
            let newest_first = shelf.after(&start).rev();
            let mut wanted = newest_first.filter(|entry| wanted.matches(&entry.event));
            while wanted.next().is_some_and(&mut *take) {}
        });
        ready(recent).boxed()
    }

    fn slice(&self, filter: EventFilter, slice: Slice) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let newest_first = self.select(slice.limit, |shelf, take| {
            let selected: Vec<_> = shelf
                .after(&slice.start())
                .filter(|entry| wanted.matches(&entry.event))
                .skip(slice.slice_index)
                .step_by(slice.slice_total.max(1))
                .collect();
            let mut selected = selected.into_iter().rev();
            while selected.next().is_some_and(&mut *take) {}
        });
        ready(newest_first.map(|events| reversed(without_trust(events)))).boxed()
    }

    fn sample(&self, filter: EventFilter, sample: Sample) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let wanted = Wanted::new(&filter);
        let limit = ReadLimit::events(sample.size).bytes(sample.bytes);
        let drawn = self.select(limit, |shelf, take| {
            let mut sampler = Sampler::new(sample.size, sample.seed);
            for (place, entry) in shelf.arrivals().filter(|(_, entry)| wanted.matches(&entry.event)) {
                if entry.rank.is_verified() && is_critical(&entry.event) {
                    sampler.offer_critical(place.clone());
                } else {
                    let weight = sample_weight(&entry.event, &sample.responder, sample.now);
                    sampler.offer(weight, || place.clone());
                }
            }
            let drawn = sampler.finish();
            let mut drawn = drawn.iter().filter_map(|place| shelf.get(place));
            while drawn.next().is_some_and(&mut *take) {}
        });
        ready(drawn.map(without_trust)).boxed()
    }

    fn since(&self, since: UnixNanos, limit: ReadLimit) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let newest_first = self.select(limit, |shelf, take| {
            let mut last = shelf.last_arrivals(since);
            while last.next().is_some_and(&mut *take) {}
        });
        ready(newest_first.map(|events| reversed(without_trust(events)))).boxed()
    }

    fn checkpoints(&self, limit: ReadLimit, offset: usize) -> LedgerFuture<'_, (Vec<SyncEvent>, usize)> {
        let mut total = 0;
        let checkpoints = self.select(limit, |shelf, take| {
            total = shelf.checkpoints().len();
            let mut page = shelf.checkpoints().skip(offset);
            while page.next().is_some_and(&mut *take) {}
        });
        ready(checkpoints.map(|checkpoints| (without_trust(checkpoints), total))).boxed()
    }

    fn unverified_by(&self, actor: String) -> LedgerFuture<'_, Vec<Arrival>> {
        ready(read(&self.shelf).map(|shelf| shelf.unverified_by(&actor).collect())).boxed()
    }

    fn remove_unverified(&self, ids: Vec<String>) -> LedgerFuture<'_, usize> {
        let removed =
            write(&self.shelf).map(|mut shelf| ids.iter().filter(|id| shelf.remove_unverified(id)).count());
        ready(removed).boxed()
    }

    fn count(&self) -> LedgerFuture<'_, usize> {
        ready(read(&self.shelf).map(|shelf| shelf.len())).boxed()
    }

    fn services(&self) -> LedgerFuture<'_, Vec<(String, EventSize)>> {
        let services = read(&self.shelf).map(|shelf| {
            let mut services: HashMap<&str, EventSize> = HashMap::new();
            for (_, entry) in shelf.arrivals() {
                let size = services.entry(&entry.event.svc).or_default();
                size.events += 1;
                size.bytes += entry.bytes;
            }
            let mut services: Vec<_> = services
                .into_iter()
                .map(|(name, size)| (name.to_owned(), size))
                .collect();
            sort_groups(&mut services);
            services.truncate(MAX_GROUPS);
            services
        });
        ready(services).boxed()
    }

    fn items(&self, scope: Scope) -> LedgerFuture<'_, ItemSet> {
        let items = write(&self.shelf).map(|mut shelf| shelf.items());
        ready(items.map(|items| items.within(&scope))).boxed()
    }

    fn by_ids(&self, items: Vec<ItemId>, bytes: usize) -> LedgerFuture<'_, Vec<SyncEvent>> {
        let limit = ReadLimit::events(items.len()).bytes(bytes);
        let found = self.select(limit, |shelf, take| {
            let mut found = shelf.by_ids(&items);
            while found.next().is_some_and(&mut *take) {}
        });
        ready(found.map(without_trust)).boxed()
    }
}

impl ArrivalLog for MemoryLedger {
    fn feed(&self) -> &EventFeed {
        &self.feed
    }

    fn position(&self) -> LedgerFuture<'_, i64> {
        ready(read(&self.shelf).map(|shelf| shelf.position())).boxed()
    }

    fn arrived_after(&self, filter: EventFilter, after: i64, limit: ReadLimit) -> LedgerFuture<'_, Arrivals> {
        let wanted = Wanted::new(&filter);
        let found = read(&self.shelf).map(|shelf| {
            let mut budget = ByteBudget::new(limit.bytes);
            let mut full = false;
            let mut found = Vec::new();
            for (seq, entry) in shelf.arrivals_after(after) {
                if !wanted.matches(&entry.event) {
                    continue;
                }
                if found.len() == limit.events || !budget.take(entry.bytes) {
                    full = true;
                    break;
                }
                found.push(seq);
            }
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

impl TransferStore for MemoryLedger {
    fn reject(&self, peer: String, rejected: Vec<(ItemId, Option<String>)>) -> LedgerFuture<'_, ()> {
        ready(write(&self.rejections).map(|mut known| known.add(&peer, rejected))).boxed()
    }

    fn forgive(&self, learned: Vec<String>) -> LedgerFuture<'_, ()> {
        ready(write(&self.rejections).map(|mut known| known.forgive(&learned))).boxed()
    }

    fn rejected(&self, peer: String, items: Vec<ItemId>) -> LedgerFuture<'_, Vec<ItemId>> {
        ready(read(&self.rejections).map(|rejections| rejections.select(&peer, items))).boxed()
    }

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

    fn forget_ghosts(&self, names: Option<Vec<NaraName>>) -> LedgerFuture<'_, usize> {
        let forgotten = write(&self.peers).map(|mut peers| {
            let before = peers.len();
            let named = |name: &NaraName| names.as_ref().is_none_or(|names| names.contains(name));
            peers.retain(|name, record| !record.is_ghost() || !named(name));
            before - peers.len()
        });
        ready(forgotten).boxed()
    }

    fn peers(&self) -> LedgerFuture<'_, Vec<PeerRecord>> {
        ready(read(&self.peers).map(|peers| peers.values().cloned().collect())).boxed()
    }
}

fn reversed(mut events: Vec<SyncEvent>) -> Vec<SyncEvent> {
    events.reverse();
    events
}
