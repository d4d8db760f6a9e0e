use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::failure::Failure;
use crate::ledger::LedgerError;

/// Marks a file as a ledger: "nara".
const APPLICATION_ID: i64 = 0x6e61_7261;

/// What leads from each version of the schema to the next; never changed once released, only added to.
const MIGRATIONS: [&str; 2] = [EVENTS, PEERS];

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

/// Version 2: of naras, not only keys are remembered.
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

/// Brings the database to the newest version of the schema.
///
/// The version is read inside the transaction that changes it, so that two programs may open a new ledger at
/// once.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Failure> {
    let known = MIGRATIONS.len() as i64;
    if version(connection)? == known && application_id(connection)? == APPLICATION_ID {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application_id(&transaction)? != APPLICATION_ID {
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
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn application_id(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

/// A database as the first version made it, with the key of bob.
#[cfg(test)]
pub(super) fn make_version_1(path: &Path, key: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(EVENTS).unwrap();
    connection
        .execute(
            "INSERT INTO keys VALUES ('bob', NULL, ?1, 'ping 100.64.0.7:9632', 5)",
            [key],
        )
        .unwrap();
    connection
        .pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
}
