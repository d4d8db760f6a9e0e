//! WireGuard and routing between the network stack, relays and direct paths of the node, without I/O.
//!
//! The input is packets and times, the output packets: see [`Plane::handle`]. The [`driver`](super::driver) does the
//! I/O.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use ts_keys::{NodeKeyPair, NodePublicKey};
use ts_packet::PacketMut;
use ts_tunnel::{Endpoint, PeerConfig, PeerId};

use super::direct::packet::{Kind, kind};
use super::settings::FAR;
use super::underlay::{RegionId, RelayBatch};

/// The maximum number of packets per [`Input`]; more are dropped. The queues that feed the plane are shorter.
pub(super) const MAX_BATCH: usize = 1024;
/// The maximum number of addresses with a known peer.
const MAX_KNOWN: usize = 4096;
/// A peer becomes inactive if nothing was sent to it for this long.
const ACTIVE: Duration = Duration::from_secs(45);
/// The interval between searches for inactive peers.
const TIDY: Duration = Duration::from_secs(10);
/// Our handshake counts as lost if unanswered for this long. Until then, a crossing handshake of the peer waits.
const CROSSING: Duration = Duration::from_secs(1);
/// The message types of WireGuard (its specification, section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
/// WireGuard pads data to a multiple of this, in bytes.
const PADDING: usize = 16;

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
    Stack(Vec<PacketMut>),
    /// Packets from a relay, each with the sender that the relay claims.
    Relay(Vec<(NodePublicKey, PacketMut)>),
    /// WireGuard packets received over UDP, each with its source address.
    Udp(Vec<(SocketAddr, PacketMut)>),
    /// A disco packet for a peer, to send through its relay.
    Disco(NodePublicKey, PacketMut),
    /// The time of [`Plane::next_timeout`] has passed.
    Timeout,
    /// The node has slept.
    Slept,
}

/// Packets to send, by destination.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs {
    /// IP packets for the network stack.
    pub(super) stack: Vec<PacketMut>,
    pub(super) relay: Vec<(RegionId, RelayBatch)>,
    pub(super) udp: Vec<(SocketAddr, Vec<PacketMut>)>,
    /// Disco packets from a relay, for the direct paths.
    pub(super) disco: Vec<(NodePublicKey, PacketMut)>,
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
    /// The batch was longer than [`MAX_BATCH`].
    pub(super) too_many: u64,
    /// The destination queue is full.
    pub(super) no_room: u64,
    /// Inputs on which a library panicked. The rest of the input is dropped.
    pub(super) panics: u64,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    /// The region of its relay.
    region: Option<RegionId>,
    /// Its direct path.
    path: Option<SocketAddr>,
    /// The time of the last packet from it.
    heard: Option<Instant>,
    /// The time of its last packet in a session.
    opened: Option<Instant>,
    /// The time of the last packet to it; `None` if it is inactive.
    sent: Option<Instant>,
    /// The time and the session of our last unanswered handshake.
    initiated: Option<(Instant, Session)>,
    /// The time of our last answer to a handshake of the peer, until a packet arrives in the new session.
    answered: Option<Instant>,
    /// The round trip of its last handshake was long.
    is_far: bool,
    /// A handshake of the peer that crossed ours.
    crossed: Option<PacketMut>,
    /// The source address of its last handshake over UDP. The answer goes there even if no path is known.
    greeted_from: Option<SocketAddr>,
}

/// The index of a session in WireGuard messages.
type Session = [u8; 4];

impl Peer {
    /// Starts a new session with the next packet.
    fn forget_session(&self, key: &NodePublicKey, wireguard: &mut Endpoint) {
        wireguard.remove_peer(self.id);
        wireguard.upsert_peer(PeerConfig::new(self.id, *key, [0; 32]));
    }

    /// Records the round trip of a handshake. Returns whether the distance has changed.
    fn measured(&mut self, round_trip: Duration) -> bool {
        let was_far = std::mem::replace(&mut self.is_far, round_trip >= FAR);
        was_far != self.is_far
    }

    /// Returns until when our own handshake takes precedence over one of the peer, if we have started one.
    fn crossing_ends(&self) -> Option<Instant> {
        self.initiated.map(|(at, _)| at + CROSSING)
    }
}

/// WireGuard and routing without I/O; see the module.
pub(super) struct Plane {
    wireguard: Endpoint,
    /// Our public key.
    key: NodePublicKey,
    peers: HashMap<NodePublicKey, Peer>,
    by_id: HashMap<PeerId, NodePublicKey>,
    by_address: HashMap<IpAddr, NodePublicKey>,
    own: HashSet<IpAddr>,
    /// The peers behind these source addresses.
    known: HashMap<SocketAddr, NodePublicKey>,
    next_id: u32,
    /// The time of the next search for inactive peers.
    tidy: Option<Instant>,
    /// The time to process handshakes that crossed ours.
    crossed: Option<Instant>,
    dropped: Dropped,
}

impl Plane {
    pub(super) fn new(keys: &NodeKeyPair) -> Self {
        Self {
            wireguard: Endpoint::new(keys.clone()),
            key: keys.public,
            peers: HashMap::new(),
            by_id: HashMap::new(),
            by_address: HashMap::new(),
            own: HashSet::new(),
            known: HashMap::new(),
            next_id: 0,
            tidy: None,
            crossed: None,
            dropped: Dropped::default(),
        }
    }

    /// Replaces our key. Peers and routes stay; sessions end.
    pub(super) fn set_keys(&mut self, keys: &NodeKeyPair) {
        self.wireguard = Endpoint::new(keys.clone());
        self.key = keys.public;
        for (key, peer) in &mut self.peers {
            (peer.heard, peer.initiated, peer.answered, peer.crossed) = (None, None, None, None);
            self.wireguard
                .upsert_peer(PeerConfig::new(peer.id, *key, [0; 32]));
        }
    }

    /// Sets our addresses and the peers. `home` is the region for peers without one. Sessions of remaining peers
    /// continue.
    pub(super) fn set_routes(&mut self, own: &[IpAddr], routes: &[PeerRoute], home: Option<RegionId>) {
        self.own = own.iter().copied().collect();
        self.by_address.clear();
        let listed: HashSet<_> = routes.iter().map(|route| route.key).collect();
        let (wireguard, by_id) = (&mut self.wireguard, &mut self.by_id);
        self.peers.retain(|key, peer| {
            let stays = listed.contains(key);
            if !stays {
                wireguard.remove_peer(peer.id);
                by_id.remove(&peer.id);
            }
            stays
        });
        self.known.retain(|_, key| listed.contains(key));
        for route in routes {
            let peer = self.peers.entry(route.key).or_insert_with(|| {
                self.next_id = self.next_id.wrapping_add(1);
                let id = PeerId(self.next_id);
                wireguard.upsert_peer(PeerConfig::new(id, route.key, [0; 32]));
                by_id.insert(id, route.key);
                Peer {
                    id,
                    region: None,
                    path: None,
                    heard: None,
                    opened: None,
                    sent: None,
                    initiated: None,
                    answered: None,
                    is_far: false,
                    crossed: None,
                    greeted_from: None,
                }
            });
            peer.region = route.region.or(home);
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

    /// Counts packets from this address as heard from this peer.
    pub(super) fn set_known(&mut self, address: SocketAddr, peer: NodePublicKey) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&address) {
            // Present peers will ping again soon.
            self.known.clear();
        }
        self.known.insert(address, peer);
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
        let direct = self.by_address.iter().filter(|(_, key)| self.path(key).is_some());
        direct.map(|(address, _)| *address).collect()
    }

    /// Returns the addresses of all peers with a long round trip at their last handshake.
    pub(super) fn far_addresses(&self) -> HashSet<IpAddr> {
        let is_far = |key| self.peers.get(key).is_some_and(|peer| peer.is_far);
        let far = self.by_address.iter().filter(|(_, key)| is_far(key));
        far.map(|(address, _)| *address).collect()
    }

    /// Returns whether a packet from this peer has arrived since then. Returns `false` while our last handshake counts
    /// as lost: the packet may answer an earlier handshake that we have given up.
    pub(super) fn heard_since(&self, peer: &NodePublicKey, since: Instant, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|peer| {
            let is_lost = |(at, _): &(Instant, Session)| {
                *at + CROSSING <= now && peer.opened.is_none_or(|opened| opened < *at)
            };
            !peer.initiated.as_ref().is_some_and(is_lost) && peer.heard.is_some_and(|heard| heard >= since)
        })
    }

    /// Returns the active peers.
    pub(super) fn active(&self) -> HashSet<NodePublicKey> {
        let active = self.peers.iter().filter(|(_, peer)| peer.sent.is_some());
        active.map(|(key, _)| *key).collect()
    }

    /// Starts a new WireGuard session with a peer at its next packet.
    ///
    /// The first handshake is lost if the peer does not know this node yet; WireGuard itself retries only after 5 s.
    pub(super) fn greet_again(&mut self, peer: &NodePublicKey) {
        if let Some(known) = self.peers.get(peer) {
            known.forget_session(peer, &mut self.wireguard);
        }
    }

    /// Returns when [`Input::Timeout`] is due; `None` for never.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let wireguard = self.wireguard.next_event().map(|range| range.end());
        wireguard.into_iter().chain(self.tidy).chain(self.crossed).min()
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
    /// Returns at most as many packets as the input has, plus those that waited for a session: up to 32 per peer and a
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
                let packets = self.cut(packets);
                self.take_udp(packets, now, outputs);
            }
            Input::Disco(to, packet) => match self.peers.get(&to).and_then(|peer| peer.region) {
                Some(region) => {
                    let packets = vec![packet];
                    outputs.relay.push((region, RelayBatch { to, packets }));
                }
                None => self.dropped.no_way += 1,
            },
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
    fn seal(&mut self, packets: Vec<PacketMut>, now: Instant, outputs: &mut Outputs) {
        let mut by_peer: HashMap<PeerId, Vec<PacketMut>> = HashMap::new();
        for mut packet in packets {
            let key = packet.get_dst_addr().and_then(|to| self.by_address.get(&to));
            let Some((key, id)) = key.and_then(|key| Some((*key, self.peers.get(key)?.id))) else {
                self.dropped.no_peer += 1;
                continue;
            };
            let over = packet.len() % PADDING;
            if over != 0 {
                packet.grow_back(PADDING - over);
            }
            self.set_active(&key, now, outputs);
            by_peer.entry(id).or_default().push(packet);
        }
        let sealed = self.wireguard.send(now, by_peer);
        self.route(sealed.to_peers, now, outputs);
    }

    fn take_relayed(
        &mut self,
        packets: Vec<(NodePublicKey, PacketMut)>,
        now: Instant,
        outputs: &mut Outputs,
    ) {
        let mut sealed = Vec::with_capacity(packets.len());
        for (from, packet) in packets {
            match kind(packet.as_ref()) {
                Kind::Disco => outputs.disco.push((from, packet)),
                Kind::WireGuard => {
                    self.set_heard(&from, &packet, None, now);
                    sealed.extend(self.resolve_crossing(&from, packet, now, outputs));
                }
                Kind::Stun | Kind::Unknown => self.dropped.unknown += 1,
            }
        }
        self.open(sealed, now, outputs);
    }

    fn take_udp(&mut self, packets: Vec<(SocketAddr, PacketMut)>, now: Instant, outputs: &mut Outputs) {
        let mut sealed = Vec::with_capacity(packets.len());
        for (address, packet) in packets {
            if let Some(from) = self.known.get(&address).copied() {
                self.set_heard(&from, &packet, Some(address), now);
                sealed.extend(self.resolve_crossing(&from, packet, now, outputs));
            } else {
                sealed.push(packet);
            }
        }
        self.open(sealed, now, outputs);
    }

    /// Decrypts WireGuard packets, and answers handshakes.
    fn open(&mut self, sealed: Vec<PacketMut>, now: Instant, outputs: &mut Outputs) {
        if sealed.is_empty() {
            return;
        }
        let opened = self.wireguard.recv(now, sealed);
        for (from, packets) in opened.to_local {
            if let Some(peer) = self.by_id.get(&from).and_then(|key| self.peers.get_mut(key)) {
                peer.opened = Some(now);
                // The peer sends its first packet when our answer arrives.
                if let Some(at) = peer.answered.take() {
                    outputs.far_changed |= peer.measured(now.saturating_duration_since(at));
                }
            }
            for mut packet in packets {
                if self.is_addressed(from, &packet)
                    && let Some(len) = packet.get_ip_len()
                {
                    packet.resize(len);
                    outputs.stack.push(packet);
                } else {
                    self.dropped.misaddressed += 1;
                }
            }
        }
        self.route(opened.to_peers, now, outputs);
    }

    fn timeout(&mut self, now: Instant, outputs: &mut Outputs) {
        let sealed = self.wireguard.dispatch_events(now);
        self.route(sealed.to_peers, now, outputs);
        if self.crossed.is_some_and(|at| at <= now) {
            let waits = |peer: &Peer| peer.crossing_ends().filter(|end| now < *end);
            let over = self.peers.values_mut().filter(|peer| waits(peer).is_none());
            let over = over.filter_map(|peer| peer.crossed.take()).collect();
            self.crossed = self
                .peers
                .values()
                .filter(|peer| peer.crossed.is_some())
                .filter_map(waits)
                .min();
            self.open(over, now, outputs);
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
    /// peers, which may still use a session that we have dropped.
    fn reset_after_sleep(&mut self, now: Instant, outputs: &mut Outputs) {
        self.known.clear();
        let mut greeted = Vec::new();
        for (key, peer) in &mut self.peers {
            peer.forget_session(key, &mut self.wireguard);
            (peer.path, peer.heard) = (None, None);
            (peer.initiated, peer.answered) = (None, None);
            (peer.crossed, peer.greeted_from) = (None, None);
            if peer.sent.is_some() {
                greeted.push((peer.id, Vec::new()));
            }
        }
        let sealed = self.wireguard.send(now, greeted);
        self.route(sealed.to_peers, now, outputs);
    }

    /// Returns whether a packet goes from an address of this peer to one of ours.
    fn is_addressed(&self, from: PeerId, packet: &PacketMut) -> bool {
        let owner = packet
            .get_src_addr()
            .and_then(|source| self.by_address.get(&source));
        owner.is_some()
            && owner == self.by_id.get(&from)
            && packet.get_dst_addr().is_some_and(|to| self.own.contains(&to))
    }

    fn route(&mut self, sealed: HashMap<PeerId, Vec<PacketMut>>, now: Instant, outputs: &mut Outputs) {
        for (id, packets) in sealed {
            let Some(to) = self.by_id.get(&id).copied() else {
                continue;
            };
            self.set_active(&to, now, outputs);
            let Some(peer) = self.peers.get_mut(&to) else {
                continue;
            };
            if let Some(session) = packets.iter().find_map(initiated) {
                peer.initiated = Some((now, session));
            }
            let is_response = packets.iter().all(|packet| is(packet, RESPONSE));
            if is_response {
                peer.answered = Some(now);
            }
            let path = peer.path.or_else(|| peer.greeted_from.filter(|_| is_response));
            match (path, peer.region) {
                (Some(path), _) => outputs.udp.push((path, packets)),
                (None, Some(region)) => outputs.relay.push((region, RelayBatch { to, packets })),
                (None, None) => self.dropped.no_way += packets.len() as u64,
            }
        }
    }

    fn set_active(&mut self, peer: &NodePublicKey, now: Instant, outputs: &mut Outputs) {
        if let Some(peer) = self.peers.get_mut(peer) {
            outputs.newly_active |= peer.sent.is_none();
            peer.sent = Some(now);
            self.tidy.get_or_insert(now + TIDY);
        }
    }

    /// Returns a WireGuard packet, unless it starts a handshake that crosses ours and must wait.
    ///
    /// If each end abandoned its own handshake to answer the other, both would wait for data that never comes. So the
    /// order of the keys decides which handshake continues. If it is not answered in time, the other one is processed.
    fn resolve_crossing(
        &mut self,
        from: &NodePublicKey,
        packet: PacketMut,
        now: Instant,
        outputs: &mut Outputs,
    ) -> Option<PacketMut> {
        let is_ours = self.key > *from;
        let Some(peer) = self.peers.get_mut(from) else {
            return Some(packet);
        };
        if let Some(session) = answered(&packet)
            && let Some((at, _)) = peer.initiated.take_if(|(_, ours)| *ours == session)
        {
            peer.crossed = None;
            outputs.far_changed |= peer.measured(now.saturating_duration_since(at));
        }
        match peer
            .crossing_ends()
            .filter(|end| is_ours && is(&packet, INITIATION) && now < *end)
        {
            Some(end) => {
                peer.crossed = Some(packet);
                self.crossed = Some(self.crossed.map_or(end, |at| at.min(end)));
                None
            }
            None => Some(packet),
        }
    }

    /// Records that a packet arrived from an address or through a relay. Only for listed peers, since a relay can name
    /// any key.
    fn set_heard(
        &mut self,
        peer: &NodePublicKey,
        packet: &PacketMut,
        from: Option<SocketAddr>,
        now: Instant,
    ) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.heard = Some(now);
            if is(packet, INITIATION) {
                peer.greeted_from = from;
            }
        }
    }
}

/// Returns whether a packet is a WireGuard message of this type.
fn is(packet: &PacketMut, kind: u8) -> bool {
    packet.as_ref().first() == Some(&kind)
}

/// Returns the sender's session of a handshake initiation.
fn initiated(packet: &PacketMut) -> Option<Session> {
    let number = packet.as_ref().get(4..8).filter(|_| is(packet, INITIATION));
    number?.try_into().ok()
}

/// Returns the session that a handshake response answers.
fn answered(packet: &PacketMut) -> Option<Session> {
    let number = packet.as_ref().get(8..12).filter(|_| is(packet, RESPONSE));
    number?.try_into().ok()
}

#[cfg(test)]
mod tests;
