//! The interface between the data plane and its carriers, which are relays and direct paths.

use std::collections::HashSet;
use std::net::SocketAddr;

use bytes::BytesMut;
use tokio::sync::mpsc;
use ts_keys::NodePublicKey;

/// The number of a relay region.
pub(super) type RegionId = u32;

/// Packets to one peer through its relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RelayBatch {
    pub(super) to: NodePublicKey,
    pub(super) packets: Vec<BytesMut>,
}

/// The interface of the node for its relay links.
pub(super) trait RelayHost: Send + Sync + 'static {
    /// Registers the queue for packets to peers in this region.
    fn add_link(&self, region: RegionId, queue: mpsc::Sender<RelayBatch>);
    /// Removes the queue of a region.
    fn remove_link(&self, region: RegionId);
    /// Notifies the node of a new connection to a relay: packets may take another network path than before.
    fn connected(&self);
    /// Handles packets from a relay, each with the sender that the relay names.
    fn relayed(&self, packets: Vec<(NodePublicKey, BytesMut)>);
}

/// The interface of the node for direct paths.
pub(super) trait DirectHost: Send + Sync + 'static {
    /// Returns the peers with current traffic.
    fn active(&self) -> HashSet<NodePublicKey>;
    /// Sends a disco packet to a peer through its relay.
    fn relay(&self, to: NodePublicKey, packet: Vec<u8>);
    /// Sets the path of packets to a peer; `None` for its relay.
    fn set_path(&self, peer: NodePublicKey, path: Option<SocketAddr>);
    /// Handles WireGuard packets, each with its source address.
    fn inbound(&self, packets: Vec<(SocketAddr, BytesMut)>);
}
