//! A node run by a managed `tailscaled`: a supervised child process in userspace mode, with its own socket and state.
//!
//! It needs no root and changes nothing on the machine; several managed daemons can run beside each other and beside
//! the machine's own. The daemon ends with this process, even after a crash: a shell runs it and kills it when our end
//! of a pipe closes. After a crash its state remains, by design, and an ephemeral node stays on the tailnet until the
//! control server removes it.

mod child;
mod config;
mod login;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_mesh::proto::identity::NaraName;
use nara_mesh::transport::{BoxMeshStream, Candidate, MeshListener, PeerSource, Transport};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use self::config::ManagedConfig;
use self::supervise::Supervisor;
use crate::localapi::{Forwarding, LocalApi};
use crate::node::{MeshNode, NodeIdentity, addresses, wait_until_ready};
use crate::status::{NodeHealth, NodeState, NodeStatus, NotReady, NotReadyReason, PathKind};
use crate::tailscaled::{Announced, ForwardedListener, TailscaledNode};

/// The maximum length in bytes of the path of a unix socket, on the strictest system.
const MAX_SOCKET_PATH: usize = 100;

/// The file name of the socket in the folder of a daemon.
const SOCKET: &str = "tailscaled.sock";

/// The file in that folder with the path of the socket, if the socket is elsewhere.
const SOCKET_NOTE: &str = "socket-path";

/// The timeout for the removal of an ephemeral node by the control server.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the control server to accept a key that it has just refused.
const KEY_TIMEOUT: Duration = Duration::from_secs(2);

/// A node run by a managed `tailscaled`. Clones share one node; the daemon ends with the last clone.
#[derive(Clone, Debug)]
pub struct ManagedNode {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: TailscaledNode,
    api: LocalApi,
    ephemeral: bool,
    /// The ports of the node that the daemon was configured to forward, with their targets.
    ports: Mutex<Forwarding>,
    end: CancellationToken,
    _supervisor: AbortOnDropHandle<()>,
    /// The folder of the socket, if the path of the state folder is too long for a socket.
    _short_folder: Option<tempfile::TempDir>,
}

impl ManagedNode {
    /// Starts a daemon and keeps it running in the background; needs a tokio runtime. [`MeshNode::ready`] waits
    /// until the node is ready, or reports why it is not.
    ///
    /// # Errors
    /// If its folder cannot be created.
    pub fn start(config: ManagedConfig) -> io::Result<Self> {
        make_private_folder(&config.folder)?;
        let folder = std::path::absolute(&config.folder)?;
        let note = folder.join(SOCKET_NOTE);
        let mut socket = folder.join(SOCKET);
        let mut short_folder = None;
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            let folder = tempfile::Builder::new().prefix("nara-mesh-").tempdir()?;
            socket = folder.path().join(SOCKET);
            std::fs::write(&note, socket.as_os_str().as_bytes())?;
            short_folder = Some(folder);
        } else if note.exists() {
            std::fs::remove_file(&note)?;
        }
        let api = LocalApi::new(socket);
        let (problem, problems) = watch::channel(Some(NodeState::Starting));
        let node = TailscaledNode::of_daemon(api.clone(), problems);
        let end = CancellationToken::new();
        let ephemeral = config.ephemeral;
        let supervisor = Supervisor {
            config: ManagedConfig { folder, ..config },
            api: api.clone(),
            status: node.watch_status(),
            problem,
            end: end.clone(),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                node,
                api,
                ephemeral,
                ports: Mutex::default(),
                end,
                _supervisor: AbortOnDropHandle::new(tokio::spawn(supervisor.run().boxed())),
                _short_folder: short_folder,
            }),
        })
    }

    /// Returns the path of the socket of the daemon with its state in this folder. If the path of the folder is too
    /// long for a socket, the last started daemon recorded the path of its socket there.
    pub fn socket_in(folder: &Path) -> PathBuf {
        match std::fs::read(folder.join(SOCKET_NOTE)) {
            Ok(noted) if !noted.is_empty() => OsString::from_vec(noted).into(),
            _ => folder.join(SOCKET),
        }
    }

    /// Returns the path of the daemon's socket, for `tailscale --socket`.
    pub fn socket(&self) -> &Path {
        self.shared.api.socket()
    }
}

/// Creates a folder that only this user can enter.
fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

impl Transport for ManagedNode {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        self.shared.node.dial(peer)
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let api = &self.shared.api;
            // The daemon is configured with all ports at once; the lock keeps concurrent listeners from dropping a
            // port.
            let mut ports = self.shared.ports.lock().await;
            let listener = match self.shared.node.listen(local).await {
                // Another nara on this machine uses the loopback port to which daemons forward by default.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                    let mut with_this = ports.clone();
                    with_this.insert(local.port(), listener.local_addr()?);
                    api.forward(&with_this).await?;
                    *ports = with_this;
                    let listener = ForwardedListener::new(listener, local, api.clone(), Announced::ByHeader);
                    return Ok(Box::new(listener) as Box<dyn MeshListener>);
                }
                other => other?,
            };
            ports.remove(listener.local_addr().port());
            // The daemon stores its configuration: an earlier run may have left another one.
            if let Err(error) = api.forward(&ports).await {
                tracing::debug!(%error, "tailscaled refused the configuration of forwarded ports");
            }
            Ok(listener)
        })
    }

    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        addresses(self.watch_status())
    }
}

impl PeerSource for ManagedNode {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        self.shared.node.candidates()
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        self.shared.node.watch()
    }

    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        self.shared.node.owner_of(address)
    }
}

impl MeshNode for ManagedNode {
    fn ready(&self, within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>> {
        Box::pin(async move {
            let begun = Instant::now();
            let left = || within.saturating_sub(begun.elapsed());
            let outcome = wait_until_ready(self.watch_status(), within).await;
            let is_refused = |outcome: &Result<_, NotReady>| matches!(outcome, Err(error) if matches!(error.reason, NotReadyReason::KeyRefused { .. }));
            if !is_refused(&outcome) {
                return outcome;
            }
            // A daemon with state starts without the key, so the control server may refuse it until it gets the key.
            let accepted = async {
                let mut status = self.watch_status();
                let accepted = status.wait_for(|status| status.is_running()).await;
                accepted.map(|status| status.clone()).ok()
            };
            match timeout(left().min(KEY_TIMEOUT), accepted).await {
                Ok(Some(status)) => Ok(status),
                _ => wait_until_ready(self.watch_status(), left()).await,
            }
        })
    }

    fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.shared.node.watch_status()
    }

    fn health(&self) -> BoxFuture<'_, NodeHealth> {
        self.shared.node.health()
    }

    fn whois(&self, source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>> {
        self.shared.node.whois(source)
    }

    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind> {
        self.shared.node.path_to(peer)
    }

    fn leave(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let shared = &self.shared;
            let mut notified = Ok(());
            if shared.ephemeral && self.status().state != NodeState::Left {
                let logout = timeout(LOGOUT_TIMEOUT, shared.api.logout()).await;
                notified = match logout {
                    Ok(outcome) => outcome.map_err(io::Error::from),
                    Err(elapsed) => Err(elapsed.into()),
                };
            }
            shared.end.cancel();
            // An error means that the follower has ended.
            let _ = self
                .watch_status()
                .wait_for(|status| status.state == NodeState::Left)
                .await;
            notified
        })
    }
}
