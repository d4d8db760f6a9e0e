use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

use nara_proto::identity::NaraName;

/// Names by what they look like.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Nobody outside knows its key, so nobody can choose looks with equal hashes.
    hasher: RandomState,
    /// The hash of each look, with each name that has it.
    names: BTreeSet<(u64, Option<NaraName>)>,
}

impl Looks {
    pub(super) fn add(&mut self, name: &NaraName) {
        for hash in self.hashes(name) {
            self.names.insert((hash, Some(name.clone())));
        }
    }

    pub(super) fn remove(&mut self, name: &NaraName) {
        for hash in self.hashes(name) {
            self.names.remove(&(hash, Some(name.clone())));
        }
    }

    /// Another name that looks the same.
    pub(super) fn look_alike(&self, name: &NaraName) -> Option<NaraName> {
        self.hashes(name).into_iter().find_map(|hash| {
            // No name comes before every name.
            let behind = self.names.range((hash, None)..);
            let mut names = behind
                .take_while(|(other, _)| *other == hash)
                .filter_map(|(_, name)| name.as_ref());
            names
                .find(|other| *other != name && other.looks_like(name))
                .cloned()
        })
    }

    fn hashes(&self, name: &NaraName) -> [u64; 2] {
        name.looks().map(|look| self.hasher.hash_one(look))
    }
}
