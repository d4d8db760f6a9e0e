//! How many of something there may be at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for what is limited by number.
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
}
