//! Limits on how many of something exist at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places.
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

    /// Waits so long for a place.
    pub(super) async fn wait(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        let waiting = tokio::time::timeout(patience, self.free.clone().acquire_owned());
        waiting.await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
