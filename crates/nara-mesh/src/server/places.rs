//! How many at once, in all and for each of many.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what is going on at once. Memory is bounded by the number of places.
#[derive(Debug)]
pub(super) struct Places<K: Hash + Eq> {
    taken: Arc<Mutex<Taken<K>>>,
    limit: usize,
    limit_per_key: usize,
}

#[derive(Debug)]
struct Taken<K> {
    total: usize,
    by_key: HashMap<K, usize>,
}

/// One place; dropped, it is free again.
#[derive(Debug)]
pub(super) struct Place<K: Hash + Eq> {
    taken: Arc<Mutex<Taken<K>>>,
    key: K,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken.
    All,
    /// This key has as many as it may have.
    OfKey,
}

impl<K: Hash + Eq + Clone> Places<K> {
    pub(super) fn new(limit: usize, limit_per_key: usize) -> Self {
        let taken = Taken {
            total: 0,
            by_key: HashMap::new(),
        };
        Self {
            taken: Arc::new(Mutex::new(taken)),
            limit,
            limit_per_key,
        }
    }

    /// Takes one more place for a key, if it may have one.
    pub(super) fn take(&self, key: &K) -> Result<Place<K>, NoPlace> {
        let mut taken = lock(&self.taken);
        if taken
            .by_key
            .get(key)
            .is_some_and(|&of_key| of_key >= self.limit_per_key)
            || self.limit_per_key == 0
        {
            return Err(NoPlace::OfKey);
        }
        if taken.total >= self.limit {
            return Err(NoPlace::All);
        }
        *taken.by_key.entry(key.clone()).or_default() += 1;
        taken.total += 1;
        drop(taken);
        Ok(Place {
            taken: self.taken.clone(),
            key: key.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.total -= 1;
        if let Some(of_key) = taken.by_key.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                taken.by_key.remove(&self.key);
            }
        }
    }
}

fn lock<K>(taken: &Mutex<Taken<K>>) -> MutexGuard<'_, Taken<K>> {
    // Counting cannot stop half-way.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_by_key_and_come_back() {
        let places = Places::new(3, 2);
        let first = places.take(&"a").unwrap();
        let _second = places.take(&"a").unwrap();
        assert_eq!(places.take(&"a").unwrap_err(), NoPlace::OfKey);
        let _third = places.take(&"b").unwrap();
        assert_eq!(places.take(&"c").unwrap_err(), NoPlace::All);
        drop(first);
        let _fourth = places.take(&"c").unwrap();
        assert_eq!(lock(&places.taken).by_key.len(), 3);
        assert_eq!(Places::new(1, 0).take(&"a").unwrap_err(), NoPlace::OfKey);
    }
}
