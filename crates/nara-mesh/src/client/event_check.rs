//! Verifies the events of an answer.

use std::num::NonZero;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use nara_proto::event::{CheckedEvents, EventVerdict, SyncEvent};
use nara_proto::time::UnixNanos;
use tokio::time::{Instant, timeout_at};

use super::clocks::PeerClocks;
use super::error::{Problem, Stage};
use crate::offload::{are_many, offload};
use crate::registry::KnownKeys;

/// Minimum number of events per thread: large batches are cheaper per event.
const MIN_BATCH: usize = 512;

/// Gives every event its verdict.
#[derive(Clone, Debug)]
pub(super) struct EventChecker {
    pub(super) keys: KnownKeys,
    pub(super) clocks: Arc<PeerClocks>,
}

/// The time of reception, and the keys known then.
#[derive(Clone)]
struct Reception {
    now: UnixNanos,
    keys: KnownKeys,
}

impl EventChecker {
    /// Checks the events of an answer.
    pub(super) fn check(
        &self,
        events: Vec<SyncEvent>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<CheckedEvents, Problem>> {
        Box::pin(async move {
            let reception = Reception {
                now: self.clocks.clock().now_nanos(),
                keys: self.keys.clone(),
            };
            let checking = async {
                let many = are_many(&events);
                let (events, verdicts) = match many {
                    true => verify_many(events, &reception).await,
                    false => reception.verify(events),
                };
                // On all events together: statements about keys in one batch apply to the others.
                offload(many, move || reception.settle(events, verdicts)).await
            };
            timeout_at(deadline, checking)
                .await
                .map_err(|_| Problem::Timeout(Stage::Verify))
        })
    }
}

/// Verifies in batches, on all cores.
async fn verify_many(
    mut events: Vec<SyncEvent>,
    reception: &Reception,
) -> (Vec<SyncEvent>, Vec<EventVerdict>) {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let batch = events.len().div_ceil(threads).max(MIN_BATCH);
    let mut batches = Vec::new();
    while !events.is_empty() {
        let rest = events.split_off(batch.min(events.len()));
        let reception = reception.clone();
        batches.push(offload(true, move || reception.verify(events)));
        events = rest;
    }
    let mut verified = (Vec::new(), Vec::new());
    for (events, verdicts) in join_all(batches).await {
        verified.0.extend(events);
        verified.1.extend(verdicts);
    }
    verified
}

impl Reception {
    fn verify(&self, mut events: Vec<SyncEvent>) -> (Vec<SyncEvent>, Vec<EventVerdict>) {
        let verdicts = self.keys.verify(&mut events, self.now);
        (events, verdicts)
    }

    /// Applies what the events say about keys and presence.
    fn settle(&self, mut events: Vec<SyncEvent>, mut verdicts: Vec<EventVerdict>) -> CheckedEvents {
        self.keys.heed(&mut events, &mut verdicts, self.now);
        let checked = CheckedEvents::sort(events, verdicts);
        for event in checked.accepted.iter().filter(|event| event.is_verified()) {
            self.keys.hear(&event.event, self.now);
        }
        checked
    }
}
