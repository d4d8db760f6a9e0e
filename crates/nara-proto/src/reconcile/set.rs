use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use negentropy::{Bound, Error, Id, Item, NegentropyStorageBase};

use super::{ItemId, Scope};
use crate::event::Service;
use crate::time::{UnixNanos, UnixSeconds};

/// The items of a set of events in the order of the protocol. Cloning and restricting share the items.
#[derive(Clone, Debug, Default)]
pub struct ItemSet {
    items: Arc<Vec<Member>>,
    range: Range<usize>,
}

/// An item, with the properties that scopes filter by.
#[derive(Clone, Copy, Debug)]
struct Member {
    item: Item,
    service: Option<Service>,
}

/// A change of one event of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The event was added; its service, if known.
    Added(Option<Service>),
    /// The event was removed.
    Removed,
}

impl ItemSet {
    /// Builds the set of these events: their times, items and services, in any order.
    pub fn new(events: impl IntoIterator<Item = (UnixNanos, ItemId, Option<Service>)>) -> Self {
        let mut items: Vec<_> = events
            .into_iter()
            .map(|(ts, id, service)| Member {
                item: item(ts, id),
                service,
            })
            .collect();
        items.sort_unstable_by_key(|member| member.item);
        items.dedup_by(|a, b| a.item == b.item);
        Self::of_sorted(items)
    }

    fn of_sorted(items: Vec<Member>) -> Self {
        Self {
            range: 0..items.len(),
            items: Arc::new(items),
        }
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Returns the items, in order.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = ItemId> {
        let members = self.members().iter();
        members.map(|member| ItemId(member.item.id.to_bytes()))
    }

    /// Returns the same set with these changes.
    #[must_use]
    pub fn with(&self, changes: &BTreeMap<(UnixNanos, ItemId), Change>) -> Self {
        // Sorted again: the order of the protocol has whole seconds only.
        let mut sorted: Vec<_> = changes
            .iter()
            .map(|(&(ts, id), &change)| (item(ts, id), change))
            .collect();
        sorted.sort_unstable_by_key(|(item, _)| *item);
        let added = sorted
            .iter()
            .filter(|(_, change)| *change != Change::Removed)
            .count();

        let mut merged = Vec::with_capacity(self.len() + added);
        let mut rest = self.members();
        for (item, change) in sorted {
            let (before, behind) = rest.split_at(rest.partition_point(|member| member.item < item));
            merged.extend_from_slice(before);
            let replaced = behind.first().is_some_and(|same| same.item == item);
            rest = &behind[usize::from(replaced)..];
            if let Change::Added(service) = change {
                merged.push(Member { item, service });
            }
        }
        merged.extend_from_slice(rest);
        Self::of_sorted(merged)
    }

    /// Returns the part of the set within a scope.
    #[must_use]
    pub fn within(&self, scope: &Scope) -> Self {
        let members = self.members();
        let place = |limit: UnixSeconds| {
            let limit = timestamp(limit.get());
            members.partition_point(|member| member.item.timestamp < limit)
        };
        let start = scope.from.map_or(0, place);
        let end = scope.to.map_or(members.len(), place).max(start);
        if scope.services.is_empty() {
            return Self {
                items: self.items.clone(),
                range: self.range.start + start..self.range.start + end,
            };
        }
        let wanted = members[start..end]
            .iter()
            .filter(|member| scope.has_service(member.service));
        Self::of_sorted(wanted.copied().collect())
    }

    fn members(&self) -> &[Member] {
        &self.items[self.range.clone()]
    }
}

/// Returns the seconds of the protocol: 0 before 1970.
fn timestamp(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0)
}

fn item(ts: UnixNanos, id: ItemId) -> Item {
    let seconds = timestamp(ts.get().div_euclid(1_000_000_000));
    Item::with_timestamp_and_id(seconds, Id::from_byte_array(*id.as_bytes()))
}

impl NegentropyStorageBase for ItemSet {
    fn size(&self) -> Result<usize, Error> {
        Ok(self.len())
    }

    fn get_item(&self, index: usize) -> Result<Option<Item>, Error> {
        Ok(self.members().get(index).map(|member| member.item))
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        each: &mut dyn FnMut(Item, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let members = self.members().get(begin..end).ok_or(Error::BadRange)?;
        for (member, index) in members.iter().zip(begin..) {
            if !each(member.item, index)? {
                break;
            }
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        let range = self.members().get(first..last).unwrap_or_default();
        let is_before = |member: &Member| member.item < bound.item;
        // The bounds of a frame are ordered and close together, so the search starts at the last one.
        let mut near = 1;
        while range.get(near - 1).is_some_and(is_before) {
            near *= 2;
        }
        let from = near / 2;
        first + from + range[from..range.len().min(near)].partition_point(is_before)
    }
}
