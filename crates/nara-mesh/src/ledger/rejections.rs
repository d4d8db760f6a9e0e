use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nara_proto::reconcile::ItemId;

/// How many rejections a ledger remembers, of all peers; the oldest are forgotten.
pub(super) const MAX_REJECTIONS: usize = 200_000;

/// An event of a peer that was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The event.
    pub item: ItemId,
    /// The key with which it may be stored after all; `None` if no key changes that.
    pub awaits: Option<AwaitedKey>,
}

/// A key for want of which an event could not be verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AwaitedKey {
    /// The key of the nara with this name.
    Of(String),
    /// The key of a voter of a checkpoint. A checkpoint names its voters by ids, so any nara whose id is learned may be
    /// one.
    OfAVoter,
}

impl AwaitedKey {
    /// The text that stands for it in a database: no nara has an empty name.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Of(name) => name,
            Self::OfAVoter => "",
        }
    }
}

/// The rejections of a ledger in memory.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    known: HashMap<(Arc<str>, ItemId), Option<AwaitedKey>>,
    by_age: VecDeque<(Arc<str>, ItemId)>,
}

impl Rejections {
    pub(super) fn add(&mut self, peer: &str, rejections: Vec<Rejection>) {
        let peer: Arc<str> = peer.into();
        for Rejection { item, awaits } in rejections {
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

    pub(super) fn forgive(&mut self, learned: &[AwaitedKey]) {
        let before = self.known.len();
        self.known
            .retain(|_, awaits| awaits.as_ref().is_none_or(|key| !learned.contains(key)));
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
        let rejection = |n| Rejection {
            item: item(n),
            awaits: None,
        };
        let mut rejections = Rejections::default();
        rejections.add("bob", (0..=MAX_REJECTIONS).map(rejection).collect());
        assert_eq!(rejections.select("bob", vec![item(0), item(1)]), [item(1)]);
        assert!(rejections.select("eve", vec![item(1)]).is_empty());
        assert_eq!(rejections.known.len(), MAX_REJECTIONS);
    }
}
