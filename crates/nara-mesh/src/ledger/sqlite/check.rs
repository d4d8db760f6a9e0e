//! What a ledger holds, and whether it is sound.

use rusqlite::{Row, Transaction};

use super::backup::damage;
use super::columns::ServiceKey;
use super::failure::Failure;
use super::rows;

/// Findings that are reported at most.
const MAX_FINDINGS: usize = 100;

/// Groups of events that are reported at most, the largest.
const MAX_GROUPS: i64 = 1_000;

/// What a ledger holds, and whether it is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerCheck {
    /// What is damaged; empty: nothing.
    pub damage: Vec<String>,
    /// The version of the schema.
    pub schema: i64,
    /// All events.
    pub events: EventSize,
    /// The unverified events among them.
    pub unverified: EventSize,
    /// Bytes of the database.
    pub file_bytes: u64,
    /// The events of each service, the largest first.
    pub services: Vec<(String, EventSize)>,
    /// The events of each peer that told them, the largest first; an empty name: nobody told them.
    pub tellers: Vec<(String, EventSize)>,
    /// How many naras are remembered.
    pub peers: usize,
}

/// A number of events, and their bytes as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSize {
    /// Events.
    pub events: usize,
    /// Bytes.
    pub bytes: usize,
}

pub(super) fn check(snapshot: &Transaction<'_>) -> Result<LedgerCheck, Failure> {
    let number = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, i64>(0));
    let mut check = LedgerCheck {
        damage: damage(snapshot, MAX_FINDINGS)?,
        schema: number("PRAGMA user_version")?,
        file_bytes: u64::try_from(number("PRAGMA page_count")? * number("PRAGMA page_size")?).unwrap_or(0),
        services: groups(snapshot, "svc", |row| {
            Ok(row.get::<_, ServiceKey>(0)?.name().to_owned())
        })?,
        tellers: groups(snapshot, "coalesce(origin, '')", |row| row.get(0))?,
        peers: usize::try_from(number(super::sql::COUNT_PEERS)?).unwrap_or(0),
        ..LedgerCheck::default()
    };
    for (rank, size) in rows::sizes(snapshot)? {
        let mut sums = vec![&mut check.events];
        if !rank.is_verified() {
            sums.push(&mut check.unverified);
        }
        for sum in sums {
            sum.events += size.events;
            sum.bytes += size.bytes;
        }
    }
    Ok(check)
}

fn groups(
    snapshot: &Transaction<'_>,
    group: &str,
    name: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> rusqlite::Result<Vec<(String, EventSize)>> {
    let mut statement = snapshot.prepare(&format!(
        "SELECT {group}, count(*), sum(bytes) AS bytes FROM events GROUP BY 1 ORDER BY bytes DESC LIMIT ?1"
    ))?;
    let number = |number: i64| usize::try_from(number).unwrap_or(0);
    statement
        .query_map([MAX_GROUPS], |row| {
            let size = EventSize {
                events: number(row.get(1)?),
                bytes: number(row.get(2)?),
            };
            Ok((name(row)?, size))
        })?
        .collect()
}
