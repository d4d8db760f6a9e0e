use std::sync::Arc;

use nara_proto::endpoint::{Endpoint as _, GossipZine};
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::sync::MAX_EVENTS;
use nara_proto::time::UnixNanos;

use super::EventCounts;
use crate::client::{ClientError, MeshClient};
use crate::ledger::{Ledger, LedgerError};
use crate::registry::Peer;

/// The events of a zine may fill this part of the largest request.
const MAX_ZINE_BYTES: usize = GossipZine::MAX_REQUEST / 2;

/// A zine that could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZineError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("our own ledger failed")]
    Ledger(#[from] LedgerError),
}

/// Hands a peer our recent events and stores its.
pub(super) async fn exchange(
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    peer: Arc<Peer>,
    since: UnixNanos,
) -> Result<EventCounts, ZineError> {
    let events = newest_that_fit(ledger.since(since, MAX_EVENTS).await?);
    let (zine, verification) = client.peer(&peer).exchange_zine(events).await?.into_parts();
    let mut counts = EventCounts::default();
    for _ in &zine.events.refused {
        counts.count_refused();
    }
    let accepted = zine.events.into_events();
    if !accepted.is_empty() {
        let origin = verification.responder.or_else(|| peer.info().name);
        for insertion in ledger.insert_from(accepted, origin).await? {
            counts.count(insertion);
        }
    }
    Ok(counts)
}

/// The last events that fit into a zine.
fn newest_that_fit(mut events: Vec<SyncEvent>) -> Vec<SyncEvent> {
    let mut bytes = 0;
    let fitting = events.iter().rev().take_while(|event| {
        bytes += go_json::to_vec(*event).len() + 1;
        bytes <= MAX_ZINE_BYTES
    });
    let surplus = events.len() - fitting.count();
    events.split_off(surplus)
}
