use std::net::SocketAddr;

use nara_proto::identity::NaraName;

use super::error::ErrorKind;
use super::{ClientError, DiscoveredKey, MeshClient, PeerRef, PingReport};

impl MeshClient {
    /// Measures the round trip to a peer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ping(&self, peer: impl Into<PeerRef>) -> Result<PingReport, ClientError> {
        std::future::ready(()).await;
        Err(ClientError::new(peer.into(), ErrorKind::UnknownPeer))
    }

    /// Asks the nara at an address for its name and key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn discover_key(
        &self,
        address: SocketAddr,
        _expected: Option<&NaraName>,
    ) -> Result<DiscoveredKey, ClientError> {
        std::future::ready(()).await;
        Err(ClientError::new(address, ErrorKind::UnknownPeer))
    }
}
