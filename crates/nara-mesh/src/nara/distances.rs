//! Measures the distances of peers, one at a time.

use std::sync::Arc;
use std::time::Duration;

use nara_proto::breaker::BreakerState;
use tokio::time::sleep;

use crate::client::MeshClient;
use crate::defaults;
use crate::random::random;
use crate::registry::Peer;

/// The interval at which the round trip to one of the peers is measured. Coordinates settle after some hundred
/// measurements.
const INTERVAL: Duration = Duration::from_secs(5);

/// Queries the coordinates of one peer at a time, for as long as the nara runs.
pub(super) async fn measure(client: MeshClient) {
    loop {
        sleep(INTERVAL).await;
        let Some(peer) = any(&client) else { continue };
        let peer = client.peer(&peer).with_timeout(defaults::DISCOVERY_TIMEOUT);
        // A silent peer is up to its breaker, and a peer without the endpoint has no position.
        if let Err(error) = peer.coordinates().await {
            tracing::debug!(%error, "no coordinates");
        }
    }
}

/// Returns a random callable peer.
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
