//! Verdicts on the events of an answer.

use std::num::NonZero;
use std::sync::Arc;

use futures_util::future::join_all;
use nara_proto::event::{CheckedEvents, EventReception, SyncEvent, check_events};
use nara_proto::time::UnixNanos;
use tokio::time::{Instant, timeout_at};

use super::clocks::PeerClocks;
use super::error::{Problem, Stage};
use crate::offload::{EVENTS_VERIFIED_HERE, offload};
use crate::random::random;
use crate::registry::KnownKeys;

/// Each thread gets at least this many events to verify: batches of many are cheaper per event.
const MIN_BATCH: usize = 512;

/// Gives every event its verdict.
#[derive(Clone, Debug)]
pub(super) struct EventChecker {
    pub(super) keys: KnownKeys,
    pub(super) clocks: Arc<PeerClocks>,
}

/// When events came, and the keys that were known then.
#[derive(Clone)]
struct Reception {
    now: UnixNanos,
    keys: KnownKeys,
}

impl EventChecker {
    /// Checks the events of an answer.
    pub(super) async fn check(
        &self,
        events: Vec<SyncEvent>,
        deadline: Instant,
    ) -> Result<CheckedEvents, Problem> {
        if events.is_empty() {
            return Ok(CheckedEvents::default());
        }
        let reception = Reception {
            now: self.clocks.clock().now_nanos(),
            keys: self.keys.clone(),
        };
        timeout_at(deadline, check_all(events, reception))
            .await
            .map_err(|_| Problem::Timeout(Stage::Verify))
    }
}

/// In batches, on all cores if there are many.
async fn check_all(mut events: Vec<SyncEvent>, reception: Reception) -> CheckedEvents {
    if events.len() <= EVENTS_VERIFIED_HERE {
        return check_batch(events, &reception);
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let batch = events.len().div_ceil(threads).max(MIN_BATCH);
    let mut batches = Vec::new();
    while !events.is_empty() {
        let rest = events.split_off(batch.min(events.len()));
        let reception = reception.clone();
        batches.push(offload(true, move || check_batch(events, &reception)));
        events = rest;
    }
    let mut checked = CheckedEvents::default();
    for batch in join_all(batches).await {
        checked.append(batch);
    }
    checked
}

fn check_batch(events: Vec<SyncEvent>, reception: &Reception) -> CheckedEvents {
    let how = EventReception {
        now: reception.now,
        random: random(),
    };
    let checked = check_events(events, &reception.keys, how);
    for event in checked.accepted.iter().filter(|event| event.is_verified()) {
        reception.keys.hear(&event.event, reception.now);
    }
    checked
}
