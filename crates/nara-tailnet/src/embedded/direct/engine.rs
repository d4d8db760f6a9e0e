//! The direct paths of all peers, without I/O: packets and times go in, [`Action`]s come out.
//!
//! Every packet is untrusted until it is decrypted with the disco key of a listed peer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ts_keys::{DiscoKeyPair, DiscoPublicKey, NodePublicKey};

use super::address::Policy;
use super::disco::{self, Message, TxId};
use super::limit::Limit;
use super::packet;
use super::session::{MAX_CANDIDATES, Session, Wish};

/// The timeout of a ping; a later pong is ignored.
const ANSWER: Duration = Duration::from_secs(5);
/// The maximum number of pending pings of all peers, except those of paths in use.
const MAX_PINGS: usize = 8192;
/// The maximum number of concurrent sessions.
const MAX_SESSIONS: usize = 1024;
/// The maximum rate of decryptions per second, per peer at its known addresses, and for all other packets together. An
/// attacker can cause this work, about 0.1 ms per packet.
const OF_A_PEER: f64 = 200.0;
const OF_ANYBODY: f64 = 200.0;

/// A peer in the map of the control server, as direct paths need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct DirectPeer {
    pub(in crate::embedded) key: NodePublicKey,
    pub(in crate::embedded) disco: DiscoPublicKey,
    pub(in crate::embedded) endpoints: Vec<SocketAddr>,
}

/// The origin of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// UDP from this address.
    Udp(SocketAddr),
    /// A relay, which claims this node as the sender.
    Relay(NodePublicKey),
}

/// An action for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this datagram.
    Send(SocketAddr, Vec<u8>),
    /// Send this packet to a peer through its relay.
    Relay(NodePublicKey, Vec<u8>),
    /// Set the path of packets to a peer; `None` for its relay.
    Route(NodePublicKey, Option<SocketAddr>),
}

struct Peer {
    disco: DiscoPublicKey,
    listed: Vec<SocketAddr>,
    session: Option<Session>,
    limit: Limit,
}

struct Sent {
    peer: NodePublicKey,
    to: SocketAddr,
    at: Instant,
}

/// The direct paths of all peers; see the module.
pub(super) struct Engine {
    keys: DiscoKeyPair,
    node: NodePublicKey,
    policy: Policy,
    /// Our own addresses, as far as known.
    own: Vec<SocketAddr>,
    peers: HashMap<NodePublicKey, Peer>,
    /// Nodes do not prove the ownership of a disco key to the control server, so several may share one.
    by_disco: HashMap<DiscoPublicKey, Vec<NodePublicKey>>,
    sessions: HashSet<NodePublicKey>,
    pings: HashMap<TxId, Sent>,
    /// The pings in the order in which they were sent.
    sent: VecDeque<(Instant, TxId)>,
    strangers: Limit,
    actions: Vec<Action>,
}

impl Engine {
    pub(super) fn new(keys: DiscoKeyPair, node: NodePublicKey, policy: Policy, now: Instant) -> Self {
        Self {
            keys,
            node,
            policy,
            own: Vec::new(),
            peers: HashMap::new(),
            by_disco: HashMap::new(),
            sessions: HashSet::new(),
            pings: HashMap::new(),
            sent: VecDeque::new(),
            strangers: Limit::new(OF_ANYBODY, OF_ANYBODY, now),
            actions: Vec::new(),
        }
    }

    /// Takes the pending actions.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Replaces our WireGuard key.
    pub(super) fn set_node(&mut self, node: NodePublicKey) {
        self.node = node;
    }

    /// Sets our own addresses, and sends them to peers at once.
    pub(super) fn set_own(&mut self, own: Vec<SocketAddr>, now: Instant) {
        self.own = own;
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.moved(now));
        }
    }

    /// Drops all paths after a sleep, and searches anew.
    pub(super) fn slept(&mut self, now: Instant) {
        self.pings.clear();
        self.sent.clear();
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.slept(now));
        }
    }

    /// Sets the listed peers. A peer with a new disco key has restarted, so its session starts over.
    pub(super) fn set_peers(&mut self, listed: &[DirectPeer], now: Instant) {
        let mut old = std::mem::take(&mut self.peers);
        self.by_disco.clear();
        for peer in listed {
            // Anybody can derive the shared secret of an all-zero key.
            if peer.disco == DiscoPublicKey::from_bytes([0; 32]) {
                continue;
            }
            let endpoints: Vec<_> = peer
                .endpoints
                .iter()
                .filter_map(|address| self.policy.usable(*address))
                .take(MAX_CANDIDATES)
                .collect();
            let known = old.remove(&peer.key);
            let same = known.filter(|known| known.disco == peer.disco);
            let was_active = self.sessions.contains(&peer.key);
            if same.is_none() && was_active {
                self.forget(peer.key);
            }
            let mut this = same.unwrap_or_else(|| Peer {
                disco: peer.disco,
                listed: Vec::new(),
                session: None,
                limit: Limit::new(OF_A_PEER, OF_A_PEER, now),
            });
            if this.listed != endpoints {
                if let Some(session) = &mut this.session {
                    session.set_listed(&endpoints);
                }
                this.listed = endpoints;
            }
            self.by_disco.entry(peer.disco).or_default().push(peer.key);
            self.peers.insert(peer.key, this);
        }
        for gone in old.into_keys() {
            if self.sessions.contains(&gone) {
                self.forget(gone);
            }
        }
    }

    /// Sets the active peers.
    pub(super) fn set_active(&mut self, active: &HashSet<NodePublicKey>, now: Instant) {
        for key in self.sessions.difference(active).copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.set_active(false, now));
        }
        for key in active {
            self.with_session(*key, now, |session| session.set_active(true, now));
        }
    }

    /// Processes a disco packet.
    pub(super) fn received(&mut self, packet: &mut [u8], via: Via, now: Instant) {
        if packet.len() > packet::MAX {
            return;
        }
        let Some(disco) = disco::sender(packet) else {
            return;
        };
        let Some(claimed) = self.by_disco.get(&disco).cloned() else {
            return;
        };
        if !self.is_worth_opening(&claimed, via, now) {
            return;
        }
        let Some(message) = disco::open(packet, &self.keys.private) else {
            return;
        };
        match (message, via) {
            (Message::Ping { tx, node }, Via::Udp(from)) if claimed.contains(&node) => {
                self.ping_came(node, disco, tx, from, now);
            }
            (Message::Pong { tx, .. }, Via::Udp(from)) => self.pong_came(disco, tx, from, now),
            (Message::CallMeMaybe(addresses), Via::Relay(from)) if claimed.contains(&from) => {
                let usable = addresses
                    .iter()
                    .filter_map(|address| self.policy.usable(*address));
                let usable: Vec<_> = usable.collect();
                self.with_session(from, now, |session| session.called(&usable, now));
            }
            // Pings through relays reveal no path.
            _ => {}
        }
    }

    /// Records that the system cannot send to this address.
    pub(super) fn refused(&mut self, address: SocketAddr, now: Instant) {
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.refused(address, now));
        }
    }

    /// Runs due timers.
    pub(super) fn timeout(&mut self, now: Instant) {
        self.forget_pings(now);
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.timeout(now));
            let session = self.peers.get(&key).and_then(|peer| peer.session.as_ref());
            if session.is_none_or(|session| session.is_over(now)) {
                self.forget(key);
            }
        }
    }

    /// Returns when [`Self::timeout`] is due; `None` for never.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().filter_map(|key| self.peers.get(key));
        sessions
            .filter_map(|peer| peer.session.as_ref()?.next_timeout())
            .min()
    }

    /// Returns whether the rate limit allows decrypting a packet now.
    fn is_worth_opening(&mut self, claimed: &[NodePublicKey], via: Via, now: Instant) -> bool {
        let known = claimed.iter().copied().find(|key| match via {
            Via::Udp(from) => {
                let session = self.peers.get(key).and_then(|peer| peer.session.as_ref());
                session.is_some_and(|session| session.knows(&from))
            }
            Via::Relay(from) => from == *key,
        });
        match known.and_then(|key| self.peers.get_mut(&key)) {
            Some(peer) => peer.limit.take(now),
            None => self.strangers.take(now),
        }
    }

    fn ping_came(
        &mut self,
        node: NodePublicKey,
        disco: DiscoPublicKey,
        tx: TxId,
        from: SocketAddr,
        now: Instant,
    ) {
        let Some(usable) = self.policy.usable(from) else {
            return;
        };
        let pong = Message::Pong { tx, seen: usable };
        if let Some(packet) = disco::seal(&pong, &self.keys.private, &disco) {
            self.actions.push(Action::Send(from, packet));
        }
        self.with_session(node, now, |session| session.pinged(usable, now));
    }

    fn pong_came(&mut self, disco: DiscoPublicKey, tx: TxId, from: SocketAddr, now: Instant) {
        let is_answer = self.pings.get(&tx).is_some_and(|sent| {
            sent.to == from
                && now.saturating_duration_since(sent.at) <= ANSWER
                && self.peers.get(&sent.peer).is_some_and(|peer| peer.disco == disco)
        });
        if !is_answer {
            return;
        }
        // A pong counts once.
        if let Some(sent) = self.pings.remove(&tx) {
            let latency = now.saturating_duration_since(sent.at);
            self.with_session(sent.peer, now, |session| session.ponged(from, latency, now));
        }
    }

    /// Runs `work` on the session of a peer, creating it if needed, and executes its requests.
    fn with_session(&mut self, key: NodePublicKey, now: Instant, work: impl FnOnce(&mut Session)) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if peer.session.is_none() && self.sessions.len() >= MAX_SESSIONS {
            return;
        }
        let session = peer
            .session
            .get_or_insert_with(|| Session::new(&peer.listed, now));
        self.sessions.insert(key);
        work(session);
        let (disco, path, wishes) = (peer.disco, session.path(), session.wishes());
        self.forget_pings(now);
        for wish in wishes {
            match wish {
                Wish::Route(to) => self.actions.push(Action::Route(key, to)),
                // Whatever other peers cause, a path in use is not given up for want of pings.
                Wish::Ping(to) if path == Some(to) || self.sent.len() < MAX_PINGS => {
                    self.ping(key, &disco, to, now);
                }
                Wish::Ping(_) => {}
                Wish::Call => {
                    let call = Message::CallMeMaybe(self.own.clone());
                    if let Some(packet) = disco::seal(&call, &self.keys.private, &disco) {
                        self.actions.push(Action::Relay(key, packet));
                    }
                }
            }
        }
    }

    fn ping(&mut self, peer: NodePublicKey, disco: &DiscoPublicKey, to: SocketAddr, now: Instant) {
        let mut tx = TxId::default();
        if getrandom::fill(&mut tx).is_err() {
            return;
        }
        let ping = Message::Ping { tx, node: self.node };
        if let Some(packet) = disco::seal(&ping, &self.keys.private, disco) {
            self.pings.insert(tx, Sent { peer, to, at: now });
            self.sent.push_back((now, tx));
            self.actions.push(Action::Send(to, packet));
        }
    }

    /// Removes expired pings.
    fn forget_pings(&mut self, now: Instant) {
        while let Some((at, tx)) = self.sent.front()
            && now.saturating_duration_since(*at) > ANSWER
        {
            self.pings.remove(tx);
            self.sent.pop_front();
        }
    }

    fn forget(&mut self, key: NodePublicKey) {
        self.sessions.remove(&key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.session = None;
        }
        self.actions.push(Action::Route(key, None));
    }
}

#[cfg(test)]
mod tests;
