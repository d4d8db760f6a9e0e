//! What reading and writing both need.

use nara_proto::time::UnixNanos;
use rusqlite::{Row, Transaction};

use super::sql;
use crate::ledger::admission::Place;

/// Reads the columns `seq, ts, id`.
pub(super) fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        seq: row.get(0)?,
        ts: UnixNanos::new(row.get(1)?),
        id: row.get_ref(2)?.as_str()?.into(),
    })
}

/// The place of the newest event in the order of arrival, stored or not.
pub(super) fn position(snapshot: &Transaction<'_>) -> rusqlite::Result<i64> {
    snapshot
        .prepare_cached(sql::POSITION)?
        .query_row([], |row| row.get(0))
}

/// How many events of each priority are stored.
pub(super) fn totals(snapshot: &Transaction<'_>) -> rusqlite::Result<Vec<(i64, usize)>> {
    snapshot
        .prepare_cached(sql::TOTALS)?
        .query_map([], |row| {
            Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0)))
        })?
        .collect()
}

/// A limit as SQLite takes it.
pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
