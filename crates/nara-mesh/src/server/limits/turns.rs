//! Costly work in turn: a peer that asks for much of it waits behind the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// A bounded number of places for work, of which each key has one at most. Further work of the same key waits for it,
/// so what waits for a place is one piece of work for each key, first come, first served.
#[derive(Debug)]
pub(in crate::server) struct Turns<K> {
    places: Arc<Semaphore>,
    keys: Mutex<Keys<K>>,
}

#[derive(Debug)]
struct Keys<K> {
    own: HashMap<K, Weak<AsyncMutex<()>>>,
    /// Forgotten keys are looked for when there are so many.
    clean_at: usize,
}

/// Fewer keys than this are not worth a look.
const FEW: usize = 64;

/// The turn of a key; dropped, the next one has it.
#[derive(Debug)]
pub(in crate::server) struct Turn {
    _place: OwnedSemaphorePermit,
    _own: OwnedMutexGuard<()>,
}

impl<K: Hash + Eq> Turns<K> {
    pub(in crate::server) fn new(places: usize) -> Self {
        let keys = Keys {
            own: HashMap::new(),
            clean_at: FEW,
        };
        Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            keys: Mutex::new(keys),
        }
    }

    /// Waits for the turn of a key.
    pub(in crate::server) async fn turn(&self, key: K) -> Turn {
        let own = self.own(key).lock_owned().await;
        let place = self.places.clone().acquire_owned().await;
        Turn {
            _place: place.expect("the semaphore is never closed"),
            _own: own,
        }
    }

    fn own(&self, key: K) -> Arc<AsyncMutex<()>> {
        // No change stops half-way.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = keys.own.get(&key).and_then(Weak::upgrade) {
            return own;
        }
        if keys.own.len() >= keys.clean_at {
            keys.own.retain(|_, own| own.strong_count() > 0);
            keys.clean_at = FEW.max(keys.own.len() * 2);
        }
        let own = Arc::new(AsyncMutex::new(()));
        keys.own.insert(key, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_key_that_asks_for_much_waits_behind_the_others() {
        let turns = Turns::new(2);
        let first = turns.turn("greedy").await;
        let mut greedy: Vec<_> = (0..5).map(|_| Box::pin(turns.turn("greedy"))).collect();
        for waiting in &mut greedy {
            assert!(waiting.now_or_never().is_none(), "it has its turn");
        }
        let other = turns.turn("other").now_or_never();
        assert!(other.is_some(), "a place is left for another key");
        let mut third = Box::pin(turns.turn("third"));
        assert!((&mut third).now_or_never().is_none(), "all places are taken");
        drop(first);
        assert!((&mut greedy[0]).now_or_never().is_none(), "the other came first");
        assert!((&mut third).now_or_never().is_some());
    }

    #[tokio::test]
    async fn keys_that_are_done_are_forgotten() {
        let turns = Turns::new(1);
        for key in 0..10 * FEW {
            drop(turns.turn(key).await);
        }
        let keys = turns.keys.lock().unwrap();
        assert!(keys.own.len() <= FEW, "{}", keys.own.len());
    }
}
