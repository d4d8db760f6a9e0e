//! Checks a ledger for damage and reports its content.

use rusqlite::{Row, Transaction};

use super::backup::damage;
use super::columns::{ServiceKey, event};
use super::failure::Failure;
use super::rows::{self, sql_limit, unsigned};
use super::sql;
use crate::ledger::{EventSize, MAX_GROUPS, sort_groups};

/// Maximum number of reported findings.
const MAX_FINDINGS: usize = 100;

/// The content of a ledger, and its damage if any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerCheck {
    /// The damage found; empty if there is none.
    pub damage: Vec<String>,
    /// The version of the schema.
    pub schema: i64,
    /// All events.
    pub events: EventSize,
    /// The unverified events among them.
    pub unverified: EventSize,
    /// Size of the database in bytes.
    pub file_bytes: u64,
    /// The events of each service, the largest first.
    pub services: Vec<(String, EventSize)>,
    /// The events per sending peer, largest first; an empty name stands for events without a sender.
    pub tellers: Vec<(String, EventSize)>,
    /// Number of peer records.
    pub peers: usize,
}

pub(super) fn check(snapshot: &Transaction<'_>) -> Result<LedgerCheck, Failure> {
    let number = |sql: &str| snapshot.query_row(sql, [], |row| row.get::<_, i64>(0));
    let mut check = LedgerCheck {
        damage: damage(snapshot, MAX_FINDINGS)?,
        schema: number("PRAGMA user_version")?,
        file_bytes: u64::try_from(number("PRAGMA page_count")? * number("PRAGMA page_size")?).unwrap_or(0),
        services: services(snapshot)?,
        tellers: groups(snapshot, "coalesce(origin, '')", |row| row.get(0))?,
        peers: usize::try_from(number(sql::COUNT_PEERS)?).unwrap_or(0),
        ..LedgerCheck::default()
    };
    changed_events(snapshot, &mut check.damage)?;
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

/// Finds events that cannot be read, or whose id does not match their content because the file was edited.
fn changed_events(snapshot: &Transaction<'_>, damage: &mut Vec<String>) -> Result<(), Failure> {
    let mut statement = snapshot.prepare(sql::EVENTS)?;
    let mut rows = statement.query([])?;
    while damage.len() < MAX_FINDINGS
        && let Some(row) = rows.next()?
    {
        match event(row) {
            // Only a newer version knows the fields of an unknown service.
            Ok(event) if event.service().is_none() || event.has_genuine_id() => {}
            Ok(event) => damage.push(format!(
                "event {:?} was changed: its id does not match its content",
                event.id
            )),
            Err(Failure::Ledger(error)) => damage.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// See [`EventStore::services`](crate::ledger::EventStore::services).
pub(super) fn services(snapshot: &Transaction<'_>) -> rusqlite::Result<Vec<(String, EventSize)>> {
    groups(snapshot, "svc", |row| {
        Ok(row.get::<_, ServiceKey>(0)?.name().to_owned())
    })
}

fn groups(
    snapshot: &Transaction<'_>,
    group: &str,
    name: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> rusqlite::Result<Vec<(String, EventSize)>> {
    let mut statement = snapshot.prepare(&format!(
        "SELECT {group}, count(*), sum(bytes) AS bytes FROM events GROUP BY 1 ORDER BY bytes DESC LIMIT ?1"
    ))?;
    let found = statement.query_map([sql_limit(MAX_GROUPS)], |row| {
        let size = EventSize {
            events: unsigned(row, 1)?,
            bytes: unsigned(row, 2)?,
        };
        Ok((name(row)?, size))
    })?;
    let mut groups: Vec<_> = found.collect::<Result<_, _>>()?;
    sort_groups(&mut groups);
    Ok(groups)
}
