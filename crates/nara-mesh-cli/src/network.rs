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

/// How long a daemon that runs may take to say so.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(3);

/// The network over which a command calls peers. Until it is attached, and if no tailnet was asked for, these are the
/// sockets of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    kind: Option<NetworkKind>,
    node: Arc<OnceLock<Arc<dyn MeshNode>>>,
}

impl Network {
    /// The network that was asked for.
    pub(crate) fn resolve(args: &NetworkArgs) -> Self {
        Self {
            kind: args.network,
            node: Arc::default(),
        }
    }

    /// Becomes a part of the network, as a guest: a node that somebody else runs is used.
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

    /// The node, if the command is on a tailnet.
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

    /// Which way packets to a peer take, and what its node is called; `None`: the network does not say.
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
    /// `None`: this machine alone.
    pub(crate) node: Option<Arc<dyn MeshNode>>,
}

/// Which way packets to a node take.
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
    Failure::usage("an embedded node lives inside `up`: a command cannot be on it by itself")
        .hint("leave out --network: then the command works through the nara that runs")
}

/// The failure of a node that is not ready: what happened, and what to do.
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

/// What to do about a node that is not ready, with the option where there is one.
pub(crate) fn node_hint(reason: &NotReadyReason) -> Option<Cow<'static, str>> {
    match reason {
        NotReadyReason::ControlUnreachable { .. } => Some("check --control-url and the network".into()),
        NotReadyReason::DaemonNotRunning { .. } => {
            Some("start tailscaled, or choose another --network".into())
        }
        NotReadyReason::SocketNotPermitted { .. } => {
            Some("run as a user with access to it, or use --network managed".into())
        }
        reason => reason.hint(),
    }
}
