//! Cached samples of the ledger, which many peers request.

use std::sync::Arc;
use std::time::Duration;

use nara_proto::event::SyncEvent;
use nara_proto::sync::EventFilter;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a sample is shared between requests: it is random, but the weights of events change with their age.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The number of different samples that are cached; each has as many events as an answer.
const KEPT: usize = 4;

/// The cached samples. To draw one, a ledger reads all of its events.
#[derive(Debug, Default)]
pub(in crate::server) struct Samples(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    drawn: Instant,
    key: SampleKey,
    events: Arc<Vec<SyncEvent>>,
}

/// The key of a cached sample: equal requests get the same sample.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::server) struct SampleKey {
    pub(in crate::server) filter: EventFilter,
    pub(in crate::server) size: usize,
    /// The position of the newest event.
    pub(in crate::server) position: i64,
}

impl Samples {
    /// Returns a recent sample, or else the result of `draw`. Only one is drawn at a time.
    pub(in crate::server) async fn get<E>(
        &self,
        key: SampleKey,
        draw: impl Future<Output = Result<Vec<SyncEvent>, E>>,
    ) -> Result<Arc<Vec<SyncEvent>>, E> {
        let mut kept = self.0.lock().await;
        kept.retain(|kept| kept.drawn.elapsed() < MAX_AGE);
        if let Some(known) = kept.iter().find(|kept| kept.key == key) {
            return Ok(known.events.clone());
        }
        let events = Arc::new(draw.await?);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Kept {
            drawn: Instant::now(),
            key,
            events: events.clone(),
        });
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn key(position: i64) -> SampleKey {
        SampleKey {
            filter: EventFilter::default(),
            size: 1,
            position,
        }
    }

    async fn is_drawn(samples: &Samples, key: SampleKey) -> bool {
        let mut drawn = false;
        let draw = async {
            drawn = true;
            Ok::<_, Infallible>(Vec::new())
        };
        samples.get(key, draw).await.unwrap();
        drawn
    }

    #[tokio::test(start_paused = true)]
    async fn a_sample_is_drawn_once_until_it_is_old_or_something_is_new() {
        let samples = Samples::default();
        assert!(is_drawn(&samples, key(1)).await);
        assert!(!is_drawn(&samples, key(1)).await);
        assert!(is_drawn(&samples, key(2)).await);
        tokio::time::advance(MAX_AGE).await;
        assert!(is_drawn(&samples, key(2)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_samples_are_kept() {
        let samples = Samples::default();
        for position in 0..100 {
            assert!(is_drawn(&samples, key(position)).await);
        }
        assert_eq!(samples.0.lock().await.len(), KEPT);
    }
}
