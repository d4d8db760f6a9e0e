//! Limits on concurrent use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::rights::{Caller, Rights};

/// A limit with this many permits.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    free: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn taken(&self) -> usize {
        self.most - self.free.available_permits()
    }

    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Waits for a permit, at most this long.
    pub(super) async fn wait(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let waiting = tokio::time::timeout(patience, self.free.clone().acquire_owned());
        waiting.await.ok()?.ok()
    }
}

/// Permits shared by callers: those without all rights share a part of them, and each of these may use a part
/// of that. So the operator always gets a permit, and no caller can take those of all others.
#[derive(Clone, Debug)]
pub(super) struct SharedPlaces {
    all: Arc<Places>,
    of_others: Arc<Places>,
    of_one: usize,
    by_caller: Arc<Mutex<HashMap<Arc<str>, Arc<Places>>>>,
}

/// A set of permits, held until dropped.
pub(super) type Place = Vec<OwnedSemaphorePermit>;

impl SharedPlaces {
    pub(super) fn new(most: usize, of_others: usize, of_one: usize) -> Self {
        Self {
            all: Arc::new(Places::new(most)),
            of_others: Arc::new(Places::new(of_others)),
            of_one,
            by_caller: Arc::default(),
        }
    }

    /// Returns the permits in use and their number.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.all.taken(), self.all.most())
    }

    pub(super) fn take(&self, caller: &Caller) -> Option<Place> {
        self.parts(caller).iter().map(|part| part.take()).collect()
    }

    /// Waits for a permit, at most this long.
    pub(super) async fn wait(&self, caller: &Caller, patience: Duration) -> Option<Place> {
        let end = Instant::now() + patience;
        let mut place = Vec::new();
        for part in self.parts(caller) {
            place.push(part.wait(end.saturating_duration_since(Instant::now())).await?);
        }
        Some(place)
    }

    /// Explains why a caller gets no permit.
    pub(super) fn full(&self, caller: &Caller, what: &str) -> String {
        match caller.rights {
            Rights::All => format!("there are already {} {what}", self.all.most()),
            _ => format!(
                "there are already {} {what} of programs without all rights, or {} of this one",
                self.of_others.most(),
                self.of_one
            ),
        }
    }

    /// Returns the limits that apply to a caller, the scarcest first.
    fn parts(&self, caller: &Caller) -> Vec<Arc<Places>> {
        if caller.rights == Rights::All {
            return vec![self.all.clone()];
        }
        // Every update is complete.
        let mut by_caller = self.by_caller.lock().unwrap_or_else(PoisonError::into_inner);
        by_caller.retain(|_, places| places.taken() > 0 || Arc::strong_count(places) > 1);
        let own = by_caller.entry(caller.who.clone());
        let own = own.or_insert_with(|| Arc::new(Places::new(self.of_one)));
        vec![own.clone(), self.of_others.clone(), self.all.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_caller_leaves_places_to_the_others_and_all_of_them_to_the_operator() {
        let patience = Duration::from_secs(30);
        let caller = |rights, who: &str| Caller {
            rights,
            who: who.into(),
        };
        let [one, other, third] = ["a", "b", "c"].map(|who| caller(Rights::Messages, who));
        let operator = caller(Rights::All, "user 0");
        let places = SharedPlaces::new(5, 4, 2);
        let mut held: Vec<_> = (0..2).map(|_| places.take(&one).unwrap()).collect();
        assert!(places.take(&one).is_none());
        assert!(places.wait(&one, patience).await.is_none());
        held.extend((0..2).map(|_| places.take(&other).unwrap()));
        assert!(places.take(&third).is_none());
        held.push(places.take(&operator).unwrap());
        assert_eq!(places.in_use(), (5, 5));
        assert!(places.wait(&operator, patience).await.is_none());
        // A released permit is reused.
        let waiting = (places.clone(), third.clone());
        let waiting = tokio::spawn(async move { waiting.0.wait(&waiting.1, patience).await.is_some() });
        tokio::task::yield_now().await;
        held.remove(0);
        assert!(waiting.await.unwrap());
        held.clear();
        assert_eq!(places.in_use(), (0, 5));
        assert!(places.take(&third).is_some());
        assert_eq!(
            places.by_caller.lock().unwrap().len(),
            1,
            "callers without permits are not remembered"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_and_not_for_ever() {
        let patience = Duration::from_secs(30);
        let places = Arc::new(Places::new(1));
        let taken = places.wait(patience).await.unwrap();
        assert!(places.wait(patience).await.is_none());
        let waiting = places.clone();
        let waiting = tokio::spawn(async move { waiting.wait(patience).await.is_some() });
        tokio::task::yield_now().await;
        drop(taken);
        assert!(waiting.await.unwrap());
    }
}
