//! A node run by the machine's `tailscaled`, through its LocalAPI.
//!
//! The daemon provides the tailnet in one of two ways. As a network device: sockets of the operating system are used.
//! In userspace: the daemon opens outgoing connections and forwards incoming ones to the loopback address. A
//! [`TailscaledNode`] detects the mode, and follows the daemon across restarts.

mod follow;
mod forwarded;
mod moving;
mod snapshot;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_mesh::proto::identity::NaraName;
use nara_mesh::transport::{BoxMeshStream, Candidate, MeshListener, PeerSource, TcpTransport, Transport};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::task::AbortOnDropHandle;

use crate::localapi::LocalApi;
use crate::node::{MeshNode, NodeIdentity, addresses, wait_until_ready};
use crate::status::{NodeHealth, NodeState, NodeStatus, NotReady, PathKind};
use follow::Follower;
pub(crate) use forwarded::{Announced, ForwardedListener};
use moving::MovingListener;
use snapshot::Snapshot;

/// The usual socket of the machine's daemon.
pub const DEFAULT_SOCKET: &str = if cfg!(target_os = "macos") {
    "/var/run/tailscaled.socket"
} else {
    "/var/run/tailscale/tailscaled.sock"
};

/// The maximum age of a snapshot for paths, health and candidates.
const PATH_AGE: Duration = Duration::from_secs(1);

/// A node run by a `tailscaled`. Clones share one node.
#[derive(Clone, Debug)]
pub struct TailscaledNode {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: LocalApi,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    status: watch::Receiver<NodeStatus>,
    candidates: watch::Receiver<Vec<Candidate>>,
    refresh: follow::Refresh,
    _follower: AbortOnDropHandle<()>,
}

impl TailscaledNode {
    /// Creates the node of the daemon with this socket, usually [`DEFAULT_SOCKET`]. Follows the daemon in the
    /// background; needs a tokio runtime.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let (_, no_problem) = watch::channel(None);
        Self::of_daemon(LocalApi::new(socket), no_problem)
    }

    /// Creates the node of a supervised daemon. `problem` is its state, as the supervisor knows it, while it does not
    /// answer.
    pub(crate) fn of_daemon(api: LocalApi, problem: watch::Receiver<Option<NodeState>>) -> Self {
        let (follower, outputs) = Follower::new(api.clone(), problem);
        Self {
            shared: Arc::new(Shared {
                api,
                snapshots: outputs.snapshots,
                status: outputs.status,
                candidates: outputs.candidates,
                refresh: outputs.refresh,
                _follower: AbortOnDropHandle::new(tokio::spawn(follower.run().boxed())),
            }),
        }
    }

    /// Returns whether a daemon answers at a socket and is on a tailnet.
    pub async fn is_running_at(socket: impl Into<PathBuf>) -> bool {
        let status = LocalApi::new(socket).status().await;
        status.is_ok_and(|status| status.backend_state == "Running")
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshots.borrow().clone()
    }
}

impl Transport for TailscaledNode {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            if self.snapshot().has_device() || peer.ip().is_loopback() {
                TcpTransport.dial(peer).await
            } else {
                self.shared.api.dial(peer).await
            }
        })
    }

    /// Listens on an address of the node, and moves the listener when the address changes. In userspace mode the
    /// listener uses a loopback port to which the daemon forwards; it accepts only connections of nodes known to the
    /// daemon, with the address of the node as source.
    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let snapshot = self.snapshot();
            if snapshot.has_device() && snapshot.own().contains(&local.ip()) {
                let listener = MovingListener::bind(local, self.shared.snapshots.clone()).await?;
                return Ok(Box::new(listener) as Box<dyn MeshListener>);
            }
            if snapshot.has_device() || local.ip().is_loopback() {
                return TcpTransport.listen(local).await;
            }
            if snapshot.daemon_has_device() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    "the address of the node is on a network device that this process cannot see: tailscaled runs in \
                    another network namespace",
                ));
            }
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, local.port())).await?;
            let address = SocketAddr::new(local.ip(), listener.local_addr()?.port());
            let api = self.shared.api.clone();
            let listener = ForwardedListener::new(listener, address, api, Announced::BySource);
            Ok(Box::new(listener) as Box<dyn MeshListener>)
        })
    }

    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        addresses(self.watch_status())
    }
}

impl PeerSource for TailscaledNode {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        Box::pin(async move {
            let snapshot = self.shared.refresh.now(&self.shared.snapshots, PATH_AGE).await?;
            Ok(snapshot.candidates())
        })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        // The stream keeps the node alive, and with it the follower that feeds the stream.
        let node = self.clone();
        let changes = WatchStream::from_changes(self.shared.candidates.clone());
        changes
            .map(move |candidates| {
                let _keep = &node;
                candidates
            })
            .boxed()
    }

    /// Returns the nara name derived from the host name of the node. Nodes choose their host names, so this is only a
    /// hint.
    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(async move {
            let snapshot = self.snapshot();
            snapshot.peer(address)?.nara_name()
        })
    }
}

impl MeshNode for TailscaledNode {
    fn ready(&self, within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>> {
        Box::pin(wait_until_ready(self.watch_status(), within))
    }

    fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.shared.status.clone()
    }

    fn health(&self) -> BoxFuture<'_, NodeHealth> {
        Box::pin(async move {
            let fresh = self.shared.refresh.now(&self.shared.snapshots, PATH_AGE).await;
            fresh.map(|snapshot| snapshot.health.clone()).unwrap_or_default()
        })
    }

    fn whois(&self, source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>> {
        Box::pin(async move {
            if let Some(peer) = self.snapshot().peer(source.ip()) {
                return Ok(Some(peer.identity()));
            }
            let found = self.shared.api.whois(&source.to_string()).await?;
            Ok(found.map(|found| snapshot::identity_of(&found)))
        })
    }

    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind> {
        Box::pin(async move {
            let fresh = self.shared.refresh.now(&self.shared.snapshots, PATH_AGE).await;
            let snapshot = fresh.unwrap_or_else(|_| self.snapshot());
            snapshot.path_to(peer)
        })
    }

    fn leave(&self) -> BoxFuture<'_, io::Result<()>> {
        // The daemon belongs to the machine.
        Box::pin(async { Ok(()) })
    }
}
