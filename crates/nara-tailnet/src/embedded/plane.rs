//! WireGuard and routing between the network stack of the node, its relays and its direct paths, without I/O.
//!
//! Packets and times go in, packets come out: see [`Plane::handle`]. The [`driver`](super::driver) carries them.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use ts_keys::{NodeKeyPair, NodePublicKey};
use ts_packet::PacketMut;
use ts_tunnel::{Endpoint, PeerConfig, PeerId};

use super::direct::packet::{Kind, kind};
use super::underlay::{RegionId, RelayBatch};

/// Packets of one [`Input`] that are looked at; the rest is dropped. The queues that feed the plane are shorter.
pub(super) const MAX_BATCH: usize = 1024;
/// Addresses whose peers are remembered.
const MAX_KNOWN: usize = 4096;
/// A peer to which nothing was sent for this long is no longer active.
const ACTIVE: Duration = Duration::from_secs(45);
/// How often inactive peers are looked for.
const TIDY: Duration = Duration::from_secs(10);
/// A handshake of ours that was not answered for this long was lost. Until then, one of the peer that crosses it has to wait.
const CROSSING: Duration = Duration::from_secs(1);
/// The types of WireGuard's messages (its specification, section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
/// WireGuard pads data to a multiple of this, in bytes.
const PADDING: usize = 16;

/// What control says about a peer, as far as packets are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerRoute {
    pub(super) key: NodePublicKey,
    pub(super) addresses: Vec<IpAddr>,
    /// Its home relay.
    pub(super) region: Option<RegionId>,
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum Input {
    /// The network stack sends these IP packets.
    Stack(Vec<PacketMut>),
    /// A relay delivered these packets, each with the node that the relay names as its sender.
    Relay(Vec<(NodePublicKey, PacketMut)>),
    /// These WireGuard packets arrived over UDP from these addresses.
    Udp(Vec<(SocketAddr, PacketMut)>),
    /// Direct paths send this disco packet to a peer through its relay.
    Disco(NodePublicKey, PacketMut),
    /// The time of [`Plane::next_timeout`] has come.
    Timeout,
    /// The node has slept.
    Slept,
}

/// What is to be sent, and where.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outputs {
    /// IP packets for the network stack.
    pub(super) stack: Vec<PacketMut>,
    pub(super) relay: Vec<(RegionId, RelayBatch)>,
    pub(super) udp: Vec<(SocketAddr, Vec<PacketMut>)>,
    /// Disco packets that a relay delivered, for the direct paths.
    pub(super) disco: Vec<(NodePublicKey, PacketMut)>,
    /// Packets go to a peer that was not active before.
    pub(super) newly_active: bool,
}

/// How many packets were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// No peer has the destination address.
    pub(super) no_peer: u64,
    /// Neither a direct path nor a relay leads to the peer.
    pub(super) no_way: u64,
    /// A peer sent what is not an IP packet from an address of its own to one of ours.
    pub(super) misaddressed: u64,
    /// A relay delivered what is neither WireGuard nor disco.
    pub(super) unknown: u64,
    /// The batch was longer than [`MAX_BATCH`].
    pub(super) too_many: u64,
    /// The queue that the packet was for is full.
    pub(super) no_room: u64,
    /// Inputs on which a library panicked. What was left of the input is lost.
    pub(super) panics: u64,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    /// The region of the relay that reaches it.
    region: Option<RegionId>,
    /// Its direct path.
    path: Option<SocketAddr>,
    /// When a packet from it last arrived.
    heard: Option<Instant>,
    /// When a packet of a session with it last arrived.
    opened: Option<Instant>,
    /// When a packet was last sent to it. `None`: it is not active.
    sent: Option<Instant>,
    /// When we last began a handshake that it has not answered, and the session that is to come of it.
    initiated: Option<(Instant, Session)>,
    /// Its own, which crossed ours.
    crossed: Option<PacketMut>,
    /// Where it last began one, if that came over UDP: there it is answered, whether a path is known or not.
    greeted_from: Option<SocketAddr>,
}

/// The number that an end gave to a session, as it stands in messages.
type Session = [u8; 4];

impl Peer {
    /// Begins a new session with the next packet.
    fn forget_session(&self, key: &NodePublicKey, wireguard: &mut Endpoint) {
        wireguard.remove_peer(self.id);
        wireguard.upsert_peer(PeerConfig::new(self.id, *key, [0; 32]));
    }

    /// Until when our own handshake comes before one of the peer, if we have begun one.
    fn crossing_ends(&self) -> Option<Instant> {
        self.initiated.map(|(at, _)| at + CROSSING)
    }
}

/// See the module.
pub(super) struct Plane {
    wireguard: Endpoint,
    /// Ours.
    key: NodePublicKey,
    peers: HashMap<NodePublicKey, Peer>,
    by_id: HashMap<PeerId, NodePublicKey>,
    by_address: HashMap<IpAddr, NodePublicKey>,
    own: HashSet<IpAddr>,
    /// The peers whose packets come from these addresses.
    known: HashMap<SocketAddr, NodePublicKey>,
    next_id: u32,
    /// When inactive peers are looked for.
    tidy: Option<Instant>,
    /// When handshakes that crossed ours are looked at again.
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

    /// Takes another key. Peers and routes stay, the sessions of the old key end.
    pub(super) fn set_keys(&mut self, keys: &NodeKeyPair) {
        self.wireguard = Endpoint::new(keys.clone());
        self.key = keys.public;
        for (key, peer) in &mut self.peers {
            (peer.heard, peer.initiated, peer.crossed) = (None, None, None);
            self.wireguard
                .upsert_peer(PeerConfig::new(peer.id, *key, [0; 32]));
        }
    }

    /// Sets our addresses and the peers. `home` is the region of peers that have none. Sessions of peers that stay
    /// go on.
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
                    crossed: None,
                    greeted_from: None,
                }
            });
            peer.region = route.region.or(home);
            self.by_address
                .extend(route.addresses.iter().map(|address| (*address, route.key)));
        }
    }

    /// Sends packets to a peer there from now on; `None`: through its relay. Does nothing for an unknown peer.
    pub(super) fn set_path(&mut self, peer: &NodePublicKey, path: Option<SocketAddr>) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.path = path;
        }
    }

    /// Packets from this address count as heard from this peer.
    pub(super) fn set_known(&mut self, address: SocketAddr, peer: NodePublicKey) {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&address) {
            // Peers that are still there soon ping again.
            self.known.clear();
        }
        self.known.insert(address, peer);
    }

    /// The direct path to a peer, if it has one now.
    pub(super) fn path(&self, peer: &NodePublicKey) -> Option<SocketAddr> {
        self.peers.get(peer)?.path
    }

    /// The addresses of a peer.
    pub(super) fn addresses_of(&self, peer: &NodePublicKey) -> HashSet<IpAddr> {
        let of_peer = self.by_address.iter().filter(|(_, key)| *key == peer);
        of_peer.map(|(address, _)| *address).collect()
    }

    /// The addresses of all peers that have a direct path now.
    pub(super) fn direct_addresses(&self) -> HashSet<IpAddr> {
        let direct = self.by_address.iter().filter(|(_, key)| self.path(key).is_some());
        direct.map(|(address, _)| *address).collect()
    }

    /// Whether a packet from this peer has arrived since then, unless a handshake of ours was lost: what arrives may be the answer to
    /// an earlier one, which we have given up.
    pub(super) fn heard_since(&self, peer: &NodePublicKey, since: Instant, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|peer| {
            let is_lost = |(at, _): &(Instant, Session)| {
                *at + CROSSING <= now && peer.opened.is_none_or(|opened| opened < *at)
            };
            !peer.initiated.as_ref().is_some_and(is_lost) && peer.heard.is_some_and(|heard| heard >= since)
        })
    }

    /// The peers to which packets go now.
    pub(super) fn active(&self) -> HashSet<NodePublicKey> {
        let active = self.peers.iter().filter(|(_, peer)| peer.sent.is_some());
        active.map(|(key, _)| *key).collect()
    }

    /// Begins a new WireGuard session with a peer at its next packet.
    ///
    /// The first handshake is lost if the peer has not heard of us yet; WireGuard itself repeats it after 5 s only.
    pub(super) fn greet_again(&mut self, peer: &NodePublicKey) {
        if let Some(known) = self.peers.get(peer) {
            known.forget_session(peer, &mut self.wireguard);
        }
    }

    /// When [`Input::Timeout`] is due; `None`: never.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let wireguard = self.wireguard.next_event().map(|range| range.end());
        wireguard.into_iter().chain(self.tidy).chain(self.crossed).min()
    }

    /// How many packets were dropped so far.
    pub(super) const fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Counts packets of [`Outputs`] whose queue was full.
    pub(super) const fn count_no_room(&mut self, packets: usize) {
        self.dropped.no_room += packets as u64;
    }

    /// Does what follows from an input. No input makes it panic.
    ///
    /// The outputs are at most as many packets as the input, and those that waited for a session: up to 32 for each
    /// peer and a handshake.
    pub(super) fn handle(&mut self, input: Input, now: Instant) -> Outputs {
        let mut outputs = Outputs::default();
        // Packets come from outside. Should a library panic on one, the rest of its batch is lost and no more.
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
            Input::Slept => self.begin_anew(now, outputs),
        }
    }

    fn cut<T>(&mut self, mut batch: Vec<T>) -> Vec<T> {
        self.dropped.too_many += batch.len().saturating_sub(MAX_BATCH) as u64;
        batch.truncate(MAX_BATCH);
        batch
    }

    /// Seals packets of the stack for the peers that have their destination addresses.
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
                    sealed.extend(self.uncrossed(&from, packet, now));
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
                sealed.extend(self.uncrossed(&from, packet, now));
            } else {
                sealed.push(packet);
            }
        }
        self.open(sealed, now, outputs);
    }

    /// Opens what WireGuard sealed, and answers its handshakes.
    fn open(&mut self, sealed: Vec<PacketMut>, now: Instant, outputs: &mut Outputs) {
        if sealed.is_empty() {
            return;
        }
        let opened = self.wireguard.recv(now, sealed);
        for (from, packets) in opened.to_local {
            if let Some(peer) = self.by_id.get(&from).and_then(|key| self.peers.get_mut(key)) {
                peer.opened = Some(now);
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

    /// Forgets all sessions and paths, which peers and NATs may have forgotten too. Active peers are greeted: they may still
    /// use a session that we have forgotten.
    fn begin_anew(&mut self, now: Instant, outputs: &mut Outputs) {
        self.known.clear();
        let mut greeted = Vec::new();
        for (key, peer) in &mut self.peers {
            peer.forget_session(key, &mut self.wireguard);
            (peer.path, peer.heard) = (None, None);
            (peer.initiated, peer.crossed, peer.greeted_from) = (None, None, None);
            if peer.sent.is_some() {
                greeted.push((peer.id, Vec::new()));
            }
        }
        let sealed = self.wireguard.send(now, greeted);
        self.route(sealed.to_peers, now, outputs);
    }

    /// Whether a packet comes from an address of this peer and goes to one of ours.
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

    /// A packet of WireGuard as it comes, unless it begins a handshake that crosses one of ours, which is to be answered first.
    ///
    /// Each end would abandon its own handshake to answer that of the other, and both would wait for data that never comes. So one
    /// of the keys decides whose goes on. If that one is not answered in time, the other is taken up.
    fn uncrossed(&mut self, from: &NodePublicKey, packet: PacketMut, now: Instant) -> Option<PacketMut> {
        let is_ours = self.key > *from;
        let Some(peer) = self.peers.get_mut(from) else {
            return Some(packet);
        };
        if answered(&packet).is_some_and(|session| peer.initiated.is_some_and(|(_, ours)| ours == session)) {
            (peer.initiated, peer.crossed) = (None, None);
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

    /// Notes that a packet came, from this address or through a relay. Only for peers that control lists: a relay can name anybody.
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

/// Whether a packet of WireGuard is of this type.
fn is(packet: &PacketMut, kind: u8) -> bool {
    packet.as_ref().first() == Some(&kind)
}

/// The session for which a message begins a handshake, if it does.
fn initiated(packet: &PacketMut) -> Option<Session> {
    let number = packet.as_ref().get(4..8).filter(|_| is(packet, INITIATION));
    number?.try_into().ok()
}

/// The session whose handshake a message answers, if it does.
fn answered(packet: &PacketMut) -> Option<Session> {
    let number = packet.as_ref().get(8..12).filter(|_| is(packet, RESPONSE));
    number?.try_into().ok()
}

#[cfg(test)]
mod tests;
