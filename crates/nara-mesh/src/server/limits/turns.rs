//! Turns for costly work: a peer that asks for much of it waits behind the others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::offload::to_its_end;

/// A bounded number of places for work, of which each key has at most one. Further work of the same key waits for it,
/// so the queue for a place has one piece of work per key, first come, first served.
#[derive(Debug)]
pub(in crate::server) struct Turns<K> {
    places: Arc<Semaphore>,
    keys: Mutex<Keys<K>>,
}

#[derive(Debug)]
struct Keys<K> {
    own: HashMap<K, Arc<AsyncMutex<()>>>,
    /// The number of keys at which unused keys are removed.
    clean_at: usize,
}

/// Fewer keys than this are not worth a scan.
const MIN_KEYS: usize = 64;

/// The turn of a key; dropping it passes the turn on.
#[derive(Debug)]
pub(in crate::server) struct Turn {
    _place: OwnedSemaphorePermit,
    _own: OwnedMutexGuard<()>,
}

impl<K: Hash + Eq> Turns<K> {
    pub(in crate::server) fn new(places: usize) -> Self {
        let keys = Keys {
            own: HashMap::new(),
            clean_at: MIN_KEYS,
        };
        Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            keys: Mutex::new(keys),
        }
    }

    /// Does work in the turn of a key. Started work continues if its caller is dropped, and keeps its turn until it is
    /// done: otherwise a caller that asks and leaves could have more of it done concurrently than any other.
    pub(in crate::server) fn run<T: Send + 'static>(
        &self,
        key: K,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> {
        let work = Box::pin(work);
        async move {
            let turn = self.turn(key).await;
            to_its_end(work, turn).await
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
        // No change panics half-way.
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.own.len() >= keys.clean_at {
            keys.own.retain(|_, own| Arc::strong_count(own) > 1);
            keys.clean_at = MIN_KEYS.max(keys.own.len() * 2);
        }
        keys.own.entry(key).or_default().clone()
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
    async fn work_that_nobody_waits_for_keeps_its_turn_until_it_is_done() {
        let turns = Turns::new(2);
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let mut abandoned = Box::pin(turns.run("greedy", async move { drop(finished.await) }));
        assert!((&mut abandoned).now_or_never().is_none());
        drop(abandoned);
        let mut next = Box::pin(turns.turn("greedy"));
        assert!((&mut next).now_or_never().is_none(), "the work goes on");
        assert!(turns.turn("other").now_or_never().is_some());
        finish.send(()).unwrap();
        next.await;
        // Work that only waits for its turn is not started.
        let held = turns.turn("greedy").await;
        let (begin, begun) = std::sync::mpsc::channel();
        let mut waiting = Box::pin(turns.run("greedy", async move { begin.send(()).unwrap() }));
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        drop(held);
        assert!(begun.recv().is_err());
        assert_eq!(turns.run("greedy", async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn keys_that_are_done_are_forgotten() {
        let turns = Turns::new(1);
        for key in 0..10 * MIN_KEYS {
            drop(turns.turn(key).await);
        }
        let keys = turns.keys.lock().unwrap();
        assert!(keys.own.len() <= MIN_KEYS, "{}", keys.own.len());
    }
}
