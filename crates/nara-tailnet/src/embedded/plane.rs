//! WireGuard and routing between the network stack, relays and direct paths of the node, without I/O.
//!
//! The input is packets and times, the output packets: see [`Plane::handle`]. The [`driver`](super::driver) does the
//! I/O.

mod tunnels;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ts_keys::{NodeKeyPair, NodePublicKey};

use self::tunnels::{Opened, Origin, Tunnels};
use super::device::PADDING;
use super::direct::packet::{Kind, kind};
use super::settings::FAR;
use super::tap::Ip;
use super::underlay::{RegionId, RelayBatch};

/// The maximum number of packets per [`Input`]; more are dropped. Callers split what they have.
pub(super) const MAX_BATCH: usize = 1024;
/// A peer becomes inactive if nothing was sent to it for this long.
const ACTIVE: Duration = Duration::from_secs(45);
/// The interval between searches for inactive peers.
const TIDY: Duration = Duration::from_secs(10);

/// A peer in the map of the control server, as routing needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerRoute {
    pub(super) key: NodePublicKey,
    pub(super) addresses: Vec<IpAddr>,
    /// The region of its home relay.
    pub(super) region: Option<RegionId>,
}

/// An event for the plane.
#[derive(Debug)]
pub(super) enum Input {
    /// IP packets from the network stack.
    Stack(Vec<BytesMut>),
    /// Packets from a relay, each with the sender that the relay claims.
    Relay(Vec<(NodePublicKey, BytesMut)>),
    /// WireGuard packets received over UDP, each with its source address.
    Udp(Vec<(SocketAddr, BytesMut)>),
    /// A disco packet for a peer, to send through its relay.
    Disco(NodePublicKey, BytesMut),
    /// A peer does not answer: it may have lost its session, or the handshake was lost.
    Unanswered(NodePublicKey),
    /// The time of [`Plane::next_timeout`] has passed.
    Timeout,
    /// The node has slept.
    Slept,
}

/// Packets to send, by destination.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs {
    /// IP packets for the network stack.
    pub(super) stack: Vec<BytesMut>,
    pub(super) relay: Vec<(RegionId, RelayBatch)>,
    pub(super) udp: Vec<(SocketAddr, Vec<BytesMut>)>,
    /// Disco packets from a relay, for the direct paths.
    pub(super) disco: Vec<(NodePublicKey, BytesMut)>,
    /// A peer has become active.
    pub(super) newly_active: bool,
    /// [`Plane::far_addresses`] has changed.
    pub(super) far_changed: bool,
}

/// The numbers of dropped packets, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// No peer has the destination address.
    pub(super) no_peer: u64,
    /// The peer has neither a direct path nor a relay.
    pub(super) no_way: u64,
    /// Not an IP packet from an address of its sender to one of ours.
    pub(super) misaddressed: u64,
    /// A packet from a relay that is neither WireGuard nor disco.
    pub(super) unknown: u64,
    /// A WireGuard packet that is malformed, forged, replayed, or of a session that has ended.
    pub(super) unreadable: u64,
    /// The batch was longer than [`MAX_BATCH`].
    pub(super) too_many: u64,
    /// The destination queue is full.
    pub(super) no_room: u64,
    /// Inputs on which a library panicked. The rest of the input is dropped.
    pub(super) panics: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// The region of its relay.
    region: Option<RegionId>,
    /// Its direct path.
    path: Option<SocketAddr>,
    /// The time of its last packet in a session.
    heard: Option<Instant>,
    /// The time of the last packet to it; `None` if it is inactive.
    sent: Option<Instant>,
    /// The round trip of its last handshake was long.
    is_far: bool,
}

/// WireGuard and routing without I/O; see the module.
pub(super) struct Plane {
    tunnels: Tunnels,
    peers: HashMap<NodePublicKey, Peer>,
    by_address: HashMap<IpAddr, NodePublicKey>,
    own: HashSet<IpAddr>,
    /// The time of the next search for inactive peers.
    tidy: Option<Instant>,
    dropped: Dropped,
}

impl Plane {
    pub(super) fn new(keys: &NodeKeyPair) -> Self {
        Self {
            tunnels: Tunnels::new(keys),
            peers: HashMap::new(),
            by_address: HashMap::new(),
            own: HashSet::new(),
            tidy: None,
            dropped: Dropped::default(),
        }
    }

    /// Replaces our key. Peers and routes stay; sessions end.
    pub(super) fn set_keys(&mut self, keys: &NodeKeyPair) {
        self.tunnels = Tunnels::new(keys);
        for peer in self.peers.values_mut() {
            peer.heard = None;
        }
    }

    /// Sets our addresses and the peers. `home` is the region for peers without one. Sessions of remaining peers
    /// continue.
    pub(super) fn set_routes(&mut self, own: &[IpAddr], routes: &[PeerRoute], home: Option<RegionId>) {
        self.own = own.iter().copied().collect();
        self.by_address.clear();
        let listed: HashSet<_> = routes.iter().map(|route| route.key).collect();
        self.peers.retain(|key, _| listed.contains(key));
        self.tunnels.retain(|key| listed.contains(key));
        for route in routes {
            self.peers.entry(route.key).or_default().region = route.region.or(home);
            self.by_address
                .extend(route.addresses.iter().map(|address| (*address, route.key)));
        }
    }

    /// Sets the direct path to a peer; `None` uses its relay. Does nothing for an unknown peer.
    pub(super) fn set_path(&mut self, peer: &NodePublicKey, path: Option<SocketAddr>) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.path = path;
        }
    }

    /// Returns the direct path to a peer, if any.
    pub(super) fn path(&self, peer: &NodePublicKey) -> Option<SocketAddr> {
        self.peers.get(peer)?.path
    }

    /// Returns the addresses of a peer.
    pub(super) fn addresses_of(&self, peer: &NodePublicKey) -> HashSet<IpAddr> {
        let of_peer = self.by_address.iter().filter(|(_, key)| *key == peer);
        of_peer.map(|(address, _)| *address).collect()
    }

    /// Returns the addresses of all peers with a direct path.
    pub(super) fn direct_addresses(&self) -> HashSet<IpAddr> {
        self.addresses_where(|peer| peer.path.is_some())
    }

    /// Returns the addresses of all peers with a long round trip at their last handshake.
    pub(super) fn far_addresses(&self) -> HashSet<IpAddr> {
        self.addresses_where(|peer| peer.is_far)
    }

    fn addresses_where(&self, holds: impl Fn(&Peer) -> bool) -> HashSet<IpAddr> {
        let of_peers = self.by_address.iter();
        let found = of_peers.filter(|(_, key)| self.peers.get(key).is_some_and(&holds));
        found.map(|(address, _)| *address).collect()
    }

    /// Returns whether a packet of a session with this peer has arrived since then.
    pub(super) fn heard_since(&self, peer: &NodePublicKey, since: Instant) -> bool {
        let heard = self.peers.get(peer).and_then(|peer| peer.heard);
        heard.is_some_and(|heard| heard >= since)
    }

    /// Returns the round-trip time of the last handshake with a peer, if it is known.
    pub(super) fn round_trip(&self, peer: &NodePublicKey) -> Option<Duration> {
        self.tunnels.round_trip(peer)
    }

    /// Returns the active peers.
    pub(super) fn active(&self) -> HashSet<NodePublicKey> {
        let active = self.peers.iter().filter(|(_, peer)| peer.sent.is_some());
        active.map(|(key, _)| *key).collect()
    }

    /// Returns when [`Input::Timeout`] is due; `None` for never.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.tunnels.next_timeout().into_iter().chain(self.tidy).min()
    }

    /// Returns the numbers of packets dropped so far.
    pub(super) const fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Counts packets of [`Outputs`] that were dropped at a full queue.
    pub(super) const fn count_no_room(&mut self, packets: usize) {
        self.dropped.no_room += packets as u64;
    }

    /// Processes an input. Never panics.
    ///
    /// Returns at most as many packets as the input has, plus those that waited for a session: up to 256 per peer and a
    /// handshake.
    pub(super) fn handle(&mut self, input: Input, now: Instant) -> Outputs {
        let mut outputs = Outputs::default();
        // Packets are untrusted input. If a library panics on one, only the rest of its batch is lost.
        let handled = std::panic::catch_unwind(AssertUnwindSafe(|| self.work(input, now, &mut outputs)));
        if handled.is_err() {
            self.dropped.panics += 1;
            tracing::error!("a library panicked on a packet, which was dropped");
        }
        outputs
    }

    fn work(&mut self, input: Input, now: Instant, outputs: &mut Outputs) {
        match input {
            Input::Stack(packets) => {
                let packets = self.cut(packets);
                self.seal(packets, now, outputs);
            }
            Input::Relay(packets) => {
                let packets = self.cut(packets);
                self.take_relayed(packets, now, outputs);
            }
            Input::Udp(packets) => {
                for (from, packet) in self.cut(packets) {
                    self.open(packet, Origin::Udp(from), now, outputs);
                }
            }
            Input::Disco(to, packet) => match self.peers.get(&to).and_then(|peer| peer.region) {
                Some(region) => {
                    let packets = vec![packet];
                    outputs.relay.push((region, RelayBatch { to, packets }));
                }
                None => self.dropped.no_way += 1,
            },
            Input::Unanswered(peer) => self.initiate_handshake(&peer, now, outputs),
            Input::Timeout => self.timeout(now, outputs),
            Input::Slept => self.reset_after_sleep(now, outputs),
        }
    }

    fn cut<T>(&mut self, mut batch: Vec<T>) -> Vec<T> {
        self.dropped.too_many += batch.len().saturating_sub(MAX_BATCH) as u64;
        batch.truncate(MAX_BATCH);
        batch
    }

    /// Encrypts packets of the stack for the peers at their destination addresses.
    fn seal(&mut self, packets: Vec<BytesMut>, now: Instant, outputs: &mut Outputs) {
        // Packets to the same peer are sent in one call.
        let mut batches: Vec<(NodePublicKey, Vec<BytesMut>)> = Vec::new();
        for mut packet in packets {
            let ip = Ip::parse(&packet);
            let Some(to) = ip.and_then(|ip| self.by_address.get(&ip.destination)).copied() else {
                self.dropped.no_peer += 1;
                continue;
            };
            self.set_active(&to, now, outputs);
            packet.resize(packet.len().next_multiple_of(PADDING), 0);
            let Some(sealed) = self.tunnels.seal(&to, packet, now) else {
                continue;
            };
            match batches.iter_mut().rfind(|(peer, _)| *peer == to) {
                Some((_, batch)) => batch.push(sealed),
                None => batches.push((to, vec![sealed])),
            }
        }
        for (to, batch) in batches {
            self.route(&to, batch, None, outputs);
        }
    }

    fn take_relayed(&mut self, packets: Vec<(NodePublicKey, BytesMut)>, now: Instant, outputs: &mut Outputs) {
        for (from, packet) in packets {
            match kind(&packet) {
                Kind::Disco => outputs.disco.push((from, packet)),
                Kind::WireGuard => self.open(packet, Origin::Relay(from), now, outputs),
                Kind::Stun | Kind::Unknown => self.dropped.unknown += 1,
            }
        }
    }

    /// Decrypts a WireGuard packet, and answers a handshake.
    fn open(&mut self, packet: BytesMut, origin: Origin, now: Instant, outputs: &mut Outputs) {
        let is_listed = |peer: &NodePublicKey| self.peers.contains_key(peer);
        let opened = match self.tunnels.open(packet, origin, now, is_listed) {
            Opened::Authentic(opened) => opened,
            Opened::Cookie(cookie) => {
                match origin {
                    Origin::Udp(address) => outputs.udp.push((address, vec![cookie])),
                    Origin::Relay(sender) => self.route(&sender, vec![cookie], Some(origin), outputs),
                }
                return;
            }
            Opened::Unreadable => {
                self.dropped.unreadable += 1;
                return;
            }
        };
        if opened.in_session
            && let Some(peer) = self.peers.get_mut(&opened.peer)
        {
            peer.heard = Some(now);
            if let Some(round_trip) = opened.round_trip {
                let was_far = std::mem::replace(&mut peer.is_far, round_trip >= FAR);
                outputs.far_changed |= was_far != peer.is_far;
            }
        }
        if let Some(mut packet) = opened.packet {
            match self.ip_len(&opened.peer, &packet) {
                Some(len) => {
                    packet.truncate(len);
                    outputs.stack.push(packet);
                }
                None => self.dropped.misaddressed += 1,
            }
        }
        if !opened.answers.is_empty() {
            self.set_active(&opened.peer, now, outputs);
            // During a handshake the peer listens there, although it may not be its path.
            let back = (!opened.in_session).then_some(origin);
            self.route(&opened.peer, opened.answers, back, outputs);
        }
    }

    fn initiate_handshake(&mut self, peer: &NodePublicKey, now: Instant, outputs: &mut Outputs) {
        if !self.peers.contains_key(peer) {
            return;
        }
        self.set_active(peer, now, outputs);
        if let Some(initiation) = self.tunnels.initiate_handshake(peer, now) {
            self.route(peer, vec![initiation], None, outputs);
        }
    }

    fn timeout(&mut self, now: Instant, outputs: &mut Outputs) {
        for (peer, packet) in self.tunnels.timers(now) {
            self.set_active(&peer, now, outputs);
            self.route(&peer, vec![packet], None, outputs);
        }
        if self.tidy.is_some_and(|tidy| tidy <= now) {
            let mut is_any_active = false;
            for peer in self.peers.values_mut() {
                peer.sent = peer
                    .sent
                    .filter(|sent| now.saturating_duration_since(*sent) < ACTIVE);
                is_any_active |= peer.sent.is_some();
            }
            self.tidy = is_any_active.then(|| now + TIDY);
        }
    }

    /// Drops all sessions and paths, since peers and NATs may have dropped them too. Starts handshakes with active
    /// peers, and with those that may still use a session that we have dropped.
    fn reset_after_sleep(&mut self, now: Instant, outputs: &mut Outputs) {
        let had_session = self.tunnels.reset();
        for peer in self.peers.values_mut() {
            (peer.path, peer.heard) = (None, None);
        }
        for peer in self.active().into_iter().chain(had_session) {
            self.initiate_handshake(&peer, now, outputs);
        }
    }

    /// Returns the length of an IP packet from an address of this peer to one of ours, without the padding.
    fn ip_len(&self, from: &NodePublicKey, packet: &[u8]) -> Option<usize> {
        let ip = Ip::parse(packet)?;
        let is_addressed =
            self.by_address.get(&ip.source) == Some(from) && self.own.contains(&ip.destination);
        is_addressed.then_some(ip.len())
    }

    /// Sends packets to a peer: back to where its packet came from, or on its path.
    fn route(
        &mut self,
        to: &NodePublicKey,
        packets: Vec<BytesMut>,
        back: Option<Origin>,
        outputs: &mut Outputs,
    ) {
        let Some(peer) = self.peers.get(to) else {
            self.dropped.no_peer += packets.len() as u64;
            return;
        };
        let path = match back {
            Some(Origin::Udp(address)) => Some(address),
            Some(Origin::Relay(_)) => None,
            None => peer.path,
        };
        match (path, peer.region) {
            (Some(path), _) => outputs.udp.push((path, packets)),
            (None, Some(region)) => outputs.relay.push((region, RelayBatch { to: *to, packets })),
            (None, None) => self.dropped.no_way += packets.len() as u64,
        }
    }

    fn set_active(&mut self, peer: &NodePublicKey, now: Instant, outputs: &mut Outputs) {
        if let Some(peer) = self.peers.get_mut(peer) {
            outputs.newly_active |= peer.sent.is_none();
            peer.sent = Some(now);
            self.tidy.get_or_insert(now + TIDY);
        }
    }
}

#[cfg(test)]
mod tests;
