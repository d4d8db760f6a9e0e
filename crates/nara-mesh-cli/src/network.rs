//! The network of a command: sockets of this machine, or a node of a tailnet.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use nara_local_api::model;
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::discovery::Discovery;
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport};
use nara_tailnet::MeshNode;
use nara_tailnet::status::{NotReady, NotReadyReason, PathKind};
use nara_tailnet::tailscaled::TailscaledNode;

use crate::cli::{NetworkArgs, NetworkKind};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::settings::Settings;

/// How long to wait for an already running daemon to report its state.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(3);

/// The network over which a command calls peers: the sockets of this machine until it is attached to a
/// tailnet, or if no tailnet was requested.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    kind: Option<NetworkKind>,
    node: Arc<OnceLock<Arc<dyn MeshNode>>>,
}

impl Network {
    /// Resolves the requested network.
    pub(crate) fn resolve(args: &NetworkArgs) -> Self {
        Self {
            kind: args.network,
            node: Arc::default(),
        }
    }

    /// Attaches to the network as a guest, through a node that another process runs.
    pub(crate) async fn attach(&self, args: &NetworkArgs, settings: &Settings) -> Outcome<()> {
        let socket = match self.kind {
            None | Some(NetworkKind::Loopback) => return Ok(()),
            Some(NetworkKind::Tailscaled) => args.socket.clone(),
            Some(NetworkKind::Managed) => settings.managed_socket(&settings.local_nara()?)?,
            Some(NetworkKind::Embedded) => return Err(embedded_is_not_shared()),
        };
        let node = TailscaledNode::new(socket);
        node.ready(ATTACH_TIMEOUT).await.map_err(not_ready)?;
        let first = self.node.set(Arc::new(node)).is_ok();
        debug_assert!(first, "a network is attached once");
        Ok(())
    }

    /// Returns the node, if the command is on a tailnet.
    pub(crate) fn node(&self) -> Option<&Arc<dyn MeshNode>> {
        self.node.get()
    }

    /// Registers the naras that answer on the network now.
    pub(crate) async fn find_peers(&self, client: &MeshClient, args: &NetworkArgs) {
        let Some(node) = self.node() else { return };
        let discovery = Discovery::new(client.clone(), node.clone());
        let discovery = args.skip.iter().fold(discovery, Discovery::skip_prefix);
        if let Err(error) = discovery.run_once().await {
            tracing::warn!(%error, "the network does not report its nodes");
        }
    }

    /// Returns the path of packets to a peer and the host name of its node; `None` if the network does not
    /// report it.
    pub(crate) async fn way_to(&self, client: &MeshClient, peer: &PeerRef) -> Option<Way> {
        let node = self.node()?;
        let address = match peer {
            PeerRef::Ip(ip) => *ip,
            PeerRef::Address(address) => address.ip(),
            other => client.peer(other).known()?.info().address?.ip(),
        };
        Some(Way::to(&**node, address).await)
    }
}

/// The network that a nara is on.
#[derive(Clone, Debug)]
pub(crate) struct OnNetwork {
    pub(crate) kind: &'static str,
    /// `None`: this machine only.
    pub(crate) node: Option<Arc<dyn MeshNode>>,
}

/// The path of packets to a node.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) path: PathKind,
    /// The host name that the control server granted.
    pub(crate) granted_name: Option<String>,
}

impl Way {
    pub(crate) async fn to(node: &dyn MeshNode, address: IpAddr) -> Self {
        let whois = node.whois(SocketAddr::new(address, 0)).await;
        Self {
            path: node.path_to(address).await,
            granted_name: whois.ok().flatten().map(|identity| identity.host_name),
        }
    }
}

impl From<Way> for model::Way {
    fn from(way: Way) -> Self {
        Self {
            path: way.path.to_string(),
            host_name: way.granted_name,
        }
    }
}

impl Transport for Network {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        match self.node() {
            Some(node) => node.dial(peer),
            None => TcpTransport.dial(peer),
        }
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        match self.node() {
            Some(node) => node.listen(local),
            None => TcpTransport.listen(local),
        }
    }
}

fn embedded_is_not_shared() -> Failure {
    Failure::usage("an embedded node runs only inside `up`, and other commands cannot join through it")
        .hint("omit --network to work through the running nara")
}

/// Builds the failure of a node that is not ready, with its hint.
pub(crate) fn not_ready(error: NotReady) -> Failure {
    let exit = match error.reason {
        NotReadyReason::KeyRefused { .. } => Exit::Unauthenticated,
        NotReadyReason::ProgramMissing { .. } | NotReadyReason::SocketNotPermitted { .. } => Exit::Usage,
        _ => Exit::Unreachable,
    };
    let failure = Failure::new(exit, error.to_string());
    match node_hint(&error.reason) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns the hint for a node that is not ready, with the option that fixes it.
pub(crate) fn node_hint(reason: &NotReadyReason) -> Option<Cow<'static, str>> {
    match reason {
        NotReadyReason::ControlUnreachable { .. } => Some("check --control-url and the network".into()),
        NotReadyReason::DaemonNotRunning { .. } => {
            Some("start tailscaled, or choose another --network".into())
        }
        NotReadyReason::SocketNotPermitted { .. } => {
            Some("run as a user with access to its socket, or use --network managed".into())
        }
        reason => reason.hint(),
    }
}
