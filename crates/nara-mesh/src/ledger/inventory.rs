use std::collections::BTreeMap;

use nara_proto::event::Service;
use nara_proto::reconcile::{Change, ItemId, ItemSet};
use nara_proto::time::UnixNanos;

/// Changes that wait at least until somebody asks for the set.
const MIN_WAITING: usize = 4096;

/// The verified events that a ledger holds, in the order of reconciliation. Unverified ones are left out: a copy that
/// nobody could verify must not hide that a peer has the verified event.
/// It costs nothing before it is asked for the first time;
/// from then on it is kept up to date.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    set: Option<ItemSet>,
    /// What happened since the set was made.
    waiting: Changes,
}

/// Changes of a ledger, the last one of each event.
///
/// Events whose ids are not those of verified events are left out: nobody could ask for them.
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
    /// Whether it is kept, so that changes are of interest.
    pub(super) fn is_kept(&self) -> bool {
        self.set.is_some()
    }

    /// Where to note changes, if they are of interest.
    pub(super) fn changes(&mut self) -> Option<&mut Changes> {
        self.set.as_ref()?;
        Some(&mut self.waiting)
    }

    /// Takes in changes. Many at once are worked in at once, so that not more of them wait than there are items.
    pub(super) fn apply(&mut self, changes: Changes) {
        if let Some(waiting) = self.changes() {
            waiting.0.extend(changes.0);
        }
        self.settle();
    }

    /// Works the changes in if they have become many.
    pub(super) fn settle(&mut self) {
        let held = self.set.as_ref().map_or(0, ItemSet::len);
        if self.waiting.0.len() > MIN_WAITING + held / 4 {
            self.current();
        }
    }

    /// The set as it is now, if it is kept.
    pub(super) fn current(&mut self) -> Option<ItemSet> {
        let set = self.set.as_mut()?;
        if !self.waiting.0.is_empty() {
            *set = set.with(&self.waiting.0);
            self.waiting.0.clear();
        }
        Some(set.clone())
    }

    /// From now on it is kept, beginning with this set.
    pub(super) fn keep(&mut self, set: ItemSet) -> ItemSet {
        self.waiting.0.clear();
        self.set.insert(set).clone()
    }

    /// It is not kept any more: something changed that nobody noted.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
