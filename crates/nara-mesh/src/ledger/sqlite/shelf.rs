use std::collections::BTreeMap;

use nara_proto::event::{Service, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::NaraName;
use nara_proto::sync::is_critical;
use rusqlite::{Params, Transaction};

use super::rows::{place, position, sql_limit, totals};
use super::sql;
use crate::ledger::admission::{Place, Shelf, Stranger};
use crate::ledger::inventory::Changes;
use crate::ledger::retention::Priority;

/// The events of a database inside one transaction.
pub(super) struct SqliteShelf<'a> {
    transaction: &'a Transaction<'a>,
    count: usize,
    kept: usize,
    /// The place of the newest event in the order of arrival.
    position: i64,
    /// How many events of each priority were added.
    added: BTreeMap<i64, i64>,
    /// Where to note what changes, if anybody wants to know.
    changes: Option<Changes>,
}

impl<'a> SqliteShelf<'a> {
    pub(super) fn new(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        let totals = totals(transaction)?;
        Ok(Self {
            transaction,
            count: totals.iter().map(|(_, n)| n).sum(),
            kept: totals
                .iter()
                .filter(|(priority, _)| *priority >= Priority::FirstSeen as i64)
                .map(|(_, n)| n)
                .sum(),
            position: position(transaction)?,
            added: BTreeMap::new(),
            changes: None,
        })
    }

    /// Notes what changes there.
    pub(super) fn recording(mut self, changes: Option<Changes>) -> Self {
        self.changes = changes;
        self
    }

    /// Notes the totals and the position, once for all that was added: what changed, and the position.
    pub(super) fn finish(self) -> rusqlite::Result<(Option<Changes>, i64)> {
        let mut statement = self.transaction.prepare_cached(sql::ADD_TO_TOTAL)?;
        for added in &self.added {
            statement.execute(added)?;
        }
        if !self.added.is_empty() {
            self.transaction
                .prepare_cached(sql::MOVE_POSITION)?
                .execute([self.position])?;
        }
        Ok((self.changes, self.position))
    }

    fn exists(&self, sql: &str, params: impl Params) -> rusqlite::Result<bool> {
        self.transaction.prepare_cached(sql)?.exists(params)
    }

    fn count_of(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.transaction
            .prepare_cached(sql)?
            .query_row(params, |row| row.get::<_, i64>(0))
            .map(|count| usize::try_from(count).unwrap_or(0))
    }

    fn places(&self, sql: &str, params: impl Params) -> rusqlite::Result<Vec<Place>> {
        self.transaction
            .prepare_cached(sql)?
            .query_map(params, place)?
            .collect()
    }
}

impl Shelf for SqliteShelf<'_> {
    type Error = rusqlite::Error;

    fn contains(&mut self, id: &str) -> rusqlite::Result<bool> {
        self.exists(sql::CONTAINS, [id])
    }

    fn add(
        &mut self,
        event: SyncEvent,
        priority: Priority,
        stranger: bool,
        origin: Option<&NaraName>,
    ) -> rusqlite::Result<i64> {
        let importance = match event.observation.as_deref() {
            Some(payload) if event.service() == Some(Service::Observation) => payload.importance,
            _ => 0,
        };
        self.transaction.prepare_cached(sql::ADD)?.execute((
            &event.id,
            event.ts.get(),
            &event.svc,
            &event.emitter,
            event.actor(),
            event.target(),
            importance,
            is_critical(&event),
            priority as i64,
            stranger,
            go_json::to_string(&event),
            origin.map(NaraName::as_str),
            self.position + 1,
        ))?;
        self.position += 1;
        *self.added.entry(priority as i64).or_default() += 1;
        if let Some(changes) = &mut self.changes {
            changes.added(event.ts, &event.id, event.service());
        }
        self.count += 1;
        self.kept += usize::from(priority.is_kept());
        Ok(self.position)
    }

    fn remove(&mut self, place: &Place) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(sql::REMOVE)?;
        let was_kept: bool = statement.query_row([place.seq], |row| row.get(0))?;
        if let Some(changes) = &mut self.changes {
            changes.removed(place.ts, &place.id);
        }
        self.count -= 1;
        self.kept -= usize::from(was_kept);
        Ok(())
    }

    fn acquaint(&mut self, place: &Place) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(sql::ACQUAINT)?
            .execute([place.seq])
            .map(drop)
    }

    fn count(&self) -> usize {
        self.count
    }

    fn count_kept(&self) -> usize {
        self.kept
    }

    fn count_pings(&mut self, target: &str, limit: usize) -> rusqlite::Result<usize> {
        self.count_of(sql::COUNT_PINGS, (target, sql_limit(limit)))
    }

    fn oldest_ping(&mut self, target: &str) -> rusqlite::Result<Option<Place>> {
        Ok(self.places(sql::OLDEST_PING, [target])?.pop())
    }

    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> rusqlite::Result<usize> {
        self.count_of(sql::COUNT_OBSERVATIONS, (pair.0, pair.1, sql_limit(limit)))
    }

    fn oldest_observation(
        &mut self,
        (observer, subject): (&str, &str),
        restart: bool,
    ) -> rusqlite::Result<Option<Place>> {
        let priorities: &[_] = if restart {
            &[Priority::Restart]
        } else {
            &[Priority::Presence, Priority::FirstSeen]
        };
        let mut oldest = Vec::new();
        for &priority in priorities {
            oldest.extend(self.places(sql::OLDEST_OBSERVATION, (observer, subject, priority as i64))?);
        }
        Ok(oldest.into_iter().min())
    }

    fn has_checkpoint(&mut self, subject: &str) -> rusqlite::Result<bool> {
        self.exists(sql::HAS_CHECKPOINT, [subject])
    }

    fn oldest_strangers(&mut self, limit: usize) -> rusqlite::Result<Vec<Stranger>> {
        self.transaction
            .prepare_cached(sql::OLDEST_STRANGERS)?
            .query_map([sql_limit(limit)], |row| {
                Ok(Stranger {
                    place: place(row)?,
                    actor: row.get(3)?,
                    target: row.get(4)?,
                })
            })?
            .collect()
    }

    fn oldest(&mut self, priority: Priority, limit: usize) -> rusqlite::Result<Vec<Place>> {
        let limit = sql_limit(limit);
        let service = match priority {
            Priority::Ping => Service::Ping,
            Priority::Seen => Service::Seen,
            Priority::Social => Service::Social,
            Priority::Presence => return self.places(sql::OLDEST_PRESENCE, [limit]),
            Priority::FirstSeen | Priority::Checkpoint | Priority::Restart => return Ok(Vec::new()),
        };
        self.places(sql::OLDEST_OF_SERVICE, (service.as_str(), limit))
    }
}
