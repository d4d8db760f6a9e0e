use std::collections::BTreeSet;
use std::ops::ControlFlow;

use nara_proto::event::{CheckedEvent, SyncEvent};
use nara_proto::reconcile::ItemId;
use nara_proto::sync::{Cursor, EventFilter, sample_weight_of};
use nara_proto::time::UnixNanos;
use rusqlite::types::{FromSql as _, Value};
use rusqlite::{CachedStatement, OptionalExtension as _, Params, Row, Transaction};

use super::columns::{IdKey, IdText, ServiceKey, event, place};
use super::failure::Failure;
use super::rows::{position, sizes, sql_limit, unsigned};
use super::sql::{self, BothWays};
use crate::ledger::checked::{stored_trust, without_trust};
use crate::ledger::filter::Wanted;
use crate::ledger::held::Place;
use crate::ledger::limit::ByteBudget;
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::sampler::Sampler;
use crate::ledger::{Arrival, Arrivals, ReadLimit, Sample, Slice};

/// A direction through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// Maximum number of index ranges merged for one query. Beyond it, scanning by time is cheaper.
const MAX_RANGES: usize = 512;

/// Returns the positions of the first `limit` events after `after` in this order.
///
/// A filter becomes one index range per service, or per service and subject, as actor and as target, so that the
/// cost does not depend on the number of events.
pub(super) fn select(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    after: &Cursor,
    order: Order,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let (ts, id) = (after.ts().get(), &IdKey::of_cursor(after));
    let rows = sql_limit(limit);
    if filter.is_empty() {
        let mut found = Vec::new();
        Range::new(snapshot, sql::BY_TIME, order)?.visit::<rusqlite::Error>((ts, id, rows), |row| {
            found.push(row.get(0)?);
            Ok(until(found.len() == limit))
        })?;
        return Ok(found);
    }
    let wanted = Wanted::new(filter);
    let mut services = services(snapshot)?;
    if !wanted.services.is_empty() {
        services.retain(|service| wanted.services.contains(service.name()));
    }
    let mut merged = Merged::new(order, limit);
    if wanted.subjects.is_empty() {
        let mut range = Range::new(snapshot, sql::BY_SERVICE, order)?;
        for service in &services {
            merged.add(&mut range, (ts, id, rows, service))?;
        }
        return Ok(merged.finish());
    }
    if wanted.subjects.len() * services.len() * 2 > MAX_RANGES {
        return walk(snapshot, &wanted, after, order, limit);
    }
    for statement in [sql::BY_ACTOR, sql::BY_TARGET] {
        let mut range = Range::new(snapshot, statement, order)?;
        for subject in &wanted.subjects {
            for service in &services {
                merged.add(&mut range, (ts, id, rows, subject, service))?;
            }
        }
    }
    Ok(merged.finish())
}

/// Returns the first events after `after` in this order, and the trust in each.
pub(super) fn page(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    after: &Cursor,
    order: Order,
    limit: ReadLimit,
) -> Result<Vec<CheckedEvent>, Failure> {
    if !filter.is_empty() {
        let places = select(snapshot, filter, after, order, limit.events)?;
        return load_checked(snapshot, places, limit.bytes);
    }
    let behind = (
        after.ts().get(),
        &IdKey::of_cursor(after),
        sql_limit(limit.events),
    );
    let mut page = Page::new(limit);
    Range::new(snapshot, sql::EVENTS_BY_TIME, order)?.visit(behind, |row| page.add(row))?;
    Ok(page.events)
}

/// Events read so far, up to a limit.
struct Page {
    events: Vec<CheckedEvent>,
    limit: usize,
    budget: ByteBudget,
}

impl Page {
    fn new(limit: ReadLimit) -> Self {
        Self {
            events: Vec::new(),
            limit: limit.events,
            budget: ByteBudget::new(limit.bytes),
        }
    }

    /// Adds the event of a row, if it fits.
    fn add(&mut self, row: &Row<'_>) -> Result<ControlFlow<()>, Failure> {
        if self.events.len() == self.limit || !self.budget.take(unsigned(row, 7)?) {
            return Ok(ControlFlow::Break(()));
        }
        let event = event(row)?;
        let trust = stored_trust(&event, Rank(row.get(8)?).is_verified());
        self.events.push(CheckedEvent::new(event, trust));
        Ok(ControlFlow::Continue(()))
    }
}

/// The events of an index after a cursor, in order.
struct Range<'a> {
    order: Order,
    /// All events except a single event at the time of the cursor, which precedes them.
    later: CachedStatement<'a>,
    alone: CachedStatement<'a>,
}

impl<'a> Range<'a> {
    fn new(snapshot: &'a Transaction<'_>, statement: BothWays, order: Order) -> rusqlite::Result<Self> {
        Ok(Self {
            order,
            later: snapshot.prepare_cached(match order {
                Order::OldestFirst => statement.oldest_first,
                Order::NewestFirst => statement.newest_first,
            })?,
            alone: snapshot.prepare_cached(statement.alone)?,
        })
    }

    fn visit<E: From<rusqlite::Error>>(
        &mut self,
        params: impl Params + Clone,
        mut visit: impl FnMut(&Row<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let in_order = match self.order {
            Order::OldestFirst => [&mut self.alone, &mut self.later],
            Order::NewestFirst => [&mut self.later, &mut self.alone],
        };
        for statement in in_order {
            let mut rows = statement.query(params.clone())?;
            while let Some(row) = rows.next()? {
                if visit(row)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn until(done: bool) -> ControlFlow<()> {
    if done {
        ControlFlow::Break(())
    } else {
        ControlFlow::Continue(())
    }
}

/// The sort key of an event during a merge: time, tie, and arrival.
type Spot = (i64, Box<[u8]>, i64);

/// The first `limit` positions of several ranges, without duplicates.
struct Merged {
    order: Order,
    limit: usize,
    spots: BTreeSet<Spot>,
}

impl Merged {
    fn new(order: Order, limit: usize) -> Self {
        Self {
            order,
            limit,
            spots: BTreeSet::new(),
        }
    }

    /// Adds a range, in order, up to the first position past the limit.
    fn add(&mut self, range: &mut Range<'_>, params: impl Params + Clone) -> rusqlite::Result<()> {
        range.visit(params, |row| {
            let spot: Spot = (row.get(1)?, row.get_ref(2)?.as_blob()?.into(), row.get(0)?);
            self.spots.insert(spot.clone());
            if self.spots.len() <= self.limit {
                return Ok(until(false));
            }
            let dropped = match self.order {
                Order::OldestFirst => self.spots.pop_last(),
                Order::NewestFirst => self.spots.pop_first(),
            };
            Ok(until(dropped == Some(spot)))
        })
    }

    fn finish(self) -> Vec<i64> {
        let mut places: Vec<_> = self.spots.into_iter().map(|(_, _, seq)| seq).collect();
        if self.order == Order::NewestFirst {
            places.reverse();
        }
        places
    }
}

/// Like [`select`], by scanning every event after `after` until there are enough matches.
fn walk(
    snapshot: &Transaction<'_>,
    wanted: &Wanted<'_>,
    after: &Cursor,
    order: Order,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    let behind = (after.ts().get(), &IdKey::of_cursor(after));
    Range::new(snapshot, sql::WALK, order)?.visit::<rusqlite::Error>(behind, |row| {
        let service: ServiceKey = row.get(1)?;
        let (actor, target) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
        if wanted.matches_parts(service.name(), actor, target) {
            found.push(row.get(0)?);
        }
        Ok(until(found.len() == limit))
    })?;
    Ok(found)
}

/// Returns the services that have events.
fn services(snapshot: &Transaction<'_>) -> rusqlite::Result<Vec<ServiceKey>> {
    let mut statement = snapshot.prepare_cached(sql::NEXT_SERVICE)?;
    let mut services = Vec::new();
    let mut last = Value::Integer(i64::MIN);
    while let Some(next) = statement
        .query_row([&last], |row| row.get::<_, Value>(0))
        .optional()?
    {
        services.push(ServiceKey::column_result((&next).into())?);
        last = next;
    }
    Ok(services)
}

/// See [`EventStore::slice`](crate::ledger::EventStore::slice); newest first.
pub(super) fn slice(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    slice: Slice,
) -> rusqlite::Result<Vec<i64>> {
    let start = slice.start();
    let limit = slice.limit.events;
    if slice.slice_total <= 1 {
        return select(snapshot, filter, &start, Order::NewestFirst, limit);
    }
    let all = select(snapshot, filter, &start, Order::OldestFirst, usize::MAX)?;
    let mut selected: Vec<_> = all
        .into_iter()
        .skip(slice.slice_index)
        .step_by(slice.slice_total)
        .collect();
    selected.reverse();
    selected.truncate(limit);
    Ok(selected)
}

/// See [`EventStore::sample`](crate::ledger::EventStore::sample).
pub(super) fn sample(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    sample: &Sample,
) -> rusqlite::Result<Vec<i64>> {
    let wanted = Wanted::new(filter);
    let mut sampler = Sampler::new(sample.size, sample.seed);
    let mut statement = snapshot.prepare_cached(sql::WEIGH)?;
    let mut rows = statement.query([&sample.responder])?;
    while let Some(row) = rows.next()? {
        if !filter.is_empty() {
            let service: ServiceKey = row.get(5)?;
            let (actor, target) = (row.get_ref(6)?.as_str()?, row.get_ref(7)?.as_str()?);
            if !wanted.matches_parts(service.name(), actor, target) {
                continue;
            }
        }
        let ts = UnixNanos::new(row.get(1)?);
        if row.get(3)? {
            sampler.offer_critical(place(row)?);
        } else {
            let weight = sample_weight_of(ts, row.get(4)?, row.get(8)?, sample.now);
            let (seq, id): (_, IdText) = (row.get(0)?, row.get(2)?);
            sampler.offer(weight, || Place {
                ts,
                id: id.0.into(),
                seq,
            });
        }
    }
    Ok(sampler.finish().into_iter().map(|place| place.seq).collect())
}

/// See [`EventStore::since`](crate::ledger::EventStore::since); last arrival first.
pub(super) fn since(
    snapshot: &Transaction<'_>,
    since: UnixNanos,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let mut statement = snapshot.prepare_cached(sql::SINCE)?;
    first_column(&mut statement, (since.get(), sql_limit(limit)))
}

/// See [`EventStore::checkpoints`](crate::ledger::EventStore::checkpoints).
pub(super) fn checkpoints(
    snapshot: &Transaction<'_>,
    limit: usize,
    offset: usize,
) -> rusqlite::Result<Vec<i64>> {
    let mut statement = snapshot.prepare_cached(sql::CHECKPOINTS)?;
    first_column(&mut statement, (sql_limit(limit), sql_limit(offset)))
}

/// Returns the unverified events in which `actor` acts.
pub(super) fn unverified_by(snapshot: &Transaction<'_>, actor: &str) -> Result<Vec<Arrival>, Failure> {
    let mut statement = snapshot.prepare_cached(sql::UNVERIFIED_OF)?;
    let mut rows = statement.query([actor])?;
    let mut arrivals = Vec::new();
    while let Some(row) = rows.next()? {
        arrivals.push(arrival(row)?);
    }
    Ok(arrivals)
}

/// Reads an event with its arrival columns.
fn arrival(row: &Row<'_>) -> Result<Arrival, Failure> {
    let event = event(row)?;
    // Treat an unreadable name as no origin.
    let origin = row.get_ref(10)?.as_str_or_null().ok().flatten();
    let origin = origin.and_then(|name| name.parse().ok());
    let trust = stored_trust(&event, Rank(row.get(8)?).is_verified());
    Ok(Arrival::new(row.get(9)?, event, origin, trust))
}

/// Loads the events at these positions, in the given order, up to `bytes` bytes.
pub(super) fn load(
    snapshot: &Transaction<'_>,
    places: Vec<i64>,
    bytes: usize,
) -> Result<Vec<SyncEvent>, Failure> {
    Ok(without_trust(load_checked(snapshot, places, bytes)?))
}

/// Like [`load`], with the trust in each event.
pub(super) fn load_checked(
    snapshot: &Transaction<'_>,
    places: Vec<i64>,
    bytes: usize,
) -> Result<Vec<CheckedEvent>, Failure> {
    let mut page = Page::new(ReadLimit::events(usize::MAX).bytes(bytes));
    let mut statement = snapshot.prepare_cached(sql::LOAD)?;
    for place in places {
        let mut rows = statement.query([place])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        if page.add(row)?.is_break() {
            break;
        }
    }
    Ok(page.events)
}

/// Loads the stored events with these ids, in the given order, up to `bytes` bytes.
pub(super) fn by_ids(
    snapshot: &Transaction<'_>,
    items: &[ItemId],
    bytes: usize,
) -> Result<Vec<SyncEvent>, Failure> {
    let mut page = Page::new(ReadLimit::events(usize::MAX).bytes(bytes));
    let mut statement = snapshot.prepare_cached(sql::LOAD_BY_ID)?;
    for item in items {
        let mut rows = statement.query([IdKey::of_item(item)])?;
        if let Some(row) = rows.next()?
            && page.add(row)?.is_break()
        {
            break;
        }
    }
    Ok(without_trust(page.events))
}

/// Maximum number of rows that one call of [`arrived_after`] reads, however few match.
const MAX_LOOK: usize = 20_000;

/// See [`ArrivalLog::arrived_after`](crate::ledger::ArrivalLog::arrived_after).
pub(super) fn arrived_after(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    after: i64,
    limit: ReadLimit,
) -> Result<Arrivals, Failure> {
    let position = position(snapshot)?;
    let wanted = Wanted::new(filter);
    let mut statement = snapshot.prepare_cached(sql::ARRIVED)?;
    let mut rows = statement.query((after, sql_limit(MAX_LOOK)))?;
    let mut events = Vec::new();
    let mut budget = ByteBudget::new(limit.bytes);
    let mut end = after;
    let mut looked = 0;
    while let Some(row) = rows.next()? {
        looked += 1;
        let seq = row.get(9)?;
        if !filter.is_empty() {
            let service: ServiceKey = row.get(2)?;
            let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
            if !wanted.matches_parts(service.name(), text(4)?, text(11)?) {
                end = seq;
                continue;
            }
        }
        if events.len() == limit.events || !budget.take(unsigned(row, 7)?) {
            return Ok(Arrivals {
                events,
                end,
                is_newest: end >= position,
            });
        }
        end = seq;
        events.push(arrival(row)?);
    }
    let is_newest = looked < MAX_LOOK;
    if is_newest {
        end = position.max(after);
    }
    Ok(Arrivals {
        events,
        end,
        is_newest,
    })
}

/// See [`ArrivalLog::position_before`](crate::ledger::ArrivalLog::position_before).
pub(super) fn position_before(snapshot: &Transaction<'_>, since: UnixNanos) -> rusqlite::Result<i64> {
    let first: Option<i64> = snapshot
        .prepare_cached(sql::FIRST_SINCE)?
        .query_row([since.get()], |row| row.get(0))?;
    match first {
        Some(first) => Ok(first - 1),
        None => position(snapshot),
    }
}

/// Returns the number of stored events.
pub(super) fn count(snapshot: &Transaction<'_>) -> rusqlite::Result<usize> {
    Ok(sizes(snapshot)?.values().map(|size| size.events).sum())
}

/// Returns the number of stored verified checkpoints.
pub(super) fn count_checkpoints(snapshot: &Transaction<'_>) -> rusqlite::Result<usize> {
    let sizes = sizes(snapshot)?;
    let checkpoints = sizes.get(&Rank::common(Priority::Checkpoint));
    Ok(checkpoints.map_or(0, |size| size.events))
}

fn first_column(statement: &mut CachedStatement<'_>, params: impl Params) -> rusqlite::Result<Vec<i64>> {
    statement.query_map(params, |row| row.get(0))?.collect()
}
