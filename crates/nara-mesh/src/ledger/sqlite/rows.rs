//! Shared by reading and writing.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, Transaction};

use super::sql;
use crate::ledger::rank::Rank;
use crate::ledger::retention::Size;

/// Returns the position of the newest event in the order of arrival, stored or not.
pub(super) fn position(snapshot: &Transaction<'_>) -> rusqlite::Result<i64> {
    snapshot
        .prepare_cached(sql::POSITION)?
        .query_row([], |row| row.get(0))
}

/// Reads a number; 0 if it is negative.
pub(super) fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<usize> {
    Ok(usize::try_from(row.get::<_, i64>(index)?).unwrap_or(0))
}

/// Returns the total size per rank.
pub(super) fn sizes(snapshot: &Connection) -> rusqlite::Result<BTreeMap<Rank, Size>> {
    snapshot
        .prepare_cached(sql::TOTALS)?
        .query_map([], |row| {
            let size = Size {
                events: unsigned(row, 1)?,
                bytes: unsigned(row, 2)?,
            };
            Ok((Rank(row.get(0)?), size))
        })?
        .collect()
}

/// Converts a limit to SQLite's integer type.
pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
