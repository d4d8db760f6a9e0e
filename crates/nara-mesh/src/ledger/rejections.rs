use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use nara_proto::reconcile::ItemId;

/// How many rejections a ledger remembers, of all peers; the oldest are forgotten.
pub(super) const MAX_REJECTIONS: usize = 200_000;

/// The rejections of a ledger in memory.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    known: HashSet<(Arc<str>, ItemId)>,
    by_age: VecDeque<(Arc<str>, ItemId)>,
}

impl Rejections {
    pub(super) fn add(&mut self, peer: &str, items: Vec<ItemId>) {
        let peer: Arc<str> = peer.into();
        for item in items {
            if self.known.insert((peer.clone(), item)) {
                self.by_age.push_back((peer.clone(), item));
            }
            if self.by_age.len() > MAX_REJECTIONS
                && let Some(oldest) = self.by_age.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn select(&self, peer: &str, mut items: Vec<ItemId>) -> Vec<ItemId> {
        let peer: Arc<str> = peer.into();
        items.retain(|item| self.known.contains(&(peer.clone(), *item)));
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rejections_are_forgotten() {
        let item = |n: usize| ItemId::of_event(&format!("{n:032x}")).unwrap();
        let mut rejections = Rejections::default();
        rejections.add("bob", (0..=MAX_REJECTIONS).map(item).collect());
        assert_eq!(rejections.select("bob", vec![item(0), item(1)]), [item(1)]);
        assert!(rejections.select("eve", vec![item(1)]).is_empty());
        assert_eq!(rejections.known.len(), MAX_REJECTIONS);
    }
}
