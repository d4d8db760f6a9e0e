use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use nara_proto::event::{Service, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::reconcile::{ItemId, ItemSet};
use nara_proto::sync::Cursor;
use nara_proto::time::UnixNanos;

use crate::ledger::Arrival;
use crate::ledger::admission::{Place, Shelf, Stranger};
use crate::ledger::inventory::Inventory;
use crate::ledger::retention::Priority;

/// The events of a ledger in memory, and every index over them.
#[derive(Debug, Default)]
pub(super) struct MemoryShelf {
    by_time: BTreeMap<Place, Entry>,
    by_arrival: BTreeMap<i64, Place>,
    /// The place of the newest event, stored or not.
    position: i64,
    /// Where each event stands, by its id.
    ids: HashMap<Arc<str>, Place>,
    inventory: Inventory,
    checkpoints: BTreeMap<i64, Place>,
    checkpoints_about: HashMap<String, usize>,
    pings_of: HashMap<String, BTreeSet<Place>>,
    pairs: HashMap<(String, String), Pair>,
    strangers: BTreeSet<Place>,
    pruned: [BTreeSet<Place>; Priority::PRUNED.len()],
    kept: usize,
}

#[derive(Debug)]
struct Entry {
    event: Arc<SyncEvent>,
    priority: Priority,
    origin: Option<NaraName>,
}

/// The observations of one nara about another.
#[derive(Debug, Default)]
struct Pair {
    restarts: BTreeSet<Place>,
    others: BTreeSet<Place>,
}

impl Pair {
    fn of_kind(&mut self, restart: bool) -> &mut BTreeSet<Place> {
        if restart {
            &mut self.restarts
        } else {
            &mut self.others
        }
    }
}

impl MemoryShelf {
    /// The events behind a cursor, by time and id.
    pub(super) fn after(&self, after: &Cursor) -> impl DoubleEndedIterator<Item = &Arc<SyncEvent>> {
        let after = Place {
            ts: after.ts(),
            id: after.id().into(),
            seq: i64::MAX,
        };
        self.by_time
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, entry)| &entry.event)
    }

    /// All events in the order of arrival.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = (&Place, &Arc<SyncEvent>)> {
        self.by_arrival
            .values()
            .filter_map(|place| Some((place, &self.by_time.get(place)?.event)))
    }

    /// The place of the newest event in the order of arrival, stored or not.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// The events behind a place in the order of arrival.
    pub(super) fn arrivals_after(&self, after: i64) -> impl Iterator<Item = (i64, &Arc<SyncEvent>)> {
        let places = self.by_arrival.range((Bound::Excluded(after), Bound::Unbounded));
        places.filter_map(|(seq, place)| Some((*seq, &self.by_time.get(place)?.event)))
    }

    /// The event at a place in the order of arrival.
    pub(super) fn arrival(&self, seq: i64) -> Option<Arrival> {
        let entry = self.by_time.get(self.by_arrival.get(&seq)?)?;
        Some(Arrival::new(seq, (*entry.event).clone(), entry.origin.clone()))
    }

    /// The place before the first event that came and is not older than `since`.
    pub(super) fn position_before(&self, since: UnixNanos) -> i64 {
        let since = Place {
            ts: since,
            id: "".into(),
            seq: i64::MIN,
        };
        let first = self.by_time.range(since..).map(|(place, _)| place.seq).min();
        first.map_or(self.position, |first| first - 1)
    }

    pub(super) fn get(&self, place: &Place) -> Option<Arc<SyncEvent>> {
        self.by_time.get(place).map(|entry| entry.event.clone())
    }

    /// The last `limit` events from `since` on, in the order of arrival.
    pub(super) fn last_arrivals(&self, since: UnixNanos, limit: usize) -> Vec<Arc<SyncEvent>> {
        let since = Place {
            ts: since,
            id: "".into(),
            seq: i64::MIN,
        };
        let mut recent: Vec<_> = self.by_time.range(since..).collect();
        recent.sort_unstable_by_key(|(place, _)| place.seq);
        let skipped = recent.len().saturating_sub(limit);
        recent
            .into_iter()
            .skip(skipped)
            .map(|(_, entry)| entry.event.clone())
            .collect()
    }

    /// The checkpoints in the order of arrival.
    pub(super) fn checkpoints(&self) -> impl ExactSizeIterator<Item = Arc<SyncEvent>> {
        self.checkpoints
            .values()
            .map(|place| self.by_time[place].event.clone())
    }

    /// What stands for the events in a reconciliation.
    pub(super) fn items(&mut self) -> ItemSet {
        if let Some(set) = self.inventory.current() {
            return set;
        }
        let items = self.by_time.values().filter_map(|entry| {
            let event = &entry.event;
            Some((event.ts, ItemId::of_event(&event.id)?, event.service()))
        });
        let set = ItemSet::new(items);
        self.inventory.keep(set)
    }

    /// Those of these events that are stored.
    pub(super) fn by_ids(&self, items: &[ItemId]) -> Vec<Arc<SyncEvent>> {
        let places = items.iter().filter_map(|item| self.ids.get(&*item.event_id()));
        places.filter_map(|place| self.get(place)).collect()
    }

    fn index_service(&mut self, event: &SyncEvent, priority: Priority, place: &Place) {
        match event.service() {
            Some(Service::Ping) => {
                let pings = self.pings_of.entry(event.target().to_owned()).or_default();
                pings.insert(place.clone());
            }
            Some(Service::Observation) => {
                let pair = (event.actor().to_owned(), event.target().to_owned());
                let pair = self.pairs.entry(pair).or_default();
                pair.of_kind(priority == Priority::Restart).insert(place.clone());
            }
            Some(Service::Checkpoint) => {
                self.checkpoints.insert(place.seq, place.clone());
                *self
                    .checkpoints_about
                    .entry(event.target().to_owned())
                    .or_default() += 1;
            }
            _ => {}
        }
    }

    fn unindex_service(&mut self, event: &SyncEvent, priority: Priority, place: &Place) {
        match event.service() {
            Some(Service::Ping) => {
                if let Some(pings) = self.pings_of.get_mut(event.target()) {
                    pings.remove(place);
                    if pings.is_empty() {
                        self.pings_of.remove(event.target());
                    }
                }
            }
            Some(Service::Observation) => {
                let key = (event.actor().to_owned(), event.target().to_owned());
                if let Some(pair) = self.pairs.get_mut(&key) {
                    pair.of_kind(priority == Priority::Restart).remove(place);
                    if pair.restarts.is_empty() && pair.others.is_empty() {
                        self.pairs.remove(&key);
                    }
                }
            }
            // Checkpoints are never removed.
            _ => {}
        }
    }
}

impl Shelf for MemoryShelf {
    type Error = Infallible;

    fn contains(&mut self, id: &str) -> Result<bool, Infallible> {
        Ok(self.ids.contains_key(id))
    }

    fn add(
        &mut self,
        event: SyncEvent,
        priority: Priority,
        stranger: bool,
        origin: Option<&NaraName>,
    ) -> Result<i64, Infallible> {
        self.position += 1;
        let place = Place {
            ts: event.ts,
            id: event.id.as_str().into(),
            seq: self.position,
        };
        self.index_service(&event, priority, &place);
        self.ids.insert(place.id.clone(), place.clone());
        if let Some(changes) = self.inventory.changes() {
            changes.added(event.ts, &event.id, event.service());
            self.inventory.settle();
        }
        self.by_arrival.insert(place.seq, place.clone());
        if stranger {
            self.strangers.insert(place.clone());
        }
        match self.pruned.get_mut(priority as usize) {
            Some(places) => {
                places.insert(place.clone());
            }
            None => self.kept += 1,
        }
        let seq = place.seq;
        let event = Arc::new(event);
        let origin = origin.cloned();
        self.by_time.insert(
            place,
            Entry {
                event,
                priority,
                origin,
            },
        );
        Ok(seq)
    }

    fn remove(&mut self, place: &Place) -> Result<(), Infallible> {
        let Some(Entry { event, priority, .. }) = self.by_time.remove(place) else {
            return Ok(());
        };
        self.unindex_service(&event, priority, place);
        self.ids.remove(&place.id);
        if let Some(changes) = self.inventory.changes() {
            changes.removed(place.ts, &place.id);
        }
        self.by_arrival.remove(&place.seq);
        self.strangers.remove(place);
        match self.pruned.get_mut(priority as usize) {
            Some(places) => {
                places.remove(place);
            }
            None => self.kept -= 1,
        }
        Ok(())
    }

    fn acquaint(&mut self, place: &Place) -> Result<(), Infallible> {
        self.strangers.remove(place);
        Ok(())
    }

    fn count(&self) -> usize {
        self.by_time.len()
    }

    fn count_kept(&self) -> usize {
        self.kept
    }

    fn count_pings(&mut self, target: &str, limit: usize) -> Result<usize, Infallible> {
        Ok(self.pings_of.get(target).map_or(0, BTreeSet::len).min(limit))
    }

    fn oldest_ping(&mut self, target: &str) -> Result<Option<Place>, Infallible> {
        Ok(self.pings_of.get(target).and_then(|pings| pings.first()).cloned())
    }

    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> Result<usize, Infallible> {
        let pair = self.pairs.get(&(pair.0.to_owned(), pair.1.to_owned()));
        let count = pair.map_or(0, |pair| pair.restarts.len() + pair.others.len());
        Ok(count.min(limit))
    }

    fn oldest_observation(&mut self, pair: (&str, &str), restart: bool) -> Result<Option<Place>, Infallible> {
        let pair = self.pairs.get_mut(&(pair.0.to_owned(), pair.1.to_owned()));
        Ok(pair.and_then(|pair| pair.of_kind(restart).first().cloned()))
    }

    fn has_checkpoint(&mut self, subject: &str) -> Result<bool, Infallible> {
        Ok(self.checkpoints_about.contains_key(subject))
    }

    fn oldest_strangers(&mut self, limit: usize) -> Result<Vec<Stranger>, Infallible> {
        let places = self.strangers.iter().take(limit);
        Ok(places
            .map(|place| {
                let event = &self.by_time[place].event;
                Stranger {
                    place: place.clone(),
                    actor: event.actor().to_owned(),
                    target: event.target().to_owned(),
                }
            })
            .collect())
    }

    fn oldest(&mut self, priority: Priority, limit: usize) -> Result<Vec<Place>, Infallible> {
        let places = self.pruned.get(priority as usize).into_iter().flatten();
        Ok(places.take(limit).cloned().collect())
    }
}
