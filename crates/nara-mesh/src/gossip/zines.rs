use std::sync::Arc;

use nara_proto::endpoint::{Endpoint as _, GossipZine};
use nara_proto::event::SyncEvent;
use nara_proto::sync::MAX_EVENTS;
use nara_proto::time::UnixNanos;

use super::EventCounts;
use crate::client::{ClientError, MeshClient};
use crate::ledger::{Ledger, LedgerError, ReadLimit};
use crate::registry::Peer;

/// Maximum size of the events in a zine: half of the largest request.
const MAX_ZINE_BYTES: usize = GossipZine::MAX_REQUEST / 2;

/// A failed zine exchange.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ZineError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("our own ledger failed")]
    Ledger(#[from] LedgerError),
}

/// Sends our recent events to a peer and stores the events of its zine.
pub(super) async fn exchange(
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    peer: Arc<Peer>,
    since: UnixNanos,
) -> Result<EventCounts, ZineError> {
    let limit = ReadLimit::events(MAX_EVENTS).bytes(MAX_ZINE_BYTES);
    let events = ledger.since(since, limit).await?;
    exchange_events(&client, &*ledger, &peer, events).await
}

/// Sends these events to a peer and stores the events of its zine.
pub(crate) async fn exchange_events(
    client: &MeshClient,
    ledger: &dyn Ledger,
    peer: &Arc<Peer>,
    events: Vec<SyncEvent>,
) -> Result<EventCounts, ZineError> {
    let (zine, verification) = client.peer(peer).exchange_zine(events).await?.into_parts();
    let mut counts = EventCounts::default();
    for _ in &zine.events.refused {
        counts.count_refused();
    }
    let accepted = zine.events.accepted;
    if !accepted.is_empty() {
        let origin = verification.responder.or_else(|| peer.info().name);
        for insertion in ledger.insert(accepted, origin).await? {
            counts.count(insertion);
        }
    }
    Ok(counts)
}
