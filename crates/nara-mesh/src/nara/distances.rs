//! Measures how far peers are, one after the other.

use std::sync::Arc;
use std::time::Duration;

use nara_proto::breaker::BreakerState;
use tokio::time::sleep;

use crate::client::MeshClient;
use crate::defaults;
use crate::random::random;
use crate::registry::Peer;

/// How often the round trip to one of the peers is measured. Coordinates settle after some hundred measurements.
const INTERVAL: Duration = Duration::from_secs(5);

/// Asks one peer after the other for its coordinates, for as long as the nara runs.
pub(super) async fn measure(client: MeshClient) {
    loop {
        sleep(INTERVAL).await;
        let Some(peer) = any(&client) else { continue };
        let peer = client.peer(&peer).with_timeout(defaults::DISCOVERY_TIMEOUT);
        // One that does not answer is the business of its breaker, and one that does not know the endpoint has no place.
        if let Err(error) = peer.coordinates().await {
            tracing::debug!(%error, "no coordinates");
        }
    }
}

/// Any of the peers that can be called.
fn any(client: &MeshClient) -> Option<Arc<Peer>> {
    let mut peers = client.registry().peers();
    peers.retain(|peer| {
        peer.breaker_state() == BreakerState::Closed
            && peer.retry_after().is_none()
            && !peer.is_untrusted()
            && peer
                .with_info(|info| info.address.is_some() && info.name.as_ref() != Some(client.local().name()))
    });
    let place = u64::from_le_bytes(random()) % u64::try_from(peers.len().max(1)).unwrap_or(1);
    peers.into_iter().nth(usize::try_from(place).unwrap_or_default())
}
