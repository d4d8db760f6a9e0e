use std::collections::{BTreeMap, HashMap};

use nara_proto::event::Service;
use nara_proto::identity::NaraName;
use nara_proto::sync::is_critical;
use nara_proto::time::UnixNanos;
use rusqlite::{CachedStatement, OptionalExtension as _, Params, Row, Transaction};

use super::columns::{EventRow, IdKey, ServiceKey, account, emitter, place, without_columns};
use super::rows::{position, sizes, sql_limit, unsigned};
use super::sql;
use crate::ledger::admission::{Account, LadderPlace, Maker, NewEvent, Rung, Shelf};
use crate::ledger::held::{Held, HeldPing, Place};
use crate::ledger::inventory::Changes;
use crate::ledger::rank::{Priority, Rank};
use crate::ledger::retention::Size;

/// The events of a database within one transaction.
pub(super) struct SqliteShelf<'a> {
    transaction: &'a Transaction<'a>,
    /// The statements for every event, prepared once.
    each: Each<'a>,
    /// The total size per rank.
    sizes: BTreeMap<Rank, Size>,
    /// The size added per rank: a trigger subtracts what is removed.
    added: BTreeMap<Rank, Size>,
    /// The accounts read so far.
    accounts: Accounts,
    /// The position of the newest event in the order of arrival.
    position: i64,
    /// Where to record changes, if the inventory is maintained.
    changes: Option<Changes>,
}

/// The statements that every insertion needs.
struct Each<'a> {
    find: CachedStatement<'a>,
    at_time: CachedStatement<'a>,
    add: CachedStatement<'a>,
}

impl<'a> Each<'a> {
    fn new(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        Ok(Self {
            find: transaction.prepare_cached(sql::FIND)?,
            at_time: transaction.prepare_cached(sql::AT_TIME)?,
            add: transaction.prepare_cached(sql::ADD)?,
        })
    }
}

/// The size charged to accounts, by kind and name of an [`Account`].
type Accounts = BTreeMap<u8, HashMap<String, Charged>>;

#[derive(Clone, Copy)]
struct Charged {
    size: Size,
    is_changed: bool,
}

impl<'a> SqliteShelf<'a> {
    pub(super) fn new(transaction: &'a Transaction<'a>) -> rusqlite::Result<Self> {
        Ok(Self {
            transaction,
            each: Each::new(transaction)?,
            sizes: sizes(transaction)?,
            added: BTreeMap::new(),
            accounts: Accounts::new(),
            position: position(transaction)?,
            changes: None,
        })
    }

    /// Records changes in `changes`.
    pub(super) fn recording(mut self, changes: Option<Changes>) -> Self {
        self.changes = changes;
        self
    }

    /// Stores totals, accounts and the position, once per transaction. Returns the recorded changes and the
    /// position.
    pub(super) fn finish(mut self) -> rusqlite::Result<(Option<Changes>, i64)> {
        let mut statement = self.transaction.prepare_cached(sql::ADD_TO_TOTAL)?;
        for (rank, size) in &self.added {
            statement.execute((rank.0, count(size.events), count(size.bytes)))?;
        }
        self.store_accounts()?;
        if !self.added.is_empty() {
            self.transaction
                .prepare_cached(sql::MOVE_POSITION)?
                .execute([self.position])?;
        }
        Ok((self.changes, self.position))
    }

    /// Writes the changed accounts to the database.
    fn store_accounts(&mut self) -> rusqlite::Result<()> {
        let mut store = self.transaction.prepare_cached(sql::STORE_ACCOUNT)?;
        let mut remove = self.transaction.prepare_cached(sql::REMOVE_ACCOUNT)?;
        for (kind, accounts) in &mut self.accounts {
            for (name, charged) in accounts.iter_mut().filter(|(_, charged)| charged.is_changed) {
                charged.is_changed = false;
                let Size { events, bytes } = charged.size;
                if events == 0 {
                    remove.execute((kind, name))?;
                } else {
                    store.execute((kind, name, count(events), count(bytes)))?;
                }
            }
        }
        Ok(())
    }

    /// Changes the size charged to an account.
    fn charge(&mut self, account: Account<'_>, change: impl FnOnce(Size) -> Size) -> rusqlite::Result<()> {
        let charged = self.account(account)?;
        charged.size = change(charged.size);
        charged.is_changed = true;
        Ok(())
    }

    /// Returns an account, reading it on first use.
    fn account(&mut self, account: Account<'_>) -> rusqlite::Result<&mut Charged> {
        let (kind, name) = (account.kind(), account.name());
        let known = self.accounts.entry(kind).or_default();
        if !known.contains_key(name) {
            let mut statement = self.transaction.prepare_cached(sql::ACCOUNT)?;
            let stored = statement.query_row((kind, name), |row| {
                Ok(Size {
                    events: unsigned(row, 0)?,
                    bytes: unsigned(row, 1)?,
                })
            });
            let charged = Charged {
                size: stored.optional()?.unwrap_or_default(),
                is_changed: false,
            };
            known.insert(name.to_owned(), charged);
        }
        Ok(known.get_mut(name).expect("inserted above if missing"))
    }

    /// Returns whether an event with this time exists, and marks it as tied if it was alone.
    fn tie_at(&mut self, ts: UnixNanos) -> rusqlite::Result<bool> {
        let found = self.each.at_time.query_row([ts.get()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
        });
        let Some((seq, is_alone)) = found.optional()? else {
            return Ok(false);
        };
        if is_alone {
            self.transaction.prepare_cached(sql::TIE)?.execute([seq])?;
        }
        Ok(true)
    }

    fn exists(&self, sql: &str, params: impl Params) -> rusqlite::Result<bool> {
        self.transaction.prepare_cached(sql)?.exists(params)
    }

    fn places(&self, sql: &str, params: impl Params) -> rusqlite::Result<Vec<Place>> {
        self.transaction
            .prepare_cached(sql)?
            .query_map(params, place)?
            .collect()
    }

    fn first(&self, sql: &str, params: impl Params) -> rusqlite::Result<Option<Held>> {
        self.transaction
            .prepare_cached(sql)?
            .query_row(params, held)
            .optional()
    }
}

/// Converts a number to SQLite's integer type.
fn count(number: usize) -> i64 {
    sql_limit(number)
}

/// Reads the columns `seq, ts, id, rank`.
fn held(row: &Row<'_>) -> rusqlite::Result<Held> {
    Ok(Held {
        place: place(row)?,
        rank: Rank(row.get(3)?),
    })
}

impl Shelf for SqliteShelf<'_> {
    type Error = rusqlite::Error;

    fn find(&mut self, id: &str) -> rusqlite::Result<Option<Held>> {
        self.each.find.query_row([IdKey::new(id)], held).optional()
    }

    fn maker(&mut self, place: &Place) -> rusqlite::Result<Maker> {
        self.transaction
            .prepare_cached(sql::MAKER)?
            .query_row([place.seq], |row| {
                Ok(Maker {
                    account: account(row, 0)?,
                    emitter: emitter(row, 1)?.to_owned(),
                    actor: row.get(2)?,
                })
            })
    }

    fn voters(&mut self, place: &Place) -> rusqlite::Result<usize> {
        let mut statement = self.transaction.prepare_cached(sql::VOTERS)?;
        let voters = statement.query_row([place.seq], |row| row.get::<_, Option<i64>>(0))?;
        Ok(voters
            .and_then(|voters| usize::try_from(voters).ok())
            .unwrap_or(0))
    }

    fn add(&mut self, new: NewEvent<'_>) -> rusqlite::Result<i64> {
        let event = &new.event;
        let importance = match event.observation.as_deref() {
            Some(payload) if event.service() == Some(Service::Observation) => payload.importance,
            _ => 0,
        };
        let verified = new.rank.is_verified();
        let origin = new.origin.map(NaraName::as_str);
        let row = EventRow {
            seq: self.position + 1,
            id: &IdKey::new(&event.id),
            ts: event.ts.get(),
            is_tied: self.tie_at(event.ts)?,
            svc: &ServiceKey::new(&event.svc),
            emitter: &event.emitter,
            actor: event.actor(),
            target: event.target(),
            importance,
            critical: verified && is_critical(event),
            priority: new.priority as u8,
            rank: new.rank.0,
            account: new.account.as_deref(),
            origin,
            received: (!verified).then(|| new.now.get()),
            bytes: new.json.len(),
            sig: &event.sig,
            json: &without_columns(event, &new.json),
        };
        row.store(&mut self.each.add)?;
        self.position += 1;
        let one = Size::one(new.json.len());
        for sizes in [&mut self.sizes, &mut self.added] {
            let size = sizes.entry(new.rank).or_default();
            *size = size.plus(one);
        }
        let accounts = Account::of(new.rank, new.account.as_deref(), origin, &event.emitter);
        for account in accounts.into_iter().flatten() {
            self.charge(account, |size| size.plus(one))?;
        }
        if verified && let Some(changes) = &mut self.changes {
            changes.added(event.ts, &event.id, event.service());
        }
        Ok(self.position)
    }

    fn remove(&mut self, place: &Place) -> rusqlite::Result<()> {
        let mut statement = self.transaction.prepare_cached(sql::REMOVE)?;
        let removed = statement.query_row([place.seq], |row| {
            Ok((
                Rank(row.get(0)?),
                account(row, 1)?,
                emitter(row, 2)?.to_owned(),
                row.get::<_, Option<String>>(4)?,
                Size::one(unsigned(row, 5)?),
            ))
        });
        let (rank, account, emitter, origin, one) = removed?;
        let size = self.sizes.entry(rank).or_default();
        *size = *size - one;
        for account in Account::of(rank, account.as_deref(), origin.as_deref(), &emitter)
            .into_iter()
            .flatten()
        {
            self.charge(account, |size| size - one)?;
        }
        if rank.is_verified()
            && let Some(changes) = &mut self.changes
        {
            changes.removed(place.ts, &place.id);
        }
        Ok(())
    }

    fn rerank(&mut self, rung: &Rung, rank: Rank) -> rusqlite::Result<()> {
        let before = rung.held.rank;
        self.transaction
            .prepare_cached(sql::RERANK)?
            .execute((rung.held.place.seq, rank.0))?;
        let one = Size::one(rung.bytes);
        let size = self.sizes.entry(before).or_default();
        *size = *size - one;
        let size = self.sizes.entry(rank).or_default();
        *size = size.plus(one);
        let mut statement = self.transaction.prepare_cached(sql::ADD_TO_TOTAL)?;
        statement.execute((before.0, -1, -count(rung.bytes)))?;
        statement.execute((rank.0, 1, count(rung.bytes)))?;
        Ok(())
    }

    fn size(&self, ranks: impl Fn(Rank) -> bool) -> Size {
        let sizes = self.sizes.iter().filter(|(rank, _)| ranks(**rank));
        sizes.fold(Size::default(), |sum, (_, size)| sum.plus(*size))
    }

    fn charged(&mut self, account: Account<'_>) -> rusqlite::Result<Size> {
        Ok(self.account(account)?.size)
    }

    fn accounts_over(&mut self, kind: u8, quota: Size) -> rusqlite::Result<BTreeMap<String, Size>> {
        self.store_accounts()?;
        self.transaction
            .prepare_cached(sql::ACCOUNTS_OVER)?
            .query_map((kind, count(quota.events), count(quota.bytes)), |row| {
                let size = Size {
                    events: unsigned(row, 1)?,
                    bytes: unsigned(row, 2)?,
                };
                Ok((row.get(0)?, size))
            })?
            .collect()
    }

    fn ladder(&mut self, after: LadderPlace, below: Rank, limit: usize) -> rusqlite::Result<Vec<Rung>> {
        let (rank, ts, seq) = after;
        let params = (rank.0, ts.get(), seq, below.0, sql_limit(limit));
        self.transaction
            .prepare_cached(sql::LADDER)?
            .query_map(params, |row| {
                Ok(Rung {
                    held: held(row)?,
                    account: account(row, 4)?,
                    bytes: unsigned(row, 8)?,
                    priority: priority(row.get(9)?),
                    actor: row.get(6)?,
                    target: row.get(10)?,
                })
            })?
            .collect()
    }

    fn pings(&mut self, target: &str, limit: usize) -> rusqlite::Result<Vec<HeldPing>> {
        self.transaction
            .prepare_cached(sql::PINGS)?
            .query_map((target, sql_limit(limit)), |row| {
                Ok(HeldPing {
                    held: held(row)?,
                    observer: row.get(6)?,
                    account: account(row, 4)?,
                })
            })?
            .collect()
    }

    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> rusqlite::Result<usize> {
        self.transaction
            .prepare_cached(sql::COUNT_OBSERVATIONS)?
            .query_row((pair.0, pair.1, sql_limit(limit)), |row| unsigned(row, 0))
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
        Ok(oldest.into_iter().min_by_key(|place| (place.ts, place.seq)))
    }

    fn has_checkpoint(&mut self, subject: &str) -> rusqlite::Result<bool> {
        self.exists(sql::HAS_CHECKPOINT, [subject])
    }

    fn first_unverified(&mut self, account: Option<Account<'_>>) -> rusqlite::Result<Option<Held>> {
        match account {
            Some(Account::Teller(name)) => self.first(sql::FIRST_UNVERIFIED_TOLD_BY, [name]),
            Some(Account::Emitter(name)) => self.first(sql::FIRST_UNVERIFIED_OF, [name]),
            Some(_) => Ok(None),
            None => self.first(sql::FIRST_UNVERIFIED, []),
        }
    }

    fn unverified_before(&mut self, time: UnixNanos, limit: usize) -> rusqlite::Result<Vec<Place>> {
        self.places(sql::UNVERIFIED_BEFORE, (time.get(), sql_limit(limit)))
    }
}

/// Returns the priority with this number.
fn priority(number: u8) -> Priority {
    match number {
        0 => Priority::Ping,
        1 => Priority::Seen,
        2 => Priority::Social,
        4 => Priority::FirstSeen,
        5 => Priority::Checkpoint,
        6 => Priority::Restart,
        _ => Priority::Presence,
    }
}
