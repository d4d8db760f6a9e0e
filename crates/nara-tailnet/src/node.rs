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

/// The owner of an address: the control server vouches for it, and WireGuard enforces it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeIdentity {
    /// The host name that was granted to the node, without the domain of the tailnet.
    pub host_name: String,
    /// Its full name in the tailnet's DNS, without the final dot; empty without one.
    pub dns_name: String,
    /// Its addresses, IPv4 before IPv6.
    pub addresses: Vec<IpAddr>,
    /// The public WireGuard key of the node, as text such as `nodekey:…`; empty if unknown.
    pub node_key: String,
}

impl NodeIdentity {
    /// A node with a host name and addresses.
    pub fn new(host_name: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            host_name: host_name.into(),
            dns_name: String::new(),
            addresses,
            node_key: String::new(),
        }
    }
}

/// A node of a tailnet, whatever runs it.
///
/// It dials and listens ([`Transport`]) and knows its peers ([`PeerSource`]). It runs by itself: while its control
/// server or its daemon is away, [`MeshNode::status`] says so. No failure is final.
pub trait MeshNode: Transport + PeerSource {
    /// Waits until the node has an address and can reach peers, at most this long.
    ///
    /// # Errors
    /// [`NotReady`] with the reason, after the time is over, or at once if waiting is useless. The node continues
    /// to try, and may become ready later.
    fn ready(&self, within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>>;

    /// The current status. Never waits.
    fn status(&self) -> NodeStatus {
        self.watch_status().borrow().clone()
    }

    /// The status, and its changes.
    fn watch_status(&self) -> watch::Receiver<NodeStatus>;

    /// The current diagnosis of the node's connections.
    fn health(&self) -> BoxFuture<'_, NodeHealth> {
        Box::pin(std::future::ready(NodeHealth::default()))
    }

    /// The node that owns the source address of a connection; `None` for an address outside this tailnet.
    ///
    /// # Errors
    /// If the owner cannot be determined now. A caller that must know has to refuse.
    fn whois(&self, source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>>;

    /// The current path of packets to a peer.
    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind>;

    /// Leaves gracefully: connections of the node end, and an ephemeral node is removed from the tailnet. A shared
    /// node, such as the machine's daemon, keeps running.
    ///
    /// # Errors
    /// If the control server could not be notified; the node has ended all the same.
    fn leave(&self) -> BoxFuture<'_, io::Result<()>>;
}

/// The addresses of a node whenever they change.
pub(crate) fn addresses(status: watch::Receiver<NodeStatus>) -> BoxStream<'static, Vec<IpAddr>> {
    let running = WatchStream::from_changes(status)
        .filter_map(|status| std::future::ready(status.is_running().then_some(status.addresses)));
    Box::pin(running)
}

/// Waits until the node runs, waiting is useless, or the time is over.
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
    // However the wait ends, the status then says how things are.
    let _ = timeout(within, status.wait_for(is_settled)).await;
    let now = status.borrow().clone();
    let reason = match now.state {
        NodeState::Running if now.is_running() => return Ok(now),
        NodeState::Running => NotReadyReason::NoAddress,
        NodeState::Waiting(reason) => reason,
        NodeState::Starting => NotReadyReason::Connecting,
        NodeState::Left => NotReadyReason::Other {
            detail: "it has left the tailnet".to_owned(),
        },
    };
    Err(NotReady {
        reason,
        waited: begun.elapsed(),
    })
}
