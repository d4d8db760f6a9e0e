use std::collections::BTreeMap;

use nara_proto::event::Service;
use nara_proto::reconcile::{Change, ItemId, ItemSet};
use nara_proto::time::UnixNanos;

/// Pending changes that are always kept until the set is requested.
const MIN_WAITING: usize = 4096;

/// The verified events of a ledger, in the order of reconciliation. Unverified events are left out: an
/// unverifiable copy must not hide that a peer has the verified event.
///
/// It is built on first use and kept up to date from then on.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    set: Option<ItemSet>,
    /// Changes since the set was built.
    waiting: Changes,
}

/// The last change of each event of a ledger.
///
/// Events whose ids are not well-formed are left out: no peer could request them.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<(UnixNanos, ItemId), Change>);

impl Changes {
    pub(super) fn added(&mut self, ts: UnixNanos, id: &str, service: Option<Service>) {
        if let Some(item) = ItemId::of_event(id) {
            self.0.insert((ts, item), Change::Added(service));
        }
    }

    pub(super) fn removed(&mut self, ts: UnixNanos, id: &str) {
        if let Some(item) = ItemId::of_event(id) {
            self.0.insert((ts, item), Change::Removed);
        }
    }
}

impl Inventory {
    /// Returns whether the set is maintained, so that changes must be recorded.
    pub(super) fn is_kept(&self) -> bool {
        self.set.is_some()
    }

    /// Returns where to record changes, if the set is maintained.
    pub(super) fn changes(&mut self) -> Option<&mut Changes> {
        self.set.as_ref()?;
        Some(&mut self.waiting)
    }

    /// Records changes. Applies them to the set once there are many, so that pending changes never outnumber the
    /// items.
    pub(super) fn apply(&mut self, changes: Changes) {
        if let Some(waiting) = self.changes() {
            waiting.0.extend(changes.0);
        }
        self.settle();
    }

    /// Applies the pending changes if there are many.
    pub(super) fn settle(&mut self) {
        let held = self.set.as_ref().map_or(0, ItemSet::len);
        if self.waiting.0.len() > MIN_WAITING + held / 4 {
            self.current();
        }
    }

    /// Returns the current set, if it is maintained.
    pub(super) fn current(&mut self) -> Option<ItemSet> {
        let set = self.set.as_mut()?;
        if !self.waiting.0.is_empty() {
            *set = set.with(&self.waiting.0);
            self.waiting.0.clear();
        }
        Some(set.clone())
    }

    /// Starts to maintain this set.
    pub(super) fn keep(&mut self, set: ItemSet) -> ItemSet {
        self.waiting.0.clear();
        self.set.insert(set).clone()
    }

    /// Stops maintaining the set, because an unrecorded change happened.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
