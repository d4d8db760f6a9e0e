use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use rusqlite::{Connection, Row, TransactionBehavior};

use super::convert::{self, Converted};
use super::failure::Failure;
use crate::ledger::LedgerError;

/// The application id that marks a file as a ledger: "nara".
const APPLICATION_ID: i64 = 0x6e61_7261;

/// The migrations from each version of the schema to the next. Append only: a released migration never changes.
const MIGRATIONS: [Migration; 6] = [
    Migration::Statements(EVENTS),
    Migration::Statements(PEERS),
    Migration::Statements(TRUST),
    Migration::Statements(AWAITED_KEYS),
    Migration::Events {
        before: COLUMNS,
        after: INDEXES,
    },
    Migration::Statements(CONFIGURED),
];

enum Migration {
    Statements(&'static str),
    /// Rewrites every event, from the table `old_events` to the table `events`.
    Events {
        before: &'static str,
        after: &'static str,
    },
}

impl Migration {
    fn apply(&self, transaction: &Connection, converted: &Converted) -> Result<(), Failure> {
        match self {
            Self::Statements(statements) => transaction.execute_batch(statements)?,
            Self::Events { before, after } => {
                transaction.execute_batch(before)?;
                convert::events(transaction, converted)?;
                transaction.execute_batch(after)?;
            }
        }
        Ok(())
    }
}

/// Version 1.
const EVENTS: &str = "
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY, -- order of arrival; never used again (see feed)
    id         TEXT    NOT NULL UNIQUE,
    ts         INTEGER NOT NULL,    -- ns
    svc        TEXT    NOT NULL,
    emitter    TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    importance INTEGER NOT NULL,    -- of an observation, else 0
    critical   INTEGER NOT NULL,    -- every sample has it
    priority   INTEGER NOT NULL,    -- the lowest are pruned first
    stranger   INTEGER NOT NULL,    -- about an unknown nara when it was last looked at
    json       TEXT    NOT NULL,
    origin     TEXT                 -- the peer that told it
) STRICT;
CREATE INDEX events_by_time     ON events (ts, id);
CREATE INDEX events_by_service  ON events (svc, ts, id);
CREATE INDEX events_by_actor    ON events (actor, svc, ts, id);
CREATE INDEX events_by_target   ON events (target, svc, ts, id);
CREATE INDEX events_by_pair     ON events (actor, target, priority, ts, id) WHERE svc = 'observation';
-- Priorities 0 to 2 are services of their own.
CREATE INDEX events_presence    ON events (ts, id) WHERE priority = 3;
CREATE INDEX events_strangers   ON events (ts, id) WHERE stranger = 1;
CREATE INDEX events_checkpoints ON events (priority) WHERE priority = 5;

-- How many events there are, so that nobody has to count them. A trigger for what is added would make each
-- insertion a statement that may have to be undone half-way, which takes a third longer.
CREATE TABLE totals (priority INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
INSERT INTO totals VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0);
CREATE TRIGGER events_removed AFTER DELETE ON events
    BEGIN UPDATE totals SET n = n - 1 WHERE priority = old.priority; END;

CREATE TABLE keys (
    name       TEXT    PRIMARY KEY,
    id         TEXT,                -- nara id, if known
    key        TEXT    NOT NULL,    -- base64
    source     TEXT    NOT NULL,    -- how it was learned
    learned_at INTEGER NOT NULL     -- ms
) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
    peer TEXT    PRIMARY KEY,
    ts   INTEGER NOT NULL,
    id   TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE arrival_cursors (
    peer  TEXT    PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE rejected (
    seq  INTEGER PRIMARY KEY,
    peer TEXT NOT NULL,
    item BLOB NOT NULL,
    UNIQUE (peer, item)
) STRICT;

-- Names this ledger: places in the order of arrival mean nothing in another.
CREATE TABLE feed (
    epoch    INTEGER NOT NULL,
    position INTEGER NOT NULL  -- the place of the newest event, stored or not
) STRICT;
INSERT INTO feed VALUES (random(), 0);
";

/// Version 2: stores records of peers instead of keys only.
const PEERS: &str = "
CREATE TABLE peers (
    name           TEXT    PRIMARY KEY,
    id             TEXT,                       -- nara id, if known
    key            TEXT,                       -- base64, if known
    source         TEXT,                       -- how and from where the key was learned
    learned_at     INTEGER,                    -- when, ms
    v2             INTEGER NOT NULL DEFAULT 0, -- what the holder of the key has proven
    tls            INTEGER NOT NULL DEFAULT 0,
    raw_public_key INTEGER NOT NULL DEFAULT 0,
    verdict        TEXT,                       -- what the operator last decided
    decided_at     INTEGER                     -- when, ms
) STRICT, WITHOUT ROWID;
INSERT INTO peers (name, id, key, source, learned_at) SELECT name, id, key, source, learned_at FROM keys;
DROP TABLE keys;
";

/// Version 3: records for each event whether it was verified, and the account it is charged to.
///
/// Earlier versions did not record verification. Signed events count as verified; unsigned ones as unverified and
/// received now, so that they expire.
const TRUST: &str = "
DROP TRIGGER events_removed;
DROP TABLE totals;
DROP INDEX events_by_service;
DROP INDEX events_by_pair;
DROP INDEX events_presence;
DROP INDEX events_strangers;
DROP INDEX events_checkpoints;
ALTER TABLE events ADD COLUMN rank     INTEGER NOT NULL DEFAULT 0; -- the lowest leave first; 0 and 1: unverified
ALTER TABLE events ADD COLUMN account  TEXT;                       -- who is charged, of verified events
ALTER TABLE events ADD COLUMN received INTEGER;                    -- when it arrived, of unverified events, ns
UPDATE events SET rank = CASE WHEN stranger THEN 2 ELSE 3 + priority END, account = nullif(emitter, '')
    WHERE coalesce(json_extract(json, '$.sig'), '') <> ''
       OR coalesce(json_array_length(json, '$.checkpoint.signatures'), 0) > 0;
UPDATE events SET account = origin WHERE rank > 1 AND account IS NULL;
UPDATE events SET received = unixepoch() * 1000000000, critical = 0 WHERE rank = 0;
ALTER TABLE events DROP COLUMN stranger;
-- Whether the nara itself was ever heard of, not only what others say about it.
ALTER TABLE peers ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
UPDATE peers SET seen = 1 WHERE v2 OR tls OR source LIKE 'ping %' OR source LIKE 'tls %';
-- Which file this is, and how often it was opened by a daemon: a copy needs an epoch of its own.
ALTER TABLE feed ADD COLUMN file  TEXT;
ALTER TABLE feed ADD COLUMN opens INTEGER NOT NULL DEFAULT 0;
CREATE INDEX events_by_service            ON events (svc, ts, id, rank);
CREATE INDEX events_by_rank               ON events (rank, ts);
CREATE INDEX events_by_pair               ON events (actor, target, priority, ts)
    WHERE svc = 'observation' AND rank > 1;
CREATE INDEX events_pings                 ON events (target, rank, ts)       WHERE priority = 0 AND rank > 1;
CREATE INDEX events_checkpoints           ON events (priority)               WHERE priority = 5 AND rank > 1;
CREATE INDEX events_checkpoints_about     ON events (target)                 WHERE priority = 5 AND rank > 1;
CREATE INDEX events_unverified            ON events (rank)                   WHERE rank < 2;
CREATE INDEX events_unverified_by_teller  ON events (coalesce(origin, ''), rank) WHERE rank < 2;
CREATE INDEX events_unverified_by_emitter ON events (emitter, rank)          WHERE rank < 2;
CREATE INDEX events_received              ON events (received)               WHERE received IS NOT NULL;

-- How much there is of each rank, so that nobody has to count it. What is added is counted by the program: a trigger
-- would make each insertion a statement that may have to be undone half-way, which takes a third longer.
CREATE TABLE totals (rank INTEGER PRIMARY KEY, n INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
INSERT INTO totals SELECT rank, count(*), sum(octet_length(json)) FROM events GROUP BY rank;
INSERT OR IGNORE INTO totals WITH RECURSIVE ranks (rank) AS (SELECT 0 UNION ALL SELECT rank + 1 FROM ranks WHERE rank < 16)
    SELECT rank, 0, 0 FROM ranks;
CREATE TRIGGER events_removed AFTER DELETE ON events
    BEGIN UPDATE totals SET n = n - 1, bytes = bytes - octet_length(old.json) WHERE rank = old.rank; END;

-- How much is charged to whom; kinds: 0 verified, 1 unverified by teller, 2 unverified by claimed emitter.
CREATE TABLE accounts (
    kind  INTEGER NOT NULL,
    name  TEXT    NOT NULL,
    n     INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
INSERT INTO accounts SELECT 0, account, count(*), sum(octet_length(json)) FROM events
    WHERE rank > 1 AND account IS NOT NULL GROUP BY account;
INSERT INTO accounts SELECT 1, coalesce(origin, ''), count(*), sum(octet_length(json)) FROM events
    WHERE rank < 2 GROUP BY coalesce(origin, '');
INSERT INTO accounts SELECT 2, emitter, count(*), sum(octet_length(json)) FROM events WHERE rank < 2 GROUP BY emitter;
";

/// Version 4: records for each rejection which key would change it. Older rejections lack this, so they are
/// dropped and their events fetched once more.
const AWAITED_KEYS: &str = "
DELETE FROM rejected;
ALTER TABLE rejected ADD COLUMN awaits TEXT; -- a name, or '' for any voter of a checkpoint
CREATE INDEX rejected_awaiting ON rejected (awaits) WHERE awaits IS NOT NULL;
";

/// Version 5: stores envelope fields in columns, binary ones as bytes. Indexes end with the time, and include the
/// id only of events that share their time.
///
/// The time index of the old table is needed until the end.
const COLUMNS: &str = "
DROP TRIGGER events_removed;
ALTER TABLE events RENAME TO old_events;
DROP INDEX events_by_service;
DROP INDEX events_by_actor;
DROP INDEX events_by_target;
DROP INDEX events_by_rank;
DROP INDEX events_by_pair;
DROP INDEX events_pings;
DROP INDEX events_checkpoints;
DROP INDEX events_checkpoints_about;
DROP INDEX events_unverified;
DROP INDEX events_unverified_by_teller;
DROP INDEX events_unverified_by_emitter;
DROP INDEX events_received;
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY, -- order of arrival; never used again (see feed)
    id         BLOB    NOT NULL,    -- the hash, or a text that is none
    ts         INTEGER NOT NULL,    -- ns
    tie        BLOB    NOT NULL,    -- the id if others have this time; empty: the only one
    svc        ANY     NOT NULL,    -- 1 chau, 2 checkpoint, 3 hey-there, 4 observation, 5 ping, 6 seen, 7 social,
                                    -- 8 succession, or the name of another
    emitter    TEXT,                -- NULL: the actor
    actor      TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    importance INTEGER NOT NULL,    -- of an observation, else 0
    critical   INTEGER NOT NULL,    -- every sample has it
    priority   INTEGER NOT NULL,
    rank       INTEGER NOT NULL,    -- the lowest leave first; 0 and 1: unverified
    account    ANY,                 -- who is charged, of verified events: 1 the emitter, 2 the teller, or a name
    origin     TEXT,                -- the peer that told it
    received   INTEGER,             -- when it arrived, of unverified events, ns
    bytes      INTEGER NOT NULL,    -- of the whole event as JSON
    sig        ANY,                 -- the bytes, or a text that is no signature
    json       TEXT    NOT NULL     -- what has no column
) STRICT;
";

const INDEXES: &str = "
DROP TABLE old_events;
CREATE UNIQUE INDEX events_by_id          ON events (id);
CREATE INDEX events_by_time               ON events (ts, tie);
CREATE INDEX events_by_service            ON events (svc, ts, tie);
CREATE INDEX events_by_actor              ON events (actor, svc, ts, tie);
CREATE INDEX events_by_target             ON events (target, svc, ts, tie) WHERE target <> actor;
CREATE INDEX events_by_rank               ON events (rank, ts);
CREATE INDEX events_by_pair               ON events (actor, target, priority, ts) WHERE svc = 4 AND rank > 1;
CREATE INDEX events_pings                 ON events (target, rank, ts)       WHERE priority = 0 AND rank > 1;
CREATE INDEX events_checkpoints           ON events (priority)               WHERE priority = 5 AND rank > 1;
CREATE INDEX events_checkpoints_about     ON events (target)                 WHERE priority = 5 AND rank > 1;
CREATE INDEX events_unverified            ON events (rank)                   WHERE rank < 2;
CREATE INDEX events_unverified_by_teller  ON events (coalesce(origin, ''), rank) WHERE rank < 2;
CREATE INDEX events_unverified_by_emitter ON events (coalesce(emitter, actor), rank) WHERE rank < 2;
CREATE INDEX events_received              ON events (received)               WHERE received IS NOT NULL;
CREATE TRIGGER events_removed AFTER DELETE ON events
    BEGIN UPDATE totals SET n = n - 1, bytes = bytes - old.bytes WHERE rank = old.rank; END;

-- For whoever looks into the database.
CREATE VIEW readable AS SELECT
    seq, lower(hex(id)) AS id, ts,
    CASE svc WHEN 1 THEN 'chau' WHEN 2 THEN 'checkpoint' WHEN 3 THEN 'hey-there' WHEN 4 THEN 'observation'
             WHEN 5 THEN 'ping' WHEN 6 THEN 'seen' WHEN 7 THEN 'social' WHEN 8 THEN 'succession' ELSE svc END AS svc,
    coalesce(emitter, actor) AS emitter, actor, target, rank > 1 AS verified, origin, json
FROM events;
";

/// Version 6: adds accounts of kind 3 for this nara and configured peers. Statements sent by the nara they are
/// about get rank 17, and accounts of kind 4.
const CONFIGURED: &str = "
CREATE TEMP VIEW charged AS SELECT
    seq, rank, svc, actor, bytes,
    CASE WHEN account IS NULL THEN NULL
         WHEN typeof(account) <> 'integer' THEN account
         WHEN account = 1 THEN coalesce(emitter, actor) ELSE origin END AS name
FROM main.events;
UPDATE events SET rank = 17 WHERE seq IN (SELECT seq FROM charged WHERE svc = 8 AND rank > 1 AND name = actor);
DELETE FROM accounts WHERE kind = 0;
INSERT INTO accounts SELECT CASE WHEN rank = 17 THEN 4 WHEN rank > 9 THEN 3 ELSE 0 END AS kind, name, count(*), sum(bytes)
    FROM charged WHERE rank > 1 AND name IS NOT NULL GROUP BY 1, 2;
DROP VIEW charged;
INSERT INTO totals VALUES (17, 0, 0);
UPDATE totals SET n     = (SELECT count(*) FROM events WHERE events.rank = totals.rank),
                  bytes = (SELECT coalesce(sum(bytes), 0) FROM events WHERE events.rank = totals.rank)
    WHERE rank IN (9, 16, 17);
";

/// Migrates the database to the newest schema.
///
/// The version is read inside the transaction that changes it, so that two programs may open a new ledger at
/// once. If it fails or is cancelled, the ledger is unchanged.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    converted: &Converted,
) -> Result<(), Failure> {
    let known = MIGRATIONS.len() as i64;
    if version(connection)? == known && application_id(connection)? == APPLICATION_ID {
        return refuse_foreign_code(&objects(connection)?, known);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    let objects = objects(&transaction)?;
    if !objects.is_empty() && application_id(&transaction)? != APPLICATION_ID {
        return Err(LedgerError::Foreign {
            path: path.to_owned(),
        }
        .into());
    }
    let Some(missing) = usize::try_from(found)
        .ok()
        .and_then(|done| MIGRATIONS.get(done..))
    else {
        return Err(LedgerError::NewerSchema { found, known }.into());
    };
    refuse_foreign_code(&objects, found)?;
    if found > 0 && !missing.is_empty() {
        let events: i64 = transaction.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?;
        converted.begin(events.unsigned_abs());
        tracing::info!(path = %path.display(), events, "converting the ledger to a newer schema");
    }
    for migration in missing {
        migration.apply(&transaction, converted)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    convert::give_back(connection, path);
    Ok(())
}

/// Refuses another program's database.
pub(super) fn check_foreign(connection: &Connection, path: &Path) -> Result<(), Failure> {
    if application_id(connection)? == APPLICATION_ID {
        return Ok(());
    }
    Err(LedgerError::Foreign {
        path: path.to_owned(),
    }
    .into())
}

/// Refuses a database whose schema this version cannot read.
pub(super) fn check_readable(connection: &Connection, path: &Path) -> Result<(), Failure> {
    check_foreign(connection, path)?;
    let (found, known) = (version(connection)?, MIGRATIONS.len() as i64);
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(LedgerError::OlderSchema { found, known }.into()),
        Ordering::Greater => Err(LedgerError::NewerSchema { found, known }.into()),
    }
}

/// A table, an index, a trigger or a view.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Object {
    kind: String,
    name: String,
    /// The SQL of a trigger or a view, which runs with the statements of this program.
    code: Option<String>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} {:?}", self.kind, self.name)
    }
}

/// Returns the objects of the database, except SQLite's internal ones.
fn objects(connection: &Connection) -> rusqlite::Result<HashSet<Object>> {
    let mut statement = connection.prepare(
        "SELECT type, name, iif(type IN ('trigger', 'view'), sql, NULL) FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let object = |row: &Row<'_>| {
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            code: row.get(2)?,
        })
    };
    statement.query_map([], object)?.collect()
}

/// Returns the objects of a schema version.
fn objects_of(version: i64) -> Result<HashSet<Object>, Failure> {
    let model = Connection::open_in_memory()?;
    let done = usize::try_from(version).unwrap_or(0);
    for migration in MIGRATIONS.iter().take(done) {
        migration.apply(&model, &Converted::default())?;
    }
    Ok(objects(&model)?)
}

/// Refuses triggers and views that are not part of the schema.
fn refuse_foreign_code(found: &HashSet<Object>, version: i64) -> Result<(), Failure> {
    let ours = objects_of(version)?;
    match found
        .iter()
        .find(|object| object.code.is_some() && !ours.contains(object))
    {
        Some(object) => Err(LedgerError::Altered {
            object: object.to_string(),
        }
        .into()),
        None => Ok(()),
    }
}

/// Returns how the objects of a ledger differ from its schema.
pub(super) fn differences(connection: &Connection) -> Result<Vec<String>, Failure> {
    let (found, ours) = (objects(connection)?, objects_of(version(connection)?)?);
    let foreign = found
        .difference(&ours)
        .map(|object| format!("{object} was not created by this program: drop it"));
    let missing = ours
        .difference(&found)
        .map(|object| format!("{object} is missing, or was changed"));
    let mut differences: Vec<_> = foreign.chain(missing).collect();
    differences.sort();
    Ok(differences)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn application_id(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

/// Creates a database as the first `version` versions did.
#[cfg(test)]
pub(super) fn make_version(path: &Path, version: usize) -> Connection {
    let connection = Connection::open(path).unwrap();
    for migration in &MIGRATIONS[..version] {
        migration.apply(&connection, &Converted::default()).unwrap();
    }
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    connection
        .pragma_update(None, "user_version", version as i64)
        .unwrap();
    connection
}

/// Creates a database as the first version did, with the key of bob.
#[cfg(test)]
pub(super) fn make_version_1(path: &Path, key: &str) {
    let connection = make_version(path, 1);
    connection
        .execute(
            "INSERT INTO keys VALUES ('bob', NULL, ?1, 'ping 100.64.0.7:9632', 5)",
            [key],
        )
        .unwrap();
}
