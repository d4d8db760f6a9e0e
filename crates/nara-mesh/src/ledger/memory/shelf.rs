use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use nara_proto::event::{EventTrust, Service, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet};
use nara_proto::sync::Cursor;
use nara_proto::time::UnixNanos;

use crate::ledger::Arrival;
use crate::ledger::admission::{Account, LadderPlace, Maker, NewEvent, Rung, Shelf, voters};
use crate::ledger::checked::stored_trust;
use crate::ledger::held::{Held, HeldPing, Place};
use crate::ledger::inventory::Inventory;
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::retention::Size;

/// The events of a ledger in memory, with every index.
#[derive(Debug, Default)]
pub(super) struct MemoryShelf {
    by_time: BTreeMap<Place, Entry>,
    by_arrival: BTreeMap<i64, Place>,
    /// The position of the newest event, stored or not.
    position: i64,
    /// The position of each event by id.
    ids: HashMap<Arc<str>, Place>,
    inventory: Inventory,
    /// Indexes over verified events: checkpoints, pings and observations.
    checkpoints: BTreeMap<i64, Place>,
    checkpoints_about: HashMap<String, usize>,
    pings_of: HashMap<String, BTreeSet<LadderPlace>>,
    pairs: HashMap<(String, String), Pair>,
    /// Verified events in eviction order.
    ladder: BTreeSet<LadderPlace>,
    /// Unverified events in eviction order, per account.
    unverified_of: HashMap<AccountKey, BTreeSet<(Rank, i64)>>,
    unverified: BTreeSet<(Rank, i64)>,
    /// The total size per rank.
    sizes: BTreeMap<Rank, Size>,
    accounts: HashMap<AccountKey, Size>,
}

/// Kind and name of an [`Account`].
type AccountKey = (u8, String);

fn key(account: Account<'_>) -> AccountKey {
    (account.kind(), account.name().to_owned())
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<SyncEvent>,
    pub(super) bytes: usize,
    priority: Priority,
    pub(super) rank: Rank,
    account: Option<String>,
    origin: Option<NaraName>,
    received: UnixNanos,
}

impl Entry {
    /// Returns the trust in the event.
    pub(super) fn trust(&self) -> EventTrust {
        stored_trust(&self.event, self.rank.is_verified())
    }

    /// Returns the accounts that the event is charged to.
    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        let origin = self.origin.as_ref().map(NaraName::as_str);
        Account::of(self.rank, self.account.as_deref(), origin, &self.event.emitter)
            .into_iter()
            .flatten()
    }
}

/// The observations of one nara about another.
#[derive(Debug, Default)]
struct Pair {
    restarts: BTreeSet<(UnixNanos, i64)>,
    others: BTreeSet<(UnixNanos, i64)>,
}

impl Pair {
    fn of_kind(&mut self, restart: bool) -> &mut BTreeSet<(UnixNanos, i64)> {
        if restart {
            &mut self.restarts
        } else {
            &mut self.others
        }
    }
}

impl MemoryShelf {
    /// Returns the events after a cursor, by time and id.
    pub(super) fn after(&self, after: &Cursor) -> impl DoubleEndedIterator<Item = &Entry> {
        let after = Place {
            ts: after.ts(),
            id: after.id().into(),
            seq: i64::MAX,
        };
        self.by_time
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, entry)| entry)
    }

    /// Returns all events in the order of arrival.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (&Place, &Entry)> {
        self.by_arrival
            .values()
            .filter_map(|place| Some((place, self.by_time.get(place)?)))
    }

    /// Returns the number of stored events.
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// Returns the position of the newest event in the order of arrival, stored or not.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// Returns the events after a position in the order of arrival.
    pub(super) fn arrivals_after(&self, after: i64) -> impl Iterator<Item = (i64, &Entry)> {
        let places = self.by_arrival.range((Bound::Excluded(after), Bound::Unbounded));
        places.filter_map(|(seq, place)| Some((*seq, self.by_time.get(place)?)))
    }

    /// Returns the event at a position in the order of arrival.
    pub(super) fn arrival(&self, seq: i64) -> Option<Arrival> {
        let entry = self.by_time.get(self.by_arrival.get(&seq)?)?;
        Some(Arrival::new(
            seq,
            (*entry.event).clone(),
            entry.origin.clone(),
            entry.trust(),
        ))
    }

    /// Returns the position just before the first arrival that is not older than `since`.
    pub(super) fn position_before(&self, since: UnixNanos) -> i64 {
        let since = Place {
            ts: since,
            id: "".into(),
            seq: i64::MIN,
        };
        let first = self.by_time.range(since..).map(|(place, _)| place.seq).min();
        first.map_or(self.position, |first| first - 1)
    }

    pub(super) fn get(&self, place: &Place) -> Option<&Entry> {
        self.by_time.get(place)
    }

    /// Returns the events from `since` on, last arrival first.
    pub(super) fn last_arrivals(&self, since: UnixNanos) -> impl Iterator<Item = &Entry> {
        let since = Place {
            ts: since,
            id: "".into(),
            seq: i64::MIN,
        };
        let mut recent: Vec<_> = self.by_time.range(since..).collect();
        recent.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(place.seq));
        recent.into_iter().map(|(_, entry)| entry)
    }

    /// Returns the verified checkpoints in the order of arrival.
    pub(super) fn checkpoints(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.checkpoints.values().map(|place| &self.by_time[place])
    }

    /// Returns the unverified events in which a nara acts.
    pub(super) fn unverified_by(&self, actor: &str) -> impl Iterator<Item = Arrival> {
        let arrivals = self.unverified.iter().filter_map(|(_, seq)| self.arrival(*seq));
        arrivals.filter(move |arrival| arrival.event.actor() == actor)
    }

    /// Removes an event if it is unverified. Returns whether it was removed.
    pub(super) fn remove_unverified(&mut self, id: &str) -> bool {
        let held = self.ids.get(id).and_then(|place| self.held(place.seq));
        match held.filter(|held| !held.rank.is_verified()) {
            Some(held) => {
                let Ok(()) = Shelf::remove(self, &held.place);
                true
            }
            None => false,
        }
    }

    /// Returns the items of the verified events for a reconciliation.
    pub(super) fn items(&mut self) -> ItemSet {
        if let Some(set) = self.inventory.current() {
            return set;
        }
        let verified = self.by_time.values().filter(|entry| entry.rank.is_verified());
        let items = verified.filter_map(|entry| {
            let event = &entry.event;
            Some((event.ts, ItemId::of_event(&event.id)?, event.service()))
        });
        let set = ItemSet::new(items);
        self.inventory.keep(set)
    }

    /// Returns the stored events among `items`.
    pub(super) fn by_ids(&self, items: &[ItemId]) -> impl Iterator<Item = &Entry> {
        let places = items.iter().filter_map(|item| self.ids.get(&*item.event_id()));
        places.filter_map(|place| self.get(place))
    }

    /// Returns the event at this position in the order of arrival, with its rank.
    fn held(&self, seq: i64) -> Option<Held> {
        let place = self.by_arrival.get(&seq)?;
        let rank = self.by_time.get(place)?.rank;
        Some(Held {
            place: place.clone(),
            rank,
        })
    }

    /// Adds a verified event to the indexes of its service.
    fn index_service(&mut self, entry: &Entry, place: &Place) {
        let event = &entry.event;
        match event.service() {
            Some(Service::Ping) => {
                let pings = self.pings_of.entry(event.target().to_owned()).or_default();
                pings.insert((entry.rank, place.ts, place.seq));
            }
            Some(Service::Observation) => {
                let pair = (event.actor().to_owned(), event.target().to_owned());
                let pair = self.pairs.entry(pair).or_default();
                pair.of_kind(entry.priority == Priority::Restart)
                    .insert((place.ts, place.seq));
            }
            Some(Service::Checkpoint) => {
                self.checkpoints.insert(place.seq, place.clone());
                let subject = event.target().to_owned();
                *self.checkpoints_about.entry(subject).or_default() += 1;
            }
            _ => {}
        }
    }

    fn unindex_service(&mut self, entry: &Entry, place: &Place) {
        let event = &entry.event;
        match event.service() {
            Some(Service::Ping) => {
                if let Some(pings) = self.pings_of.get_mut(event.target()) {
                    pings.remove(&(entry.rank, place.ts, place.seq));
                    if pings.is_empty() {
                        self.pings_of.remove(event.target());
                    }
                }
            }
            Some(Service::Observation) => {
                let key = (event.actor().to_owned(), event.target().to_owned());
                if let Some(pair) = self.pairs.get_mut(&key) {
                    pair.of_kind(entry.priority == Priority::Restart)
                        .remove(&(place.ts, place.seq));
                    if pair.restarts.is_empty() && pair.others.is_empty() {
                        self.pairs.remove(&key);
                    }
                }
            }
            Some(Service::Checkpoint) => {
                self.checkpoints.remove(&place.seq);
                if let Some(count) = self.checkpoints_about.get_mut(event.target()) {
                    *count -= 1;
                    if *count == 0 {
                        self.checkpoints_about.remove(event.target());
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds an event to the indexes used for pruning.
    fn index_rank(&mut self, entry: &Entry, place: &Place) {
        let size = self.sizes.entry(entry.rank).or_default();
        *size = size.plus(Size::one(entry.bytes));
        if entry.rank.is_verified() {
            self.ladder.insert((entry.rank, place.ts, place.seq));
            self.index_service(entry, place);
        } else {
            self.unverified.insert((entry.rank, place.seq));
            for account in entry.accounts() {
                let unverified = self.unverified_of.entry(key(account)).or_default();
                unverified.insert((entry.rank, place.seq));
            }
        }
    }

    fn unindex_rank(&mut self, entry: &Entry, place: &Place) {
        let size = self.sizes.entry(entry.rank).or_default();
        *size = *size - Size::one(entry.bytes);
        if entry.rank.is_verified() {
            self.ladder.remove(&(entry.rank, place.ts, place.seq));
            self.unindex_service(entry, place);
        } else {
            self.unverified.remove(&(entry.rank, place.seq));
            for account in entry.accounts() {
                let account = key(account);
                if let Some(unverified) = self.unverified_of.get_mut(&account) {
                    unverified.remove(&(entry.rank, place.seq));
                    if unverified.is_empty() {
                        self.unverified_of.remove(&account);
                    }
                }
            }
        }
    }
}

impl Shelf for MemoryShelf {
    type Error = Infallible;

    fn find(&mut self, id: &str) -> Result<Option<Held>, Infallible> {
        Ok(self.ids.get(id).and_then(|place| self.held(place.seq)))
    }

    fn maker(&mut self, place: &Place) -> Result<Maker, Infallible> {
        let entry = self.by_time.get(place);
        Ok(entry.map_or_else(Maker::default, |entry| Maker {
            actor: entry.event.actor().to_owned(),
            emitter: entry.event.emitter.clone(),
            account: entry.account.clone(),
        }))
    }

    fn voters(&mut self, place: &Place) -> Result<usize, Infallible> {
        Ok(self.by_time.get(place).map_or(0, |entry| voters(&entry.event)))
    }

    fn add(&mut self, new: NewEvent<'_>) -> Result<i64, Infallible> {
        self.position += 1;
        let event = new.event;
        let place = Place {
            ts: event.ts,
            id: event.id.as_str().into(),
            seq: self.position,
        };
        if new.rank.is_verified()
            && let Some(changes) = self.inventory.changes()
        {
            changes.added(event.ts, &event.id, event.service());
            self.inventory.settle();
        }
        let entry = Entry {
            event: Arc::new(event),
            bytes: new.json.len(),
            priority: new.priority,
            rank: new.rank,
            account: new.account,
            origin: new.origin.cloned(),
            received: new.now,
        };
        self.ids.insert(place.id.clone(), place.clone());
        self.by_arrival.insert(place.seq, place.clone());
        self.index_rank(&entry, &place);
        for account in entry.accounts() {
            let charged = self.accounts.entry(key(account)).or_default();
            *charged = charged.plus(Size::one(entry.bytes));
        }
        let seq = place.seq;
        self.by_time.insert(place, entry);
        Ok(seq)
    }

    fn remove(&mut self, place: &Place) -> Result<(), Infallible> {
        let Some(entry) = self.by_time.remove(place) else {
            return Ok(());
        };
        self.unindex_rank(&entry, place);
        self.ids.remove(&place.id);
        if entry.rank.is_verified()
            && let Some(changes) = self.inventory.changes()
        {
            changes.removed(place.ts, &place.id);
        }
        self.by_arrival.remove(&place.seq);
        for account in entry.accounts() {
            let account = key(account);
            if let Some(charged) = self.accounts.get_mut(&account) {
                *charged = *charged - Size::one(entry.bytes);
                if charged.is_zero() {
                    self.accounts.remove(&account);
                }
            }
        }
        Ok(())
    }

    fn rerank(&mut self, rung: &Rung, rank: Rank) -> Result<(), Infallible> {
        let place = &rung.held.place;
        if let Some(mut entry) = self.by_time.remove(place) {
            self.unindex_rank(&entry, place);
            entry.rank = rank;
            self.index_rank(&entry, place);
            self.by_time.insert(place.clone(), entry);
        }
        Ok(())
    }

    fn size(&self, ranks: impl Fn(Rank) -> bool) -> Size {
        let sizes = self.sizes.iter().filter(|(rank, _)| ranks(**rank));
        sizes.fold(Size::default(), |sum, (_, size)| sum.plus(*size))
    }

    fn charged(&mut self, account: Account<'_>) -> Result<Size, Infallible> {
        Ok(self.accounts.get(&key(account)).copied().unwrap_or_default())
    }

    fn accounts_over(&mut self, kind: u8, quota: Size) -> Result<BTreeMap<String, Size>, Infallible> {
        let over = self
            .accounts
            .iter()
            .filter(|((of, _), size)| *of == kind && size.exceeds(quota));
        Ok(over.map(|((_, name), size)| (name.clone(), *size)).collect())
    }

    fn ladder(&mut self, after: LadderPlace, below: Rank, limit: usize) -> Result<Vec<Rung>, Infallible> {
        let end = (below, UnixNanos::new(i64::MIN), i64::MIN);
        if after >= end {
            return Ok(Vec::new());
        }
        let places = self.ladder.range((Bound::Excluded(after), Bound::Excluded(end)));
        let rungs = places.take(limit).filter_map(|&(_, _, seq)| {
            let held = self.held(seq)?;
            let entry = self.by_time.get(&held.place)?;
            Some(Rung {
                account: entry.account.clone(),
                bytes: entry.bytes,
                priority: entry.priority,
                actor: entry.event.actor().to_owned(),
                target: entry.event.target().to_owned(),
                held,
            })
        });
        Ok(rungs.collect())
    }

    fn pings(&mut self, target: &str, limit: usize) -> Result<Vec<HeldPing>, Infallible> {
        let pings = self.pings_of.get(target).into_iter().flatten().take(limit);
        let held = pings.filter_map(|&(_, _, seq)| {
            let held = self.held(seq)?;
            let entry = self.by_time.get(&held.place)?;
            Some(HeldPing {
                observer: entry.event.actor().to_owned(),
                account: entry.account.clone(),
                held,
            })
        });
        Ok(held.collect())
    }

    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> Result<usize, Infallible> {
        let pair = self.pairs.get(&(pair.0.to_owned(), pair.1.to_owned()));
        let count = pair.map_or(0, |pair| pair.restarts.len() + pair.others.len());
        Ok(count.min(limit))
    }

    fn oldest_observation(&mut self, pair: (&str, &str), restart: bool) -> Result<Option<Place>, Infallible> {
        let pair = self.pairs.get_mut(&(pair.0.to_owned(), pair.1.to_owned()));
        let oldest = pair.and_then(|pair| pair.of_kind(restart).first().copied());
        Ok(oldest.and_then(|(_, seq)| self.by_arrival.get(&seq).cloned()))
    }

    fn has_checkpoint(&mut self, subject: &str) -> Result<bool, Infallible> {
        Ok(self.checkpoints_about.contains_key(subject))
    }

    fn first_unverified(&mut self, account: Option<Account<'_>>) -> Result<Option<Held>, Infallible> {
        let first = match account {
            Some(account) => self.unverified_of.get(&key(account)).and_then(BTreeSet::first),
            None => self.unverified.first(),
        };
        Ok(first.and_then(|(_, seq)| self.held(*seq)))
    }

    fn unverified_before(&mut self, time: UnixNanos, limit: usize) -> Result<Vec<Place>, Infallible> {
        let places = self
            .unverified
            .iter()
            .filter_map(|(_, seq)| self.by_arrival.get(seq));
        let before = places.filter(|place| self.by_time[*place].received < time);
        Ok(before.take(limit).cloned().collect())
    }
}
