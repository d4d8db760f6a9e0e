//! Limits the memory of bodies on their way to peers.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Problem, ProblemClass};

/// Streamed bodies up to this size are buffered: they are sent only once complete.
pub(super) const SMALL: u64 = 64 << 10;

/// The largest buffered body, in bytes.
pub(super) const LARGEST: usize = 16 << 20;

/// The most bytes of all buffered bodies together.
const ALL: usize = 256 << 20;

/// The granularity of reservations, in bytes.
const PIECE: usize = 1 << 10;

/// How long a body waits for memory.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The free memory.
#[derive(Clone, Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL / PIECE)))
    }
}

impl Bodies {
    /// Returns the reserved bytes and their maximum.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (ALL - self.0.available_permits() * PIECE, ALL)
    }

    /// Reserves memory for a body until the guard is dropped. A body of unknown length reserves the maximum.
    pub(super) async fn reserve(&self, length: Option<u64>) -> Result<Option<OwnedSemaphorePermit>, Problem> {
        // A larger body is refused by its reader.
        let length = length.map_or(LARGEST, |length| {
            usize::try_from(length).unwrap_or(LARGEST).min(LARGEST)
        });
        if length == 0 {
            return Ok(None);
        }
        let pieces = u32::try_from(length.div_ceil(PIECE)).unwrap_or(u32::MAX);
        let reserving = self.0.clone().acquire_many_owned(pieces);
        match tokio::time::timeout(PATIENCE, reserving).await {
            Ok(Ok(room)) => Ok(Some(room)),
            // The semaphore is never closed.
            _ => {
                let (status, class) = (StatusCode::SERVICE_UNAVAILABLE, ProblemClass::Failed);
                let detail = format!("bodies of {} MiB are on their way to peers already", ALL >> 20);
                let problem = Problem::new("too_many_bodies", status, class, detail);
                Err(problem.hint(
                    "try again once other programs are done; send a Content-Length if the length is known",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bodies_wait_for_room_and_not_for_ever() {
        let bodies = Bodies::default();
        let mut held = Vec::new();
        for _ in 0..ALL / LARGEST {
            held.push(bodies.reserve(None).await.unwrap());
        }
        assert!(bodies.reserve(Some(0)).await.unwrap().is_none());
        let refused = bodies.reserve(Some(1)).await.unwrap_err();
        assert_eq!((refused.name(), refused.status), ("too_many_bodies", 503));
        let waiting = bodies.clone();
        let waiting = tokio::spawn(async move { waiting.reserve(Some(u64::MAX)).await.is_ok() });
        tokio::task::yield_now().await;
        held.pop();
        assert!(waiting.await.unwrap());
    }
}
