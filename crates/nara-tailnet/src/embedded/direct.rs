//! Paths to peers that lead through no relay: UDP from address to address.
//!
//! | file | is |
//! |---|---|
//! | `session` | which path to one peer, without I/O |
//! | `engine` | all peers, what they send, and what is answered, without I/O |
//! | `disco`, `stun`, `packet`, `address` | the formats, and what is let in |
//! | `endpoints` | where we can be reached |
//! | `portmap` | a port of the router that leads to us |
//! | `sockets` | UDP |
//!
//! Until a path has been found, and when it dies, packets go through the relays. Nothing waits for a path.

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

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use ts_control::Endpoint;
use ts_keys::{DiscoKeyPair, NodePublicKey};
use ts_packet::PacketMut;

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

/// Packets that wait for the task. What comes on top is dropped: peers ping again.
const QUEUE: usize = 256;
/// Without anything else to do, the task looks around this often.
const IDLE: Duration = Duration::from_secs(30);
/// After a socket that cannot be read.
const BROKEN: Duration = Duration::from_millis(200);

/// What the rest of the node needs of direct paths.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) sockets: Arc<Sockets>,
    relayed: mpsc::Sender<(NodePublicKey, PacketMut)>,
    refused: mpsc::Sender<SocketAddr>,
    activity: Arc<Notify>,
}

impl Port {
    /// Takes a disco packet that came through a relay. `false`: there is no room, and it is dropped.
    pub(super) fn relayed(&self, from: NodePublicKey, packet: PacketMut) -> bool {
        self.relayed.try_send((from, packet)).is_ok()
    }

    /// Packets go to more peers than before.
    pub(super) fn more_active(&self) {
        self.activity.notify_one();
    }

    /// Sends packets to an address.
    pub(super) fn send(&self, to: SocketAddr, packets: &[PacketMut]) {
        if self.sockets.send(to, packets) == SendOutcome::Refused {
            let _ = self.refused.try_send(to);
        }
    }
}

/// What the control session tells, and is told.
pub(super) struct Direct {
    peers: watch::Sender<Vec<DirectPeer>>,
    servers: watch::Sender<Vec<StunServer>>,
    node: watch::Sender<NodePublicKey>,
    own: watch::Receiver<Vec<Endpoint>>,
    mapping: watch::Receiver<PortMapping>,
}

impl Direct {
    /// Without any direct path.
    pub(super) fn none(node: NodePublicKey) -> Self {
        Self {
            peers: watch::Sender::default(),
            servers: watch::Sender::default(),
            node: watch::Sender::new(node),
            own: watch::Sender::default().subscribe(),
            mapping: watch::Sender::default().subscribe(),
        }
    }

    /// The peers are these now.
    pub(super) fn set_peers(&self, peers: Vec<DirectPeer>) {
        replace(&self.peers, peers);
    }

    /// The STUN servers to ask are these now.
    pub(super) fn set_servers(&self, servers: Vec<StunServer>) {
        replace(&self.servers, servers);
    }

    /// Our WireGuard key has changed.
    pub(super) fn set_node(&self, node: NodePublicKey) {
        replace(&self.node, node);
    }

    /// Where we can be reached.
    pub(super) fn own(&self) -> watch::Receiver<Vec<Endpoint>> {
        self.own.clone()
    }

    /// What the router says about a port for us.
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

/// The part that runs.
pub(super) struct Runner {
    sockets: Arc<Sockets>,
    policy: Policy,
    relayed: mpsc::Receiver<(NodePublicKey, PacketMut)>,
    refused: mpsc::Receiver<SocketAddr>,
    activity: Arc<Notify>,
    peers: watch::Receiver<Vec<DirectPeer>>,
    servers: watch::Receiver<Vec<StunServer>>,
    node: watch::Receiver<NodePublicKey>,
    own: watch::Sender<Vec<Endpoint>>,
    mapping: watch::Sender<PortMapping>,
    mapper: Option<Mapper>,
}

/// Opens the sockets; 0 is any port.
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
    /// Has the router asked to map our port for as long as this runs. `None`: there is no IPv4.
    pub(super) fn map_port(&mut self) -> Option<Release> {
        let port = self.sockets.port_for((Ipv4Addr::UNSPECIFIED, 0).into())?;
        let (mapper, release) = Mapper::new(NonZeroU16::new(port)?, self.mapping.clone());
        self.mapper = Some(mapper);
        Some(release)
    }

    /// Runs until the node ends.
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
            // Before that nothing can be sent without waiting.
            socket.writable().await;
        }
        // All of them end with this one.
        let mut tasks = JoinSet::new();
        for n in 0..self.sockets.all().count() {
            let reader = Reader {
                sockets: Arc::clone(&self.sockets),
                host: Arc::clone(&host),
                disco: disco.clone(),
                stun: stun.clone(),
            };
            tasks.spawn(reader.run(n));
        }
        if let Some(mapper) = self.mapper.take() {
            tasks.spawn(mapper.run(addresses.clone(), sleeps.clone()));
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
        tasks.spawn(endpoints.run());

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
                Action::Known(address, peer) => host.set_known(address, peer),
            }
        }
        // What was refused leads back to relays: that is all there can be.
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

/// Gives a packet to the engine. Should a library panic on it, that packet is lost and no more.
fn take(engine: &mut Engine, mut packet: PacketMut, via: Via) {
    let taken = std::panic::catch_unwind(AssertUnwindSafe(|| {
        engine.received(packet.as_mut(), via, now());
    }));
    if taken.is_err() {
        tracing::error!("a disco packet made a library panic; it was dropped");
    }
}

/// Reads a socket and tells apart what comes.
struct Reader {
    sockets: Arc<Sockets>,
    host: Arc<dyn DirectHost>,
    disco: mpsc::Sender<(SocketAddr, PacketMut)>,
    stun: mpsc::Sender<(SocketAddr, PacketMut)>,
}

impl Reader {
    /// Never ends.
    async fn run(self, n: usize) {
        let Some(socket) = self.sockets.all().nth(n) else {
            return;
        };
        let mut buffers = Buffers::new();
        let mut batch = Vec::new();
        loop {
            if let Err(error) = socket.receive(&mut buffers, &mut batch).await {
                tracing::debug!(%error, "a UDP socket cannot be read");
                sleep(BROKEN).await;
            }
            let mut wireguard = Vec::with_capacity(batch.len());
            for (from, packet) in batch.drain(..) {
                // What finds no room is dropped: peers and we ask again.
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
