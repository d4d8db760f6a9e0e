//! What the data plane and the carriers of its packets, relays and direct paths, name in common.

use std::collections::HashSet;
use std::net::SocketAddr;

use tokio::sync::mpsc;
use ts_keys::NodePublicKey;
use ts_packet::PacketMut;

/// The number of a relay region.
pub(super) type RegionId = u32;

/// Packets for one peer that go through its relay.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RelayBatch {
    pub(super) to: NodePublicKey,
    pub(super) packets: Vec<PacketMut>,
}

/// What the links to relays need of the node.
pub(super) trait RelayHost: Send + Sync + 'static {
    /// From now on, packets for peers in this region go into this queue.
    fn add_link(&self, region: RegionId, queue: mpsc::Sender<RelayBatch>);
    /// A link to a relay has been made: packets may take another way to it than before.
    fn connected(&self);
    /// Takes packets from a relay, each with the node that the relay names as its sender.
    fn relayed(&self, packets: Vec<(NodePublicKey, PacketMut)>);
}

/// What direct paths need of the node.
pub(super) trait DirectHost: Send + Sync + 'static {
    /// The peers to which packets go now.
    fn active(&self) -> HashSet<NodePublicKey>;
    /// Sends a disco packet to a peer through its relay.
    fn relay(&self, to: NodePublicKey, packet: Vec<u8>);
    /// Sends packets to a peer there from now on; `None`: through its relay.
    fn set_path(&self, peer: NodePublicKey, path: Option<SocketAddr>);
    /// Packets from this address come from this peer, as far as can be told before WireGuard has opened them.
    fn set_known(&self, address: SocketAddr, peer: NodePublicKey);
    /// Takes WireGuard packets, each with the address that it came from.
    fn inbound(&self, packets: Vec<(SocketAddr, PacketMut)>);
}
