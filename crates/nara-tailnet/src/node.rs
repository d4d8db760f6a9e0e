use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_mesh::transport::{PeerSource, Transport};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::WatchStream;

use crate::status::{NodeHealth, NodeState, NodeStatus, NotReady, NotReadyReason, PathKind};

/// The node that owns an address, as asserted by the control server and enforced by WireGuard.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeIdentity {
    /// The host name that was granted to the node, without the domain of the tailnet.
    pub host_name: String,
    /// The full name in the tailnet's DNS, without the final dot; empty if it has none.
    pub dns_name: String,
    /// The addresses of the node, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// The public WireGuard key of the node, as text such as `nodekey:…`; empty if unknown.
    pub node_key: String,
}

impl NodeIdentity {
    /// Creates an identity with a host name and addresses; the other fields are empty.
    pub fn new(host_name: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            host_name: host_name.into(),
            dns_name: String::new(),
            addresses,
            node_key: String::new(),
        }
    }
}

/// A node of a tailnet, independent of its implementation.
///
/// It dials and listens ([`Transport`]) and knows its peers ([`PeerSource`]). It runs in the background and recovers
/// from every failure; [`MeshNode::status`] reports when its control server or its daemon is unavailable.
pub trait MeshNode: Transport + PeerSource {
    /// Waits until the node has an address and can reach peers, for at most `within`.
    ///
    /// # Errors
    /// [`NotReady`] with the reason, on timeout, or at once if waiting cannot help. The node keeps trying and may
    /// become ready later.
    fn ready(&self, within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>>;

    /// Returns the current status without waiting.
    fn status(&self) -> NodeStatus {
        self.watch_status().borrow().clone()
    }

    /// Returns a receiver of the status and its changes.
    fn watch_status(&self) -> watch::Receiver<NodeStatus>;

    /// Returns a diagnosis of the node's connections.
    fn health(&self) -> BoxFuture<'_, NodeHealth> {
        Box::pin(std::future::ready(NodeHealth::default()))
    }

    /// Returns the node that owns the source address of a connection; `None` for an address outside this tailnet.
    ///
    /// # Errors
    /// If the owner cannot be determined now. A caller that needs the owner must refuse the connection.
    fn whois(&self, source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>>;

    /// Returns the current path of packets to a peer.
    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind>;

    /// Leaves the tailnet gracefully: closes the node's connections, and removes an ephemeral node from the tailnet. A
    /// shared node, such as the machine's daemon, keeps running.
    ///
    /// # Errors
    /// If the control server could not be notified; the node has ended regardless.
    fn leave(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// Returns a stream of the addresses of a node, one item per change.
pub(crate) fn addresses(status: watch::Receiver<NodeStatus>) -> BoxStream<'static, Vec<IpAddr>> {
    let running = WatchStream::from_changes(status)
        .filter_map(|status| std::future::ready(status.is_running().then_some(status.addresses)));
    Box::pin(running)
}

/// Waits until the node runs, waiting cannot help, or the timeout expires.
pub(crate) async fn wait_until_ready(
    mut status: watch::Receiver<NodeStatus>,
    within: Duration,
) -> Result<NodeStatus, NotReady> {
    let begun = Instant::now();
    let is_settled = |status: &NodeStatus| match &status.state {
        NodeState::Running => status.is_running(),
        NodeState::Waiting(reason) => !reason.may_pass(),
        NodeState::Starting => false,
        NodeState::Left => true,
    };
    // The outcome of the wait does not matter: the status is read below.
    let _ = timeout(within, status.wait_for(is_settled)).await;
    let now = status.borrow().clone();
    let reason = match now.state {
        NodeState::Running if now.is_running() => return Ok(now),
        NodeState::Running => NotReadyReason::NoAddress,
        NodeState::Waiting(reason) => reason,
        NodeState::Starting => NotReadyReason::Connecting,
        NodeState::Left => NotReadyReason::Other {
            detail: "the node has left the tailnet".to_owned(),
        },
    };
    Err(NotReady {
        reason,
        waited: begun.elapsed(),
    })
}
