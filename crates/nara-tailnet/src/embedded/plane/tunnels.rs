//! The WireGuard tunnels to the peers.
//!
//! The library reads the clock itself, one that counts sleep. Its timers are checked each second while a tunnel is in
//! use; unused tunnels cost nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
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

/// The maximum number of handshakes per second from one address. Further ones must prove that they can receive there.
const HANDSHAKES: u64 = 100;
/// The interval between checks of the timers.
const EVERY: Duration = Duration::from_secs(1);
/// The time of day was set if it differs by more than this from the one expected.
const STEP: Duration = Duration::from_secs(1);
/// A tunnel without packets for this long is no longer in use. WireGuard drops a session after 180 s.
const UNUSED: Duration = Duration::from_secs(200);

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
    /// From this peer, authenticated.
    Peer {
        peer: NodePublicKey,
        /// The packet proves that both ends have a session.
        in_session: bool,
        /// The IP packet in it, if any.
        packet: Option<BytesMut>,
        /// Packets to send to the peer.
        answers: Vec<BytesMut>,
    },
    /// A cookie for the origin, which must repeat its handshake with it (section 5.3 of the WireGuard paper).
    Cookie(BytesMut),
    /// The packet is malformed, forged, replayed, or belongs to a session that has ended.
    Unreadable,
}

struct Tunnel {
    tunnel: Box<Tunn>,
    /// The time of the last packet, if in use.
    used: Option<Instant>,
}

impl Tunnel {
    /// Marks the tunnel as in use, and tells it the time.
    fn wake(&mut self, now: Instant) -> &mut Tunn {
        if self.used.replace(now).is_none() {
            // What was due long ago is of no interest.
            let _ = self.tunnel.update_timers();
        }
        &mut self.tunnel
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
    next: Option<Instant>,
    /// See [`clock_offset`].
    clock_offset: Duration,
}

impl Tunnels {
    pub(super) fn new(keys: &NodeKeyPair) -> Self {
        let private = StaticSecret::from(keys.private.to_x25519_dalek().to_bytes());
        let public = PublicKey::from(&private);
        Self {
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES)),
            private,
            public,
            tunnels: HashMap::new(),
            by_index: HashMap::new(),
            indices: IndexTable::from_os_rng(),
            next: None,
            clock_offset: clock_offset(),
        }
    }

    /// Ends the tunnels to other peers.
    pub(super) fn retain(&mut self, is_listed: impl Fn(&NodePublicKey) -> bool) {
        self.tunnels.retain(|peer, _| is_listed(peer));
        self.by_index.retain(|_, peer| is_listed(peer));
    }

    /// Returns when [`Self::timers`] is due; `None` for never.
    pub(super) const fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// Returns the duration of the last handshake with a peer.
    pub(super) fn round_trip(&self, peer: &NodePublicKey) -> Option<Duration> {
        let (_, _, _, _, millis) = self.tunnels.get(peer)?.tunnel.stats();
        millis.map(|millis| Duration::from_millis(millis.into()))
    }

    /// Encrypts an IP packet to a peer. Returns the packet to send: a handshake if there is no session, or none while
    /// one is in progress; up to 256 IP packets wait for its end.
    pub(super) fn seal(&mut self, to: &NodePublicKey, packet: BytesMut, now: Instant) -> Option<BytesMut> {
        let sealed = self
            .tunnel(to, now)
            .handle_outgoing_packet(Packet::from_bytes(packet), None)?;
        Some(self.register(to, sealed))
    }

    /// Decrypts a packet from the network. Only listed peers get a tunnel.
    pub(super) fn open(
        &mut self,
        sealed: BytesMut,
        origin: Origin,
        now: Instant,
        is_listed: impl Fn(&NodePublicKey) -> bool,
    ) -> Opened {
        let sealed = match self
            .limiter
            .verify_packet(origin.counted(), Packet::from_bytes(sealed))
        {
            Ok(sealed) => sealed,
            Err(TunnResult::WriteToNetwork(cookie)) => return Opened::Cookie(bytes(cookie)),
            Err(_) => return Opened::Unreadable,
        };
        let peer = match &sealed {
            WgKind::HandshakeInit(sealed) => {
                self.limiter.try_reset_count();
                parse_handshake_anon(&self.private, &self.public, sealed)
                    .ok()
                    .map(|half| NodePublicKey::from_bytes(half.peer_static_public))
            }
            WgKind::HandshakeResp(sealed) => self.by_index.get(&sealed.receiver_idx.get()).copied(),
            WgKind::CookieReply(sealed) => self.by_index.get(&sealed.receiver_idx.get()).copied(),
            WgKind::Data(sealed) => self.by_index.get(&sealed.header.receiver_idx.get()).copied(),
        };
        let Some(peer) = peer.filter(is_listed) else {
            return Opened::Unreadable;
        };
        let in_session = matches!(sealed, WgKind::HandshakeResp(_) | WgKind::Data(_));
        let tunnel = self.tunnel(&peer, now);
        let (packet, answer) = match tunnel.handle_incoming_packet(sealed) {
            TunnResult::Done => (None, None),
            TunnResult::Err(_) => return Opened::Unreadable,
            TunnResult::WriteToNetwork(answer) => (None, Some(answer)),
            TunnResult::WriteToTunnel(packet) if packet.is_empty() => (None, None),
            TunnResult::WriteToTunnel(mut packet) => (Some(std::mem::take(packet.buf_mut())), None),
        };
        let mut answers: Vec<_> = answer.into_iter().collect();
        // After our own response, the peer must use the session first (section 5.1 of the WireGuard paper).
        if in_session {
            answers.extend(tunnel.get_queued_packets(&mut MtuWatcher::new(MTU as u16)));
        }
        let answers = answers
            .into_iter()
            .map(|answer| self.register(&peer, answer))
            .collect();
        Opened::Peer {
            peer,
            in_session,
            packet,
            answers,
        }
    }

    /// Starts a handshake with a peer that does not answer, which may have lost its session.
    pub(super) fn greet(&mut self, peer: &NodePublicKey, now: Instant) -> Option<BytesMut> {
        let tunnel = self.tunnel(peer, now);
        if tunnel.time_since_last_handshake().is_some() {
            tunnel.reset();
        }
        // The response to an earlier handshake is accepted, too.
        let handshake = tunnel.format_handshake_initiation(true)?;
        Some(self.register(peer, handshake.into()))
    }

    /// Ends all sessions.
    pub(super) fn reset(&mut self) {
        for tunnel in self.tunnels.values_mut() {
            tunnel.tunnel.reset();
        }
    }

    /// Runs the timers: repeated handshakes, new keys, keep-alives. Returns packets to send, each with its peer.
    pub(super) fn timers(&mut self, now: Instant) -> Vec<(NodePublicKey, BytesMut)> {
        if self.next.is_none_or(|next| next > now) {
            return Vec::new();
        }
        self.limiter.try_reset_count();
        self.follow_clock(clock_offset());
        let (mut due, mut is_any_used) = (Vec::new(), false);
        for (peer, tunnel) in &mut self.tunnels {
            let Some(used) = tunnel.used else { continue };
            if now.saturating_duration_since(used) >= UNUSED {
                tunnel.tunnel.reset();
                tunnel.used = None;
                continue;
            }
            is_any_used = true;
            // An error is the end of a session or of an attempt; the next packet starts a new one.
            if let Ok(Some(packet)) = tunnel.tunnel.update_timers() {
                due.push((*peer, packet));
            }
        }
        self.next = is_any_used.then(|| now + EVERY);
        self.by_index.retain(|index, _| self.indices.in_use(*index));
        due.into_iter()
            .map(|(peer, packet)| (peer, self.register(&peer, packet)))
            .collect()
    }

    /// Starts over with peers without a session if the time of day was set forward, as on a machine that gets the time
    /// after its start. A tunnel stamps its handshakes with the time of day at its creation and the time passed since,
    /// and peers that know a later stamp refuse them.
    fn follow_clock(&mut self, offset: Duration) {
        if offset > self.clock_offset + STEP {
            self.tunnels
                .retain(|_, tunnel| tunnel.tunnel.time_since_last_handshake().is_some());
        }
        if offset.abs_diff(self.clock_offset) > STEP {
            self.clock_offset = offset;
        }
    }

    fn tunnel(&mut self, peer: &NodePublicKey, now: Instant) -> &mut Tunn {
        self.next.get_or_insert(now + EVERY);
        let tunnel = self.tunnels.entry(*peer).or_insert_with(|| {
            let (private, indices) = (self.private.clone(), self.indices.clone());
            let limiter = Arc::clone(&self.limiter);
            let peer = PublicKey::from(peer.to_x25519_dalek().to_bytes());
            Tunnel {
                tunnel: Box::new(Tunn::new(private, peer, None, None, indices, limiter)),
                used: None,
            }
        });
        tunnel.wake(now)
    }

    /// Records the index of a handshake, by which the response names it.
    fn register(&mut self, peer: &NodePublicKey, packet: WgKind) -> BytesMut {
        let index = match &packet {
            WgKind::HandshakeInit(packet) => Some(packet.sender_idx.get()),
            WgKind::HandshakeResp(packet) => Some(packet.sender_idx.get()),
            WgKind::CookieReply(_) | WgKind::Data(_) => None,
        };
        self.by_index.extend(index.map(|index| (index, *peer)));
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
        let expected = tunnels.clock_offset;
        let mut greet = |offset| {
            tunnels.follow_clock(offset);
            tunnels.seal(&peer, BytesMut::zeroed(32), now).is_some()
        };
        assert!(greet(expected));
        assert!(!greet(expected), "a handshake is in progress");
        assert!(!greet(expected - Duration::from_secs(3600)));
        assert!(greet(expected));
        assert!(!greet(expected + STEP / 2));
    }
}
