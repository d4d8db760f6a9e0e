use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nara_proto::reconcile::ItemId;

/// Maximum number of rejections that a ledger remembers, over all peers; the oldest are forgotten.
pub(super) const MAX_REJECTIONS: usize = 200_000;

/// Placeholder for the voters of a checkpoint: no nara has an empty name.
pub(crate) const ANY_VOTER: &str = "";

/// The rejections of a ledger in memory.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    known: HashMap<(Arc<str>, ItemId), Option<String>>,
    by_age: VecDeque<(Arc<str>, ItemId)>,
}

impl Rejections {
    pub(super) fn add(&mut self, peer: &str, rejected: Vec<(ItemId, Option<String>)>) {
        let peer: Arc<str> = peer.into();
        for (item, awaits) in rejected {
            if self.known.insert((peer.clone(), item), awaits).is_none() {
                self.by_age.push_back((peer.clone(), item));
            }
            if self.by_age.len() > MAX_REJECTIONS
                && let Some(oldest) = self.by_age.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn forgive(&mut self, learned: &[String]) {
        let before = self.known.len();
        self.known
            .retain(|_, awaits| awaits.as_ref().is_none_or(|name| !learned.contains(name)));
        if self.known.len() < before {
            self.by_age.retain(|rejected| self.known.contains_key(rejected));
        }
    }

    pub(super) fn select(&self, peer: &str, mut items: Vec<ItemId>) -> Vec<ItemId> {
        let peer: Arc<str> = peer.into();
        items.retain(|item| self.known.contains_key(&(peer.clone(), *item)));
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rejections_are_forgotten() {
        let item = |n: usize| ItemId::of_event(&format!("{n:032x}")).unwrap();
        let rejection = |n| (item(n), None);
        let mut rejections = Rejections::default();
        rejections.add("bob", (0..=MAX_REJECTIONS).map(rejection).collect());
        assert_eq!(rejections.select("bob", vec![item(0), item(1)]), [item(1)]);
        assert!(rejections.select("eve", vec![item(1)]).is_empty());
        assert_eq!(rejections.known.len(), MAX_REJECTIONS);
    }
}
