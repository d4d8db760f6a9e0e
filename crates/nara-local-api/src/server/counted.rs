//! Caches a count that is slow and requested repeatedly.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// The pause after a count, as a multiple of its duration: counting uses at most a hundredth of one core.
const PAUSE: u32 = 100;

/// The last result. One caller counts, and others wait for its result.
#[derive(Debug)]
pub(super) struct Counted<S, T>(Arc<Mutex<Option<Last<S, T>>>>);

#[derive(Debug)]
struct Last<S, T> {
    state: S,
    result: T,
    at: Instant,
    took: Duration,
}

impl<S, T> Default for Counted<S, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<S, T> Counted<S, T>
where
    S: PartialEq + Send + 'static,
    T: Clone + Send + 'static,
{
    /// Returns the count for a state: the cached result while the state is unchanged or the pause lasts.
    pub(super) async fn of<E: Send + 'static>(
        &self,
        state: S,
        counting: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        let mut last = self.0.clone().lock_owned().await;
        if let Some(last) = &*last
            && (last.state == state || last.at.elapsed() < last.took * PAUSE)
        {
            return Ok(last.result.clone());
        }
        // Spawned, so that a caller that disconnects does not allow a second count in parallel.
        let counted = tokio::spawn(async move {
            let begun = Instant::now();
            let result = counting.await?;
            *last = Some(Last {
                state,
                result: result.clone(),
                at: Instant::now(),
                took: begun.elapsed(),
            });
            Ok(result)
        });
        match counted.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_counted_seldom_and_only_if_something_changed() {
        let counted = Counted::default();
        let times = Arc::new(AtomicU32::new(0));
        let ask = async |state: u32| {
            let times = times.clone();
            let counting = async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, Infallible>(times.fetch_add(1, Ordering::Relaxed) + 1)
            };
            counted.of(state, counting).await.unwrap()
        };
        // Concurrent callers share one count.
        assert_eq!(tokio::join!(ask(1), ask(1), ask(2)), (1, 1, 1));
        tokio::time::sleep(Duration::from_secs(99)).await;
        assert_eq!(ask(2).await, 1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((ask(1).await, ask(2).await), (1, 2));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(ask(2).await, 2);
    }
}
