//! Verdicts on the events of an answer.

use std::num::NonZero;

use futures_util::future::join_all;
use nara_proto::event::{SyncEvent, verify_events};
use tokio::time::{Instant, timeout_at};

use super::error::{Problem, Stage};
use super::verified::{CheckedEvent, CheckedEvents, RefusedEvent};
use crate::offload::offload;
use crate::random::random;
use crate::registry::KnownKeys;

/// Up to this many events are verified where they arrive.
const OFFLOAD_EVENTS: usize = 64;

/// Each thread gets at least this many events to verify: batches of many are cheaper per event.
const MIN_BATCH: usize = 512;

/// Gives every event its verdict: well-formedness, id, and signature where the key is known.
pub(super) async fn check_events(
    events: Vec<SyncEvent>,
    keys: KnownKeys,
    deadline: Instant,
) -> Result<CheckedEvents, Problem> {
    if events.is_empty() {
        return Ok(CheckedEvents::default());
    }
    timeout_at(deadline, check_all(events, keys))
        .await
        .map_err(|_| Problem::Timeout(Stage::Verify))
}

/// In batches, on all cores if there are many.
async fn check_all(mut events: Vec<SyncEvent>, keys: KnownKeys) -> CheckedEvents {
    if events.len() <= OFFLOAD_EVENTS {
        return check_batch(events, &keys);
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let batch = events.len().div_ceil(threads).max(MIN_BATCH);
    let mut batches = Vec::new();
    while !events.is_empty() {
        let rest = events.split_off(batch.min(events.len()));
        let keys = keys.clone();
        batches.push(offload(true, move || check_batch(events, &keys)));
        events = rest;
    }
    let mut checked = CheckedEvents::default();
    for batch in join_all(batches).await {
        checked.append(batch);
    }
    checked
}

fn check_batch(events: Vec<SyncEvent>, keys: &KnownKeys) -> CheckedEvents {
    let verdicts = verify_events(&events, keys, random());
    let mut checked = CheckedEvents::default();
    for (event, verdict) in events.into_iter().zip(verdicts) {
        match verdict {
            Ok(trust) => checked.accepted.push(CheckedEvent { event, trust }),
            Err(problem) => checked.refused.push(RefusedEvent {
                id: event.id,
                emitter: event.emitter,
                problem,
            }),
        }
    }
    checked
}
