//! Samples of the last hour, in a ring buffer of fixed size.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::{History, Refusals, Sample};

/// The sampling interval.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// The number of samples that are kept: an hour.
const KEPT: usize = 360;

/// The samples, oldest first. Sampling starts with the first request and stops after an hour without one, so
/// that an unobserved nara does not render its metrics all day.
#[derive(Debug, Default)]
pub(super) struct Samples {
    ring: Mutex<Ring>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    samples: VecDeque<Sample>,
    refusals: Vec<Refusals>,
    /// Samples since the last request.
    unasked: usize,
}

impl Samples {
    pub(super) fn history(&self) -> History {
        let mut ring = self.ring();
        ring.unasked = 0;
        self.asked.notify_one();
        History {
            every_ms: u64::try_from(EVERY.as_millis()).unwrap_or(u64::MAX),
            samples: ring.samples.iter().copied().collect(),
            refusals: ring.refusals.clone(),
        }
    }

    /// Waits for a request, and starts over: older samples are of another hour.
    pub(super) async fn asked(&self) {
        loop {
            self.asked.notified().await;
            let mut ring = self.ring();
            // The notification may be from before the hour passed.
            if ring.unasked < KEPT {
                ring.samples.clear();
                return;
            }
        }
    }

    /// Adds a sample. Returns whether samples are still requested.
    pub(super) fn add(&self, sample: Sample, refusals: Vec<Refusals>) -> bool {
        let mut ring = self.ring();
        if ring.samples.len() == KEPT {
            ring.samples.pop_front();
        }
        ring.samples.push_back(sample);
        ring.refusals = refusals;
        ring.unasked += 1;
        ring.unasked < KEPT
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Every update leaves the ring valid.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_ring_keeps_an_hour() {
        let samples = Samples::default();
        for number in 0..1000 {
            let sample = Sample {
                at_ms: number,
                ..Sample::default()
            };
            samples.add(sample, Vec::new());
        }
        let history = samples.history();
        assert_eq!((history.samples.len(), history.samples[0].at_ms), (KEPT, 640));
    }

    #[test]
    fn samples_are_taken_while_somebody_asks_for_them() {
        let samples = Samples::default();
        assert!(samples.asked().now_or_never().is_none());
        samples.history();
        assert!(samples.asked().now_or_never().is_some());
        samples.history();
        assert!((1..KEPT).all(|_| samples.add(Sample::default(), Vec::new())));
        assert!(!samples.add(Sample::default(), Vec::new()), "an hour has passed");
        assert!(samples.asked().now_or_never().is_none());
        samples.history();
        samples.asked().now_or_never().unwrap();
        assert!(samples.history().samples.is_empty());
    }
}
