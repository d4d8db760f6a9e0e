//! Direct paths to peers: UDP without a relay.
//!
//! | file | content |
//! |---|---|
//! | `session` | path selection for one peer, without I/O |
//! | `engine` | the sessions of all peers, without I/O |
//! | `disco`, `stun`, `packet`, `address` | message formats and input checks |
//! | `endpoints` | discovery of our own endpoints |
//! | `portmap` | port mapping at the router |
//! | `sockets` | UDP sockets |
//!
//! Packets use the relays until a path is found, and again after it fails. Nothing waits for a path.

mod address;
mod disco;
mod endpoints;
mod engine;
mod limit;
pub(super) mod packet;
mod portmap;
mod session;
mod sockets;
mod stun;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use ts_control::Endpoint;
use ts_keys::{DiscoKeyPair, NodePublicKey};

pub(super) use self::address::Policy;
use self::endpoints::Endpoints;
pub(super) use self::endpoints::{StunServer, reported};
pub(super) use self::engine::DirectPeer;
use self::engine::{Action, Engine, Via};
use self::packet::Kind;
use self::portmap::Mapper;
pub(super) use self::portmap::Release;
use self::sockets::Buffers;
pub(super) use self::sockets::{SendOutcome, Sockets};
use super::interfaces::Addresses;
use super::sleep::{Sleeps, slept};
use super::underlay::DirectHost;
use crate::status::PortMapping;

/// The capacity of the queues to the task, in packets. More are dropped: peers repeat their pings.
const QUEUE: usize = 256;
/// The maximum interval between two timeouts of the engine.
const IDLE: Duration = Duration::from_secs(30);
/// The pause after a failed read of a socket.
const BROKEN: Duration = Duration::from_millis(200);

/// The interface of direct paths for the data plane.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) sockets: Arc<Sockets>,
    relayed: mpsc::Sender<(NodePublicKey, BytesMut)>,
    refused: mpsc::Sender<SocketAddr>,
    activity: Arc<Notify>,
}

impl Port {
    /// Queues a disco packet that arrived through a relay. Returns `false` and drops the packet if the queue is full.
    pub(super) fn relayed(&self, from: NodePublicKey, packet: BytesMut) -> bool {
        self.relayed.try_send((from, packet)).is_ok()
    }

    /// Notifies the task that further peers have traffic.
    pub(super) fn more_active(&self) {
        self.activity.notify_one();
    }

    /// Sends packets to an address.
    pub(super) fn send(&self, to: SocketAddr, packets: &[BytesMut]) {
        if self.sockets.send(to, packets) == SendOutcome::Refused {
            let _ = self.refused.try_send(to);
        }
    }
}

/// The interface of direct paths for the control session.
pub(super) struct Direct {
    peers: watch::Sender<Vec<DirectPeer>>,
    servers: watch::Sender<Vec<StunServer>>,
    node: watch::Sender<NodePublicKey>,
    own: watch::Receiver<Vec<Endpoint>>,
    mapping: watch::Receiver<PortMapping>,
}

impl Direct {
    /// Creates the interface of a node without direct paths.
    pub(super) fn none(node: NodePublicKey) -> Self {
        Self {
            peers: watch::Sender::default(),
            servers: watch::Sender::default(),
            node: watch::Sender::new(node),
            own: watch::Sender::default().subscribe(),
            mapping: watch::Sender::default().subscribe(),
        }
    }

    /// Sets the peers.
    pub(super) fn set_peers(&self, peers: Vec<DirectPeer>) {
        replace(&self.peers, peers);
    }

    /// Sets the STUN servers.
    pub(super) fn set_servers(&self, servers: Vec<StunServer>) {
        replace(&self.servers, servers);
    }

    /// Sets our WireGuard key.
    pub(super) fn set_node(&self, node: NodePublicKey) {
        replace(&self.node, node);
    }

    /// Returns a receiver of our endpoints.
    pub(super) fn own(&self) -> watch::Receiver<Vec<Endpoint>> {
        self.own.clone()
    }

    /// Returns a receiver of the state of our port mapping.
    pub(super) fn mapping(&self) -> watch::Receiver<PortMapping> {
        self.mapping.clone()
    }
}

fn replace<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|old| {
        let differs = *old != value;
        *old = value;
        differs
    });
}

/// The task of direct paths.
pub(super) struct Runner {
    sockets: Arc<Sockets>,
    policy: Policy,
    relayed: mpsc::Receiver<(NodePublicKey, BytesMut)>,
    refused: mpsc::Receiver<SocketAddr>,
    activity: Arc<Notify>,
    peers: watch::Receiver<Vec<DirectPeer>>,
    servers: watch::Receiver<Vec<StunServer>>,
    node: watch::Receiver<NodePublicKey>,
    own: watch::Sender<Vec<Endpoint>>,
    mapping: watch::Sender<PortMapping>,
    mapper: Option<Mapper>,
}

/// Opens the sockets on this port, or on any port for 0.
///
/// Must be called within a tokio runtime.
pub(super) fn open(port: u16, policy: Policy, node: NodePublicKey) -> io::Result<(Port, Direct, Runner)> {
    let sockets = Arc::new(Sockets::bind(port)?);
    let activity = Arc::new(Notify::new());
    let (relayed, relayed_packets) = mpsc::channel(QUEUE);
    let (refused, refused_addresses) = mpsc::channel(QUEUE);
    let own = watch::Sender::default();
    let mapping = watch::Sender::default();
    let direct = Direct {
        peers: watch::Sender::default(),
        servers: watch::Sender::default(),
        node: watch::Sender::new(node),
        own: own.subscribe(),
        mapping: mapping.subscribe(),
    };
    let runner = Runner {
        sockets: Arc::clone(&sockets),
        policy,
        relayed: relayed_packets,
        refused: refused_addresses,
        activity: Arc::clone(&activity),
        peers: direct.peers.subscribe(),
        servers: direct.servers.subscribe(),
        node: direct.node.subscribe(),
        own,
        mapping,
        mapper: None,
    };
    let port = Port {
        sockets,
        relayed,
        refused,
        activity,
    };
    Ok((port, direct, runner))
}

impl Runner {
    /// Enables port mapping for as long as the task runs. Returns `None` without IPv4.
    pub(super) fn map_port(&mut self) -> Option<Release> {
        let port = self.sockets.port_for((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let (mapper, release) = Mapper::new(NonZeroU16::new(port)?, self.mapping.clone());
        self.mapper = Some(mapper);
        Some(release)
    }

    /// Runs until the control session is dropped.
    pub(super) async fn run(
        mut self,
        keys: DiscoKeyPair,
        host: Arc<dyn DirectHost>,
        addresses: Addresses,
        mut sleeps: Sleeps,
    ) {
        let (disco, mut packets) = mpsc::channel(QUEUE);
        let (stun, answers) = mpsc::channel(QUEUE);
        for socket in self.sockets.all() {
            // A socket must have been writable once before `try_send` succeeds.
            socket.writable().await;
        }
        // The set aborts its tasks on drop.
        let mut tasks = JoinSet::new();
        for n in 0..self.sockets.all().count() {
            let reader = Reader {
                sockets: Arc::clone(&self.sockets),
                host: Arc::clone(&host),
                disco: disco.clone(),
                stun: stun.clone(),
            };
            tasks.spawn(reader.run(n).boxed());
        }
        if let Some(mapper) = self.mapper.take() {
            tasks.spawn(mapper.run(addresses.clone(), sleeps.clone()).boxed());
        }
        let mut own = self.own.subscribe();
        let endpoints = Endpoints {
            sockets: Arc::clone(&self.sockets),
            policy: self.policy,
            servers: self.servers.clone(),
            addresses,
            sleeps: sleeps.clone(),
            answers,
            mapping: self.mapping.subscribe(),
            own: self.own.clone(),
        };
        tasks.spawn(endpoints.run().boxed());

        let node = *self.node.borrow_and_update();
        let mut engine = Engine::new(keys, node, self.policy, now());
        self.peers.mark_changed();
        loop {
            let wake = engine
                .next_timeout()
                .map_or_else(|| Instant::now() + IDLE, Instant::from_std);
            tokio::select! {
                Some((from, packet)) = packets.recv() => take(&mut engine, packet, Via::Udp(from)),
                Some((from, packet)) = self.relayed.recv() => take(&mut engine, packet, Via::Relay(from)),
                Some(address) = self.refused.recv() => engine.refused(address, now()),
                changed = self.peers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    engine.set_peers(&self.peers.borrow_and_update(), now());
                    engine.set_active(&host.active(), now());
                }
                Ok(()) = self.node.changed() => engine.set_node(*self.node.borrow_and_update()),
                Ok(()) = own.changed() => {
                    let own = own.borrow_and_update();
                    engine.set_own(own.iter().map(|own| own.endpoint).collect(), now());
                }
                () = slept(&mut sleeps) => engine.slept(now()),
                () = self.activity.notified() => engine.set_active(&host.active(), now()),
                () = sleep_until(wake) => {
                    engine.set_active(&host.active(), now());
                    engine.timeout(now());
                }
            }
            self.perform(&mut engine, &*host);
        }
    }

    fn perform(&self, engine: &mut Engine, host: &dyn DirectHost) {
        for action in engine.actions() {
            match action {
                Action::Send(to, packet) => {
                    if self.sockets.send(to, &[packet]) == SendOutcome::Refused {
                        engine.refused(to, now());
                    }
                }
                Action::Relay(to, packet) => host.relay(to, packet),
                Action::Route(peer, path) => host.set_path(peer, path),
            }
        }
        // Refused packets only produce routes back to relays.
        for action in engine.actions() {
            if let Action::Route(peer, path) = action {
                host.set_path(peer, path);
            }
        }
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Passes a packet to the engine. If a library panics, only this packet is lost.
fn take(engine: &mut Engine, mut packet: BytesMut, via: Via) {
    let taken = std::panic::catch_unwind(AssertUnwindSafe(|| {
        engine.received(packet.as_mut(), via, now());
    }));
    if taken.is_err() {
        tracing::error!("a library panicked on a disco packet, which was dropped");
    }
}

/// A task that reads a socket and dispatches packets by kind.
struct Reader {
    sockets: Arc<Sockets>,
    host: Arc<dyn DirectHost>,
    disco: mpsc::Sender<(SocketAddr, BytesMut)>,
    stun: mpsc::Sender<(SocketAddr, BytesMut)>,
}

impl Reader {
    /// Runs until it is aborted.
    async fn run(self, n: usize) {
        let Some(socket) = self.sockets.all().nth(n) else {
            return;
        };
        let mut buffers = Buffers::new();
        let mut batch = Vec::new();
        loop {
            if let Err(error) = socket.receive(&mut buffers, &mut batch).await {
                tracing::debug!(%error, "cannot read from a UDP socket");
                sleep(BROKEN).await;
            }
            let mut wireguard = Vec::with_capacity(batch.len());
            for (from, packet) in batch.drain(..) {
                // Packets are dropped if a queue is full: both sides repeat their requests.
                match packet::kind(packet.as_ref()) {
                    Kind::WireGuard => wireguard.push((from, packet)),
                    Kind::Disco => drop(self.disco.try_send((from, packet))),
                    Kind::Stun => drop(self.stun.try_send((from, packet))),
                    Kind::Unknown => {}
                }
            }
            if !wireguard.is_empty() {
                self.host.inbound(wireguard);
            }
        }
    }
}

#[cfg(test)]
mod tests;
