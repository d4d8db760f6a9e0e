use std::collections::{BTreeMap, HashMap};

use nara_proto::identity::NaraName;

/// Naras that others introduced, by who introduced them and in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct ByTeller {
    next: u64,
    by_teller: HashMap<Option<NaraName>, BTreeMap<u64, NaraName>>,
    places: HashMap<NaraName, (Option<NaraName>, u64)>,
}

impl ByTeller {
    pub(super) fn add(&mut self, name: NaraName, teller: Option<NaraName>) {
        self.remove(&name);
        self.next += 1;
        let told = self.by_teller.entry(teller.clone()).or_default();
        told.insert(self.next, name.clone());
        self.places.insert(name, (teller, self.next));
    }

    pub(super) fn remove(&mut self, name: &NaraName) {
        let Some((teller, place)) = self.places.remove(name) else {
            return;
        };
        if let Some(told) = self.by_teller.get_mut(&teller) {
            told.remove(&place);
            if told.is_empty() {
                self.by_teller.remove(&teller);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// How many this teller introduced.
    pub(super) fn count(&self, teller: Option<&NaraName>) -> usize {
        self.by_teller.get(&teller.cloned()).map_or(0, BTreeMap::len)
    }

    /// The first that this teller introduced.
    pub(super) fn oldest(&self, teller: Option<&NaraName>) -> Option<NaraName> {
        let told = self.by_teller.get(&teller.cloned())?;
        told.values().next().cloned()
    }

    /// The first that the teller introduced who introduced most.
    pub(super) fn oldest_of_most(&self) -> Option<NaraName> {
        let told = self.by_teller.values().max_by_key(|told| told.len())?;
        told.values().next().cloned()
    }

    pub(super) fn names(&self) -> Vec<NaraName> {
        self.places.keys().cloned().collect()
    }
}
