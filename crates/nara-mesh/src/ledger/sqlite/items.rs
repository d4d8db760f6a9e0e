use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nara_proto::reconcile::{ItemId, ItemSet};
use nara_proto::time::UnixNanos;
use rusqlite::Transaction;

use super::columns::{IdText, ServiceKey};
use super::sql;
use crate::ledger::inventory::{Changes, Inventory};
use crate::ledger::rejections::MAX_REJECTIONS;

/// The inventory of a database. Used by the writer only: within its transactions and right after their commit.
///
/// Other processes may write to the same file. SQLite counts their commits, and the inventory is rebuilt when the
/// count changes.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedInventory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    inventory: Inventory,
    foreign_commits: i64,
}

impl SharedInventory {
    /// Returns where a transaction records its changes, if the inventory is maintained.
    pub(super) fn recorder(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Option<Changes>> {
        let mut state = self.lock();
        if !state.inventory.is_kept() {
            return Ok(None);
        }
        if foreign_commits(transaction)? != state.foreign_commits {
            state.inventory.forget();
            return Ok(None);
        }
        Ok(Some(Changes::default()))
    }

    /// Applies the changes of a committed transaction.
    pub(super) fn apply(&self, changes: Option<Changes>) {
        if let Some(changes) = changes {
            self.lock().inventory.apply(changes);
        }
    }

    /// Returns the items of the database as this transaction of the writer sees it.
    pub(super) fn current(&self, transaction: &Transaction<'_>) -> rusqlite::Result<ItemSet> {
        let mut state = self.lock();
        let foreign_commits = foreign_commits(transaction)?;
        if foreign_commits == state.foreign_commits
            && let Some(set) = state.inventory.current()
        {
            return Ok(set);
        }
        let set = load(transaction)?;
        state.foreign_commits = foreign_commits;
        Ok(state.inventory.keep(set))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut state = poisoned.into_inner();
            // The state may be inconsistent: rebuild it.
            state.inventory.forget();
            state
        })
    }
}

fn foreign_commits(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction
        .prepare_cached(sql::FOREIGN_COMMITS)?
        .query_row([], |row| row.get(0))
}

fn load(transaction: &Transaction<'_>) -> rusqlite::Result<ItemSet> {
    let mut statement = transaction.prepare_cached(sql::ITEMS)?;
    let mut rows = statement.query([])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        let IdText(id) = row.get(2)?;
        if let Some(item) = ItemId::of_event(&id) {
            let service: ServiceKey = row.get(0)?;
            items.push((UnixNanos::new(row.get(1)?), item, service.service()));
        }
    }
    Ok(ItemSet::new(items))
}

/// Records rejections, and drops the oldest beyond the limit.
pub(super) fn reject(
    transaction: &Transaction<'_>,
    peer: &str,
    rejected: &[(ItemId, Option<String>)],
) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(sql::REJECT)?;
    for (item, awaits) in rejected {
        statement.execute((peer, item.as_bytes(), awaits))?;
    }
    transaction
        .prepare_cached(sql::FORGET_REJECTIONS)?
        .execute([MAX_REJECTIONS as i64])?;
    Ok(())
}

/// Forgets the rejections that awaited these keys.
pub(super) fn forgive(transaction: &Transaction<'_>, learned: &[String]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(sql::FORGIVE)?;
    for name in learned {
        statement.execute([name])?;
    }
    Ok(())
}

/// Returns the rejected items.
pub(super) fn rejected(
    snapshot: &Transaction<'_>,
    peer: &str,
    items: Vec<ItemId>,
) -> rusqlite::Result<Vec<ItemId>> {
    let mut statement = snapshot.prepare_cached(sql::REJECTED)?;
    let mut rejected = Vec::new();
    for item in items {
        if statement.exists((peer, item.as_bytes()))? {
            rejected.push(item);
        }
    }
    Ok(rejected)
}
