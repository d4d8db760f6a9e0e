use std::collections::BTreeSet;

use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::sync::{Cursor, EventFilter, sample_weight_of};
use nara_proto::time::UnixNanos;
use rusqlite::{CachedStatement, OptionalExtension as _, Params, Row, Transaction};

use super::failure::Failure;
use super::rows::{place, position, sizes, sql_limit};
use super::sql::{self, BothWays};
use crate::ledger::checked::stored_trust;
use crate::ledger::filter::Wanted;
use crate::ledger::held::Place;
use crate::ledger::limit::ByteBudget;
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::sampler::Sampler;
use crate::ledger::{Arrival, Arrivals, LedgerError, ReadLimit, Sample, Slice};

/// A direction through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    OldestFirst,
    NewestFirst,
}

/// Ranges of indices that are merged for one answer. With more, walking through time is cheaper.
const MAX_RANGES: usize = 512;

/// The first `limit` events behind `after` in this order: their places in the order of arrival.
///
/// A filter becomes one range of an index for each service, or each service of each subject as actor and as
/// target, so that the cost does not depend on how many events there are.
pub(super) fn select(
    snapshot: &Transaction<'_>,
    filter: &EventFilter,
    after: &Cursor,
    order: Order,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let ts = after.ts().get();
    let rows = sql_limit(limit);
    if filter.is_empty() {
        let mut statement = prepare(snapshot, sql::BY_TIME, order)?;
        return first_column(&mut statement, (ts, after.id(), rows));
    }
    let stored = services(snapshot)?;
    let mut wanted = Wanted::new(filter);
    if wanted.services.is_empty() {
        wanted.services.extend(stored.iter().map(String::as_str));
    } else {
        wanted
            .services
            .retain(|&wanted| stored.iter().any(|service| service == wanted));
    }
    let mut merged = Merged::new(order, limit);
    if wanted.subjects.is_empty() {
        let mut statement = prepare(snapshot, sql::BY_SERVICE, order)?;
        for service in &wanted.services {
            merged.add(&mut statement, (ts, after.id(), rows, service))?;
        }
        return Ok(merged.finish());
    }
    if wanted.subjects.len() * wanted.services.len() * 2 > MAX_RANGES {
        return walk(snapshot, &wanted, after, order, limit);
    }
    for statement in [sql::BY_ACTOR, sql::BY_TARGET] {
        let mut statement = prepare(snapshot, statement, order)?;
        for subject in &wanted.subjects {
            for service in &wanted.services {
                merged.add(&mut statement, (ts, after.id(), rows, subject, service))?;
            }
        }
    }
    Ok(merged.finish())
}

/// The first `limit` places of several ranges, each event once.
struct Merged {
    order: Order,
    limit: usize,
    places: BTreeSet<Place>,
}

impl Merged {
    fn new(order: Order, limit: usize) -> Self {
        Self {
            order,
            limit,
            places: BTreeSet::new(),
        }
    }

    /// Adds a range, in order, up to the first place that is behind all that are wanted.
    fn add(&mut self, range: &mut CachedStatement<'_>, params: impl Params) -> rusqlite::Result<()> {
        let mut rows = range.query(params)?;
        while let Some(row) = rows.next()? {
            let place = place(row)?;
            self.places.insert(place.clone());
            if self.places.len() > self.limit {
                let dropped = match self.order {
                    Order::OldestFirst => self.places.pop_last(),
                    Order::NewestFirst => self.places.pop_first(),
                };
                if dropped == Some(place) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Vec<i64> {
        let mut places: Vec<_> = self.places.into_iter().map(|place| place.seq).collect();
        if self.order == Order::NewestFirst {
            places.reverse();
        }
        places
    }
}

/// As [`select`], by looking at every event behind `after` until there are enough.
fn walk(
    snapshot: &Transaction<'_>,
    wanted: &Wanted<'_>,
    after: &Cursor,
    order: Order,
    limit: usize,
) -> rusqlite::Result<Vec<i64>> {
    let mut found = Vec::new();
    let mut statement = prepare(snapshot, sql::WALK, order)?;
    let mut rows = statement.query((after.ts().get(), after.id()))?;
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
        if wanted.matches_parts(text(1)?, text(2)?, text(3)?) {
            found.push(row.get(0)?);
        }
    }
    Ok(found)
}

/// The services of which there are events.
fn services(snapshot: &Transaction<'_>) -> rusqlite::Result<Vec<String>> {
    let mut statement = snapshot.prepare_cached(sql::NEXT_SERVICE)?;
    let mut services = Vec::new();
    let mut last = String::new();
    while let Some(next) = statement
        .query_row([&last], |row| row.get::<_, String>(0))
        .optional()?
    {
        services.push(next.clone());
        last = next;
    }
    Ok(services)
}

/// See [`EventStore::slice`](crate::ledger::EventStore::slice): the newest first.
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
        let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
        if !filter.is_empty() && !wanted.matches_parts(text(5)?, text(6)?, text(7)?) {
            continue;
        }
        let ts = UnixNanos::new(row.get(1)?);
        if row.get(3)? {
            sampler.offer_critical(place(row)?);
        } else {
            let weight = sample_weight_of(ts, row.get(4)?, row.get(8)?, sample.now);
            let (seq, id) = (row.get(0)?, text(2)?);
            sampler.offer(weight, || Place {
                ts,
                id: id.into(),
                seq,
            });
        }
    }
    Ok(sampler.finish().into_iter().map(|place| place.seq).collect())
}

/// See [`EventStore::since`](crate::ledger::EventStore::since): the last arrival first.
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

/// The unverified events that claim an emitter.
pub(super) fn unverified_by(snapshot: &Transaction<'_>, actor: &str) -> Result<Vec<Arrival>, Failure> {
    let mut statement = snapshot.prepare_cached(sql::UNVERIFIED_OF)?;
    let mut rows = statement.query([actor])?;
    let mut arrivals = Vec::new();
    while let Some(row) = rows.next()? {
        arrivals.push(arrival(row)?);
    }
    Ok(arrivals)
}

/// An event as it arrived. A row begins with its place, JSON, id, origin and rank.
fn arrival(row: &Row<'_>) -> Result<Arrival, Failure> {
    let json = row.get_ref(1)?.as_bytes().map_err(rusqlite::Error::from)?;
    let event = match go_json::from_slice_exact::<SyncEvent>(json) {
        Ok(event) => event,
        Err(error) => {
            return Err(LedgerError::Damaged {
                id: row.get(2)?,
                reason: error.to_string(),
            }
            .into());
        }
    };
    // A name that cannot be read is nobody to leave it out for.
    let origin = row.get_ref(3)?.as_str_or_null().ok().flatten();
    let origin = origin.and_then(|name| name.parse().ok());
    let trust = stored_trust(&event, Rank(row.get(4)?).is_verified());
    Ok(Arrival::new(row.get(0)?, event, origin, trust))
}

/// The events at these places in the order of arrival, in the order given, up to so many bytes.
pub(super) fn load(
    snapshot: &Transaction<'_>,
    places: Vec<i64>,
    bytes: usize,
) -> Result<Vec<SyncEvent>, Failure> {
    let mut budget = ByteBudget::new(bytes);
    let mut statement = snapshot.prepare_cached(sql::LOAD)?;
    let mut events = Vec::with_capacity(places.len());
    for place in places {
        let mut rows = statement.query([place])?;
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let json = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
        if !budget.take(json.len()) {
            break;
        }
        match go_json::from_slice_exact(json) {
            Ok(event) => events.push(event),
            Err(error) => {
                return Err(LedgerError::Damaged {
                    id: row.get(1)?,
                    reason: error.to_string(),
                }
                .into());
            }
        }
    }
    Ok(events)
}

/// Rows that one look for arrivals reads, however few of them are wanted.
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
        let seq = row.get(0)?;
        let text = |index| row.get_ref(index)?.as_str().map_err(rusqlite::Error::from);
        if !filter.is_empty() && !wanted.matches_parts(text(5)?, text(6)?, text(7)?) {
            end = seq;
            continue;
        }
        if events.len() == limit.events || !budget.take(text(1)?.len()) {
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

/// The number of stored events.
pub(super) fn count(snapshot: &Transaction<'_>) -> rusqlite::Result<usize> {
    Ok(sizes(snapshot)?.values().map(|size| size.events).sum())
}

/// How many verified checkpoints are stored.
pub(super) fn count_checkpoints(snapshot: &Transaction<'_>) -> rusqlite::Result<usize> {
    let sizes = sizes(snapshot)?;
    let checkpoints = sizes.get(&Rank::common(Priority::Checkpoint));
    Ok(checkpoints.map_or(0, |size| size.events))
}

fn prepare<'a>(
    snapshot: &'a Transaction<'_>,
    statement: BothWays,
    order: Order,
) -> rusqlite::Result<CachedStatement<'a>> {
    snapshot.prepare_cached(match order {
        Order::OldestFirst => statement.oldest_first,
        Order::NewestFirst => statement.newest_first,
    })
}

fn first_column(statement: &mut CachedStatement<'_>, params: impl Params) -> rusqlite::Result<Vec<i64>> {
    statement.query_map(params, |row| row.get(0))?.collect()
}
