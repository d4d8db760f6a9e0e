//! The WireGuard tunnels to the peers.
//!
//! The library reads the clock itself, one that counts sleep. Its timers are checked each second while a tunnel is in
//! use. A peer without traffic has no tunnel.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey, StaticSecret};
use ts_keys::{NodeKeyPair, NodePublicKey};

use crate::embedded::device::MTU;
use crate::embedded::sleep;

/// The maximum number of handshakes per second from one address. A sender of more must prove its address with a cookie.
const MAX_HANDSHAKES: u64 = 100;
/// The minimum interval between our handshakes with a peer, if its round trip is not longer: several calls may find at
/// the same moment that it does not answer, and it ignores handshakes that follow each other closely.
const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(200);
/// The maximum round trip that delays a handshake.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(2);
/// The number of our handshakes whose responses are recognized.
const RECOGNIZED: usize = 4;
/// The interval between checks of the timers.
const TICK: Duration = Duration::from_secs(1);
/// The time of day was set if it differs by more than this from the one expected.
const STEP: Duration = Duration::from_secs(1);
/// A tunnel without packets for this long is no longer in use. WireGuard drops a session after 180 s.
const UNUSED: Duration = Duration::from_secs(200);
/// The types of handshake messages (sections 5.4.2 and 5.4.3 of the WireGuard paper).
const INITIATION: u8 = 1;
pub(super) const RESPONSE: u8 = 2;

/// The origin of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Udp(SocketAddr),
    /// A relay, with the sender that it names.
    Relay(NodePublicKey),
}

impl Origin {
    /// Returns the address for which handshakes are counted.
    fn counted(self) -> SocketAddr {
        match self {
            // A host can use every address of its network.
            Self::Udp(SocketAddr::V6(address)) => {
                let network = address.ip().to_bits() >> 64 << 64;
                (Ipv6Addr::from_bits(network), address.port()).into()
            }
            Self::Udp(address) => address,
            // A relay authenticates its clients, so their keys can be counted like addresses.
            Self::Relay(sender) => {
                let key = sender.to_x25519_dalek().to_bytes();
                let half: [u8; 16] = key.first_chunk().copied().unwrap_or_default();
                (IpAddr::from(half), 0).into()
            }
        }
    }
}

/// The outcome of a packet from the network.
#[derive(Debug)]
pub(super) enum Opened {
    Authentic(Authentic),
    /// A cookie for the origin, which must repeat its handshake with it (section 5.3 of the WireGuard paper).
    Cookie(BytesMut),
    /// The packet is malformed, forged, replayed, or belongs to a session or handshake that has ended.
    Unreadable,
}

/// An authenticated packet.
#[derive(Debug)]
pub(super) struct Authentic {
    pub(super) peer: NodePublicKey,
    /// The packet shows that the peer has the current session. Otherwise it is part of a handshake, which the answer
    /// continues.
    pub(super) in_session: bool,
    /// The round-trip time, if a handshake has just ended.
    pub(super) round_trip: Option<Duration>,
    /// The IP packet in it, if any.
    pub(super) packet: Option<BytesMut>,
    /// Packets to send to the peer.
    pub(super) answers: Vec<BytesMut>,
}

struct Tunnel {
    tunn: Box<Tunn>,
    /// The time of the last packet, if in use.
    used: Option<Instant>,
    /// Our unanswered handshakes by index, each with its time, the last one at the end.
    initiations: VecDeque<(u32, Instant)>,
    /// The time of our last response, until the peer uses the session.
    responded: Option<Instant>,
    /// The round-trip time of the last handshake.
    round_trip: Option<Duration>,
    /// A round-trip time that nobody has authenticated; see [`Self::last_initiation`].
    hint: Option<Duration>,
    /// The [`clock_offset`] at the creation of the tunnel.
    clock_offset: Duration,
}

impl Tunnel {
    fn new(tunn: Tunn) -> Self {
        Self {
            tunn: Box::new(tunn),
            used: None,
            initiations: VecDeque::new(),
            responded: None,
            round_trip: None,
            hint: None,
            clock_offset: clock_offset(),
        }
    }

    fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Returns whether peers may refuse our handshakes because the time of day was set forward. They are stamped with
    /// the time of day at the creation of the tunnel and the time passed since, and a peer that knows a later stamp
    /// refuses them: a machine without a clock gets the time after its start. (If the time is set back, only a restart
    /// changes the stamps, and peers refuse them until that time is reached again.)
    fn is_outdated(&self, offset: Duration) -> bool {
        offset > self.clock_offset + STEP && !self.has_session()
    }

    fn reset(&mut self) {
        self.tunn.reset();
        self.initiations.clear();
        self.responded = None;
    }

    /// Returns whether a handshake began so recently that its response may still arrive.
    fn awaits_response(&self, now: Instant) -> bool {
        let round_trip = self.round_trip.max(self.hint).unwrap_or_default();
        let round_trip = round_trip.min(MAX_ROUND_TRIP);
        let enough = HANDSHAKE_INTERVAL.max(round_trip * 3 / 2);
        let last = self.initiations.back();
        last.is_some_and(|(_, at)| now.saturating_duration_since(*at) < enough)
    }

    /// Returns when the handshake began that a response names, if it is our last one. A peer drops the session of an
    /// earlier one as soon as it has answered the next, so its response only tells how long a round trip takes. It is not
    /// authenticated: whoever saw the handshake can forge it, so it only delays the next handshake, by up to 3 s.
    fn last_initiation(&mut self, index: u32, now: Instant) -> Option<Instant> {
        let (_, began) = *self.initiations.iter().find(|(ours, _)| *ours == index)?;
        let is_last = self.initiations.back().is_some_and(|(last, _)| *last == index);
        if !is_last {
            self.hint = Some(now.saturating_duration_since(began));
        }
        is_last.then_some(began)
    }
}

/// The WireGuard tunnels to the peers; see the module.
pub(super) struct Tunnels {
    private: StaticSecret,
    public: PublicKey,
    tunnels: HashMap<NodePublicKey, Tunnel>,
    /// The peer of each session and handshake, by its index in WireGuard messages.
    by_index: HashMap<u32, NodePublicKey>,
    indices: IndexTable,
    limiter: Arc<RateLimiter>,
    /// The time of the next check of the timers.
    next_tick: Option<Instant>,
}

impl Tunnels {
    pub(super) fn new(keys: &NodeKeyPair) -> Self {
        let private = StaticSecret::from(keys.private.to_x25519_dalek().to_bytes());
        let public = PublicKey::from(&private);
        Self {
            limiter: Arc::new(RateLimiter::new(&public, MAX_HANDSHAKES)),
            private,
            public,
            tunnels: HashMap::new(),
            by_index: HashMap::new(),
            indices: IndexTable::from_os_rng(),
            next_tick: None,
        }
    }

    /// Ends the tunnels to other peers.
    pub(super) fn retain(&mut self, is_listed: impl Fn(&NodePublicKey) -> bool) {
        self.tunnels.retain(|peer, _| is_listed(peer));
        self.by_index.retain(|_, peer| is_listed(peer));
    }

    /// Returns when [`Self::timers`] is due; `None` for never.
    pub(super) const fn next_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// Returns the round-trip time of the last handshake with a peer.
    pub(super) fn round_trip(&self, peer: &NodePublicKey) -> Option<Duration> {
        self.tunnels.get(peer)?.round_trip
    }

    /// Encrypts an IP packet to a peer. Returns the packet to send: a handshake if there is no session, or none while
    /// one is in progress; up to 256 IP packets wait for its end.
    pub(super) fn seal(&mut self, to: &NodePublicKey, packet: BytesMut, now: Instant) -> Option<BytesMut> {
        let tunnel = self.tunnel(to, now);
        let sealed = tunnel
            .tunn
            .handle_outgoing_packet(Packet::from_bytes(packet), None)?;
        Some(self.register(to, sealed, now))
    }

    /// Decrypts a packet from the network. Only listed peers get a tunnel.
    pub(super) fn open(
        &mut self,
        sealed: BytesMut,
        origin: Origin,
        now: Instant,
        is_listed: impl Fn(&NodePublicKey) -> bool,
    ) -> Opened {
        if matches!(sealed.first(), Some(&(INITIATION | RESPONSE))) {
            self.limiter.try_reset_count();
        }
        let sealed = match self
            .limiter
            .verify_packet(origin.counted(), Packet::from_bytes(sealed))
        {
            Ok(sealed) => sealed,
            Err(TunnResult::WriteToNetwork(cookie)) => return Opened::Cookie(bytes(cookie)),
            Err(_) => return Opened::Unreadable,
        };
        let peer = match &sealed {
            WgKind::HandshakeInit(sealed) => parse_handshake_anon(&self.private, &self.public, sealed)
                .ok()
                .map(|half| NodePublicKey::from_bytes(half.peer_static_public)),
            WgKind::HandshakeResp(sealed) => self.by_index.get(&sealed.receiver_idx.get()).copied(),
            WgKind::CookieReply(sealed) => self.by_index.get(&sealed.receiver_idx.get()).copied(),
            WgKind::Data(sealed) => self.by_index.get(&sealed.header.receiver_idx.get()).copied(),
        };
        let Some(peer) = peer.filter(is_listed) else {
            return Opened::Unreadable;
        };
        let initiated = if let WgKind::HandshakeResp(response) = &sealed {
            let (index, tunnel) = (response.receiver_idx.get(), self.tunnels.get_mut(&peer));
            match tunnel.and_then(|tunnel| tunnel.last_initiation(index, now)) {
                Some(began) => Some(began),
                None => return Opened::Unreadable,
            }
        } else {
            None
        };
        let in_session = matches!(sealed, WgKind::HandshakeResp(_) | WgKind::Data(_));
        let before = self.tunnels.get(&peer).map(|tunnel| tunnel.used);
        let tunnel = self.tunnel(&peer, now);
        let (packet, answer) = match tunnel.tunn.handle_incoming_packet(sealed) {
            TunnResult::Done => (None, None),
            TunnResult::Err(_) => {
                // A forged packet neither creates a tunnel nor keeps it in use.
                match before {
                    Some(used) => tunnel.used = used,
                    None => drop(self.tunnels.remove(&peer)),
                }
                return Opened::Unreadable;
            }
            TunnResult::WriteToNetwork(answer) => (None, Some(answer)),
            TunnResult::WriteToTunnel(packet) if packet.is_empty() => (None, None),
            TunnResult::WriteToTunnel(mut packet) => (Some(std::mem::take(packet.buf_mut())), None),
        };
        let began = if initiated.is_some() {
            tunnel.initiations.clear();
            initiated
        } else if in_session {
            // The peer sends its first packet when our response arrives.
            tunnel.responded.take()
        } else {
            None
        };
        let round_trip = began.map(|at| now.saturating_duration_since(at));
        if round_trip.is_some() {
            (tunnel.round_trip, tunnel.hint) = (round_trip, None);
        }
        let mut answers: Vec<_> = answer.into_iter().collect();
        // After our own response, the peer must use the session first (section 5.1 of the WireGuard paper).
        if in_session {
            answers.extend(tunnel.tunn.get_queued_packets(&mut MtuWatcher::new(MTU as u16)));
        }
        let answers = answers
            .into_iter()
            .map(|answer| self.register(&peer, answer, now))
            .collect();
        Opened::Authentic(Authentic {
            peer,
            in_session,
            round_trip,
            packet,
            answers,
        })
    }

    /// Starts a handshake with a peer that does not answer, which may have lost its session, unless one has just
    /// begun.
    pub(super) fn initiate_handshake(&mut self, peer: &NodePublicKey, now: Instant) -> Option<BytesMut> {
        let tunnel = self.tunnel(peer, now);
        if tunnel.awaits_response(now) {
            return None;
        }
        if tunnel.has_session() {
            tunnel.reset();
        }
        let handshake = tunnel.tunn.format_handshake_initiation(true)?;
        Some(self.register(peer, handshake.into(), now))
    }

    /// Ends all sessions, and returns the peers that had one.
    pub(super) fn reset(&mut self) -> Vec<NodePublicKey> {
        let mut had_session = Vec::new();
        for (peer, tunnel) in &mut self.tunnels {
            if tunnel.has_session() {
                had_session.push(*peer);
            }
            tunnel.reset();
        }
        had_session
    }

    /// Runs the timers: repeated handshakes, new keys, keep-alives. Returns packets to send, each with its peer.
    pub(super) fn timers(&mut self, now: Instant) -> Vec<(NodePublicKey, BytesMut)> {
        if self.next_tick.is_none_or(|next| next > now) {
            return Vec::new();
        }
        let offset = clock_offset();
        self.tunnels.retain(|_, tunnel| !tunnel.is_outdated(offset));
        let (mut due, mut is_any_used) = (Vec::new(), false);
        for (peer, tunnel) in &mut self.tunnels {
            let Some(used) = tunnel.used else { continue };
            if now.saturating_duration_since(used) >= UNUSED {
                tunnel.reset();
                tunnel.used = None;
                continue;
            }
            is_any_used = true;
            // An error is the end of a session or of an attempt; the next packet starts a new one.
            if let Ok(Some(packet)) = tunnel.tunn.update_timers() {
                due.push((*peer, packet));
            }
        }
        self.next_tick = is_any_used.then(|| now + TICK);
        self.by_index.retain(|index, _| self.indices.in_use(*index));
        due.into_iter()
            .map(|(peer, packet)| (peer, self.register(&peer, packet, now)))
            .collect()
    }

    /// Returns the tunnel to a peer, and marks it as in use.
    fn tunnel(&mut self, peer: &NodePublicKey, now: Instant) -> &mut Tunnel {
        self.next_tick.get_or_insert(now + TICK);
        let new = || {
            let (private, indices) = (self.private.clone(), self.indices.clone());
            let limiter = Arc::clone(&self.limiter);
            let peer = PublicKey::from(peer.to_x25519_dalek().to_bytes());
            Tunnel::new(Tunn::new(private, peer, None, None, indices, limiter))
        };
        let tunnel = self.tunnels.entry(*peer).or_insert_with(new);
        if tunnel.used.is_none() && tunnel.is_outdated(clock_offset()) {
            *tunnel = new();
        }
        if tunnel.used.replace(now).is_none() {
            // Sets the time. Overdue timers are ignored.
            let _ = tunnel.tunn.update_timers();
        }
        tunnel
    }

    /// Records the index of a handshake, by which the response names it.
    fn register(&mut self, peer: &NodePublicKey, packet: WgKind, now: Instant) -> BytesMut {
        match &packet {
            WgKind::HandshakeInit(packet) => {
                let index = packet.sender_idx.get();
                self.by_index.insert(index, *peer);
                if let Some(tunnel) = self.tunnels.get_mut(peer) {
                    tunnel.initiations.push_back((index, now));
                    if tunnel.initiations.len() > RECOGNIZED {
                        tunnel.initiations.pop_front();
                    }
                }
            }
            WgKind::HandshakeResp(packet) => {
                self.by_index.insert(packet.sender_idx.get(), *peer);
                if let Some(tunnel) = self.tunnels.get_mut(peer) {
                    tunnel.responded = Some(now);
                }
            }
            WgKind::CookieReply(_) | WgKind::Data(_) => {}
        }
        bytes(packet)
    }
}

/// Returns the difference between the time of day and the time that the machine has run. It changes if the time of day is
/// set.
fn clock_offset() -> Duration {
    let time_of_day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    time_of_day.saturating_sub(sleep::now())
}

fn bytes(packet: WgKind) -> BytesMut {
    std::mem::take(Packet::from(packet).buf_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_time_of_day_forward_starts_over_where_there_is_no_session() {
        let now = Instant::now();
        let peer = NodeKeyPair::random().public;
        let mut tunnels = Tunnels::new(&NodeKeyPair::random());
        let seal = |tunnels: &mut Tunnels| tunnels.seal(&peer, BytesMut::zeroed(32), now).is_some();
        assert!(seal(&mut tunnels));
        assert!(!seal(&mut tunnels), "a handshake is in progress");
        let shift = |tunnels: &mut Tunnels, to: Duration| {
            tunnels.tunnels.get_mut(&peer).unwrap().clock_offset = to;
            tunnels.next_tick = Some(now);
            tunnels.timers(now);
        };
        let hour = Duration::from_secs(3600);
        shift(&mut tunnels, clock_offset() + hour);
        assert!(!seal(&mut tunnels), "the time was set back");
        shift(&mut tunnels, clock_offset() - hour);
        assert!(seal(&mut tunnels));
    }

    #[test]
    fn forged_packets_neither_create_a_tunnel_nor_keep_it_in_use() {
        let now = Instant::now();
        let (ours, theirs) = (NodeKeyPair::random(), NodeKeyPair::random());
        let (mut a, mut b) = (Tunnels::new(&ours), Tunnels::new(&theirs));
        let origin = Origin::Relay(ours.public);
        let greeting = a.seal(&theirs.public, BytesMut::zeroed(32), now).unwrap();
        let opened = b.open(greeting.clone(), origin, now, |_| true);
        assert!(matches!(
            opened,
            Opened::Authentic(Authentic {
                in_session: false,
                ..
            })
        ));
        let used = |b: &Tunnels| b.tunnels.get(&ours.public).map(|tunnel| tunnel.used);
        // A replay.
        let opened = b.open(greeting.clone(), origin, now + TICK, |_| true);
        assert!(matches!(opened, Opened::Unreadable));
        assert_eq!(used(&b), Some(Some(now)));
        // A stranger has no tunnel.
        let mut c = Tunnels::new(&theirs);
        assert!(matches!(
            c.open(greeting, origin, now, |_| false),
            Opened::Unreadable
        ));
        assert!(c.tunnels.is_empty() && c.next_tick.is_none());
    }
}
