//! A tailnet node inside the process: no daemon, no root, nothing to install.
//!
//! The node is built from the crates of tailscale-rs (`ts_*`): the control protocol, packet filter and network stack;
//! WireGuard is `gotatun`. This module adds what a node needs to run for months: a control loop that survives outages, relay
//! links that reconnect, timeouts on every connection, and bounds on every queue of packets.
//!
//! | file | is |
//! |---|---|
//! | `control` | the session with the control server, with retries |
//! | `netmap` | the nodes of the tailnet |
//! | `relay` | links to relays (DERP), pacing, the choice of the home relay |
//! | `direct` | direct UDP paths to peers |
//! | `sleep` | detection of suspends, after which all connections are reset |
//! | `plane`, `driver` | WireGuard and routing without I/O, and the I/O |
//! | `stack`, `device`, `tap` | TCP, the device below it, and the limits that TCP lacks |
//!
//! The first packets to a peer go over relays. Once a direct path is found, packets use it while it works.

mod chain;
mod control;
mod device;
mod direct;
mod driver;
mod interfaces;
mod keys;
mod netmap;
mod plane;
mod relay;
mod settings;
mod sleep;
mod stack;
mod tap;
mod tcp;
mod tls;
mod underlay;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_mesh::proto::identity::NaraName;
use nara_mesh::transport::{BoxMeshStream, Candidate, MeshListener, PeerSource, Transport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::WatchStream;
use ts_control::Endpoint;
use ts_keys::NodePublicKey;

use self::control::{Control, ControlState, Leave, Parts};
use self::device::Device;
use self::direct::Direct;
use self::driver::Driver;
pub use self::keys::KeyFileError;
use self::keys::Keys;
use self::netmap::{Node, View};
use self::relay::{LinkState, Relays};
pub use self::settings::{
    EmbeddedError, EmbeddedSettings, FAR, FAR_TCP_BUFFER, FIRST_WINDOW, MAX_BACKOFF, RELAY_BURST, RELAY_RATE,
    TAILSCALE_CONTROL, TCP_BUFFER, USER_TIMEOUT,
};
use self::stack::Stack;
use self::stack::listener::Listener;
use self::tap::Tap;
use self::tls::Tls;
use crate::node::{addresses, wait_until_ready};
use crate::status::{NodeHealth, NodeState, NodeStatus, NotReady, NotReadyReason, PathKind, PortMapping};
use crate::{MeshNode, NodeIdentity};

/// How long to wait for a new peer that our map may not list yet.
const UNKNOWN_PEER: Duration = Duration::from_secs(2);

/// How long to wait for the status to report that the node has left.
const LEFT: Duration = Duration::from_secs(1);

/// A node of a tailnet inside this process. A process may run several.
///
/// The node runs until it is dropped or [leaves](MeshNode::leave).
pub struct EmbeddedNode {
    stack: Arc<Stack>,
    driver: Arc<Driver>,
    relays: Arc<Relays>,
    view: watch::Receiver<View>,
    status: watch::Receiver<NodeStatus>,
    control: watch::Receiver<ControlState>,
    own: watch::Receiver<Vec<Endpoint>>,
    mapping: watch::Receiver<PortMapping>,
    mapped: Option<direct::Release>,
    leave: mpsc::Sender<Leave>,
    tasks: Mutex<JoinSet<()>>,
}

impl EmbeddedNode {
    /// Starts a node, which joins in the background; [`MeshNode::ready`] waits for that.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Fails if the settings are invalid or their files cannot be used. Network failures are not errors.
    pub fn start(settings: EmbeddedSettings) -> Result<Self, EmbeddedError> {
        settings.validate()?;
        let keys = Keys::open(settings.key_file.as_deref())?;
        let tls = Tls::new(&settings)?;
        let device = Arc::new(Device::default());
        let tap = Arc::new(Tap::new(Arc::clone(&device), settings.user_timeout));
        let node_keys = keys.state().node_keys.clone();
        let (port, direct, mut paths) = match open_direct(&settings, node_keys.public)? {
            Some((port, direct, paths)) => (Some(port), direct, Some(paths)),
            None => (None, Direct::none(node_keys.public), None),
        };
        let mapped = match &mut paths {
            Some(paths) if settings.port_mapping => paths.map_port(),
            _ => None,
        };
        let (own, mapping) = (direct.own(), direct.mapping());
        let driver = Arc::new(Driver::new(
            &node_keys,
            Arc::clone(&device),
            Arc::clone(&tap),
            port,
        ));
        let disco_keys = keys.state().disco_keys.clone();
        let addresses = watch::Sender::default();
        let watched_addresses = addresses.subscribe();
        let relays = Relays::new(
            Arc::<Driver>::clone(&driver),
            tls.clone(),
            settings.relay_rate,
            node_keys,
            addresses.subscribe(),
            driver.sleeps(),
        );
        let (stack, runners) = Stack::new(&device, Arc::clone(&driver), Arc::clone(&tap));
        let control_state = watch::Sender::default();
        let view = watch::Sender::default();
        let published = Published {
            control: control_state.subscribe(),
            view: view.subscribe(),
            home: relays.home_state(),
            control_url: settings.control_url.to_string(),
        };
        let watched_control = published.control.clone();
        let (status, watched) = watch::channel(published.status());
        let node_view = view.subscribe();
        let control = Control::new(
            settings,
            tls,
            keys,
            Parts {
                driver: Arc::clone(&driver),
                tap: Arc::clone(&tap),
                relays: Arc::clone(&relays),
                stack: Arc::clone(&stack),
                direct,
                view,
            },
            control_state,
        );
        let (leave, leaving) = mpsc::channel(1);

        let mut tasks = JoinSet::new();
        tasks.spawn(interfaces::run(addresses).boxed());
        for runner in runners {
            tasks.spawn(runner.run().boxed());
        }
        tasks.spawn(control.run(leaving, driver.sleeps()).boxed());
        tasks.spawn(published.run(status).boxed());
        tasks.spawn(async move { tap.run().await }.boxed());
        if let Some(paths) = paths {
            let host = Arc::<Driver>::clone(&driver);
            tasks.spawn(
                paths
                    .run(disco_keys, host, watched_addresses, driver.sleeps())
                    .boxed(),
            );
        }
        {
            let driver = Arc::clone(&driver);
            tasks.spawn(async move { driver.run_timers().await }.boxed());
        }
        {
            let driver = Arc::clone(&driver);
            tasks.spawn(async move { driver.run_stack().await }.boxed());
        }
        {
            let driver = Arc::clone(&driver);
            tasks.spawn(async move { driver.run_pulse().await }.boxed());
        }
        {
            let relays = Arc::clone(&relays);
            tasks.spawn(async move { relays.keep_home().await }.boxed());
        }
        Ok(Self {
            stack,
            driver,
            relays,
            view: node_view,
            status: watched,
            control: watched_control,
            own,
            mapping,
            mapped,
            leave,
            tasks: Mutex::new(tasks),
        })
    }

    /// Returns the node with this address. Waits briefly for a node that has just joined.
    async fn peer(&self, address: IpAddr) -> Option<Node> {
        let mut view = self.view.clone();
        let find = |view: &View| {
            view.peers
                .iter()
                .find(|peer| peer.addresses.contains(&address))
                .cloned()
        };
        let found = timeout(UNKNOWN_PEER, view.wait_for(|view| find(view).is_some())).await;
        found.ok()?.ok().and_then(|view| find(&view))
    }
}

impl Drop for EmbeddedNode {
    fn drop(&mut self) {
        self.relays.close();
    }
}

impl fmt::Debug for EmbeddedNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedNode")
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}

impl Transport for EmbeddedNode {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            let Some(node) = self.peer(peer.ip()).await else {
                return Err(io::Error::new(
                    io::ErrorKind::HostUnreachable,
                    format!("no node of the tailnet has the address {}", peer.ip()),
                ));
            };
            self.stack.dial(peer, node.key).await
        })
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let listener = Listener::open(Arc::clone(&self.stack), local).await?;
            Ok(Box::new(listener) as Box<dyn MeshListener>)
        })
    }

    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        addresses(self.watch_status())
    }
}

fn candidates(view: &View) -> Vec<Candidate> {
    view.peers.iter().map(Node::candidate).collect()
}

impl PeerSource for EmbeddedNode {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        Box::pin(async { Ok(candidates(&self.view.borrow())) })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        let changes = WatchStream::from_changes(self.view.clone());
        Box::pin(changes.map(|view| candidates(&view)))
    }

    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        let view = self.view.borrow();
        let owner = view.peers.iter().find(|peer| peer.addresses.contains(&address));
        let name = owner.and_then(|peer| Candidate::new(&*peer.host_name, Vec::new()).nara_name());
        Box::pin(std::future::ready(name))
    }
}

impl MeshNode for EmbeddedNode {
    fn ready(&self, within: Duration) -> BoxFuture<'_, Result<NodeStatus, NotReady>> {
        Box::pin(wait_until_ready(self.status.clone(), within))
    }

    fn watch_status(&self) -> watch::Receiver<NodeStatus> {
        self.status.clone()
    }

    fn health(&self) -> BoxFuture<'_, NodeHealth> {
        let health = NodeHealth {
            control_connected: Some(matches!(*self.control.borrow(), ControlState::Online)),
            home_relay: self.relays.home().borrow().map(|region| self.relays.code(region)),
            endpoints: direct::reported(&self.own.borrow()),
            port_mapping: self.mapping.borrow().clone(),
            ..NodeHealth::default()
        };
        Box::pin(std::future::ready(health))
    }

    fn whois(&self, source: SocketAddr) -> BoxFuture<'_, io::Result<Option<NodeIdentity>>> {
        let view = self.view.borrow();
        let found = view
            .peers
            .iter()
            .chain(view.own.as_ref())
            .find(|node| node.addresses.contains(&source.ip()))
            .map(Node::identity);
        Box::pin(std::future::ready(Ok(found)))
    }

    fn path_to(&self, peer: IpAddr) -> BoxFuture<'_, PathKind> {
        let view = self.view.borrow();
        let is_own = view.own.as_ref().is_some_and(|own| own.addresses.contains(&peer));
        let node = view.peers.iter().find(|node| node.addresses.contains(&peer));
        if let Some(endpoint) = node.and_then(|node| self.driver.path(&node.key)) {
            let endpoint = Some(endpoint);
            return Box::pin(std::future::ready(PathKind::Direct { endpoint }));
        }
        let region = node.and_then(|node| node.region.or_else(|| *self.relays.home().borrow()));
        Box::pin(std::future::ready(match region {
            _ if is_own => PathKind::Local,
            Some(region) => PathKind::Relay {
                region: self.relays.code(region),
            },
            None => PathKind::Unknown,
        }))
    }

    fn leave(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            // Stop the port mapping first, since the tasks of direct paths end with the control task.
            if let Some(mapped) = &self.mapped {
                mapped.release().await;
            }
            let (done, left) = oneshot::channel();
            let told = match self.leave.send(done).await {
                Ok(()) => left.await.unwrap_or(Ok(())),
                // The node has left already.
                Err(_) => Ok(()),
            };
            // Watchers of the status must see the final state before its task ends.
            let mut status = self.status.clone();
            let _ = timeout(LEFT, status.wait_for(|status| status.state == NodeState::Left)).await;
            self.relays.close();
            let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
            tasks.shutdown().await;
            told
        })
    }
}

/// Opens the sockets for direct paths. Optional unless a port was requested: if unavailable, startup continues
/// without them.
fn open_direct(
    settings: &EmbeddedSettings,
    node: NodePublicKey,
) -> Result<Option<(direct::Port, Direct, direct::Runner)>, EmbeddedError> {
    if !settings.direct {
        return Ok(None);
    }
    match direct::open(settings.udp_port, direct::Policy::default(), node) {
        Ok(opened) => Ok(Some(opened)),
        Err(source) if settings.udp_port != 0 => Err(EmbeddedError::UdpPort {
            port: settings.udp_port,
            source,
        }),
        Err(error) => {
            tracing::warn!(%error, "no UDP socket can be opened: all packets go through relays");
            Ok(None)
        }
    }
}

/// The inputs of the node's status.
struct Published {
    control: watch::Receiver<ControlState>,
    view: watch::Receiver<View>,
    home: watch::Receiver<LinkState>,
    control_url: String,
}

impl Published {
    fn status(&self) -> NodeStatus {
        let own = self.view.borrow().own.clone();
        let addresses = own.as_ref().map(|own| own.addresses.clone()).unwrap_or_default();
        let state = match (&*self.control.borrow(), &*self.home.borrow()) {
            (ControlState::Left, _) => NodeState::Left,
            (ControlState::Away(reason), _) => NodeState::Waiting(reason.clone()),
            (ControlState::Connecting, _) => NodeState::Starting,
            (ControlState::Online, _) if addresses.is_empty() => {
                NodeState::Waiting(NotReadyReason::NoAddress)
            }
            (ControlState::Online, LinkState::Up) => NodeState::Running,
            (ControlState::Online, LinkState::Idle) => NodeState::Waiting(NotReadyReason::Connecting),
            (ControlState::Online, LinkState::Down { detail, .. }) => {
                NodeState::Waiting(NotReadyReason::Other {
                    detail: format!("its home relay cannot be reached: {detail}"),
                })
            }
        };
        NodeStatus {
            state,
            addresses,
            granted_name: own.map(|own| own.host_name),
            control_url: Some(self.control_url.clone()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        }
    }

    async fn run(mut self, status: watch::Sender<NodeStatus>) {
        loop {
            let now = self.status();
            status.send_if_modified(|old| {
                let differs = *old != now;
                *old = now;
                differs
            });
            tokio::select! {
                Ok(()) = self.control.changed() => {}
                Ok(()) = self.view.changed() => {}
                Ok(()) = self.home.changed() => {}
                else => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
