//! All peers at once, without I/O: packets and times go in, [`Action`]s come out.
//!
//! Whatever arrives is hostile until it opens with the disco key of a peer that control lists.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ts_keys::{DiscoKeyPair, DiscoPublicKey, NodePublicKey};

use super::address::Policy;
use super::disco::{self, Message, TxId};
use super::limit::Limit;
use super::packet;
use super::session::{MAX_CANDIDATES, Session, Wish};

/// A pong that comes later is no answer any more.
const ANSWER: Duration = Duration::from_secs(5);
/// Pings of the last seconds, all peers together.
const MAX_PINGS: usize = 8192;
/// Peers with which something goes on at the same time.
const MAX_SESSIONS: usize = 1024;
/// Packets per second that are opened: of each peer from where it is known, and of all others together. An attacker
/// can make us do this arithmetic, about 0.1 ms each.
const OF_A_PEER: f64 = 200.0;
const OF_ANYBODY: f64 = 200.0;

/// What control says about a peer, as far as direct paths are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct DirectPeer {
    pub(in crate::embedded) key: NodePublicKey,
    pub(in crate::embedded) disco: DiscoPublicKey,
    pub(in crate::embedded) endpoints: Vec<SocketAddr>,
}

/// How a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// From this address.
    Udp(SocketAddr),
    /// From a relay, which says that it is of this node.
    Relay(NodePublicKey),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this datagram.
    Send(SocketAddr, Vec<u8>),
    /// Send this packet to a peer through its relay.
    Relay(NodePublicKey, Vec<u8>),
    /// Packets to a peer go there from now on; `None`: through its relay.
    Route(NodePublicKey, Option<SocketAddr>),
    /// WireGuard that comes from this address is of this peer.
    Known(SocketAddr, NodePublicKey),
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

/// See the module.
pub(super) struct Engine {
    keys: DiscoKeyPair,
    node: NodePublicKey,
    policy: Policy,
    /// Where we can be reached, as far as we know.
    own: Vec<SocketAddr>,
    peers: HashMap<NodePublicKey, Peer>,
    /// Nobody proves to control that a disco key is theirs, so there may be several.
    by_disco: HashMap<DiscoPublicKey, Vec<NodePublicKey>>,
    sessions: HashSet<NodePublicKey>,
    pings: HashMap<TxId, Sent>,
    /// The pings in the order of their times.
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
            strangers: Limit::new(OF_ANYBODY, now),
            actions: Vec::new(),
        }
    }

    /// What is to be done since this was asked last.
    pub(super) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Our WireGuard key has changed.
    pub(super) fn set_node(&mut self, node: NodePublicKey) {
        self.node = node;
    }

    /// Where we can be reached. Peers hear of it at once.
    pub(super) fn set_own(&mut self, own: Vec<SocketAddr>, now: Instant) {
        self.own = own;
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.moved(now));
        }
    }

    /// The node has slept: all paths are looked for anew.
    pub(super) fn slept(&mut self, now: Instant) {
        self.pings.clear();
        self.sent.clear();
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.slept(now));
        }
    }

    /// The peers are these now. One that is new under an old name, because it was started again, begins anew.
    pub(super) fn set_peers(&mut self, listed: &[DirectPeer], now: Instant) {
        let mut old = std::mem::take(&mut self.peers);
        self.by_disco.clear();
        for peer in listed {
            // With a key of zeros anybody could open and seal.
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
                limit: Limit::new(OF_A_PEER, now),
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

    /// Packets go to these peers now, and to no others.
    pub(super) fn set_active(&mut self, active: &HashSet<NodePublicKey>, now: Instant) {
        for key in self.sessions.difference(active).copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.set_active(false, now));
        }
        for key in active {
            self.with_session(*key, now, |session| session.set_active(true, now));
        }
    }

    /// A disco packet has come.
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
            // Pings through relays say nothing about paths.
            _ => {}
        }
    }

    /// The system refuses to send to this address.
    pub(super) fn refused(&mut self, address: SocketAddr, now: Instant) {
        for key in self.sessions.iter().copied().collect::<Vec<_>>() {
            self.with_session(key, now, |session| session.refused(address, now));
        }
    }

    /// Does what is due.
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

    /// When [`Self::timeout`] is due; `None`: it is not.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().filter_map(|key| self.peers.get(key));
        sessions
            .filter_map(|peer| peer.session.as_ref()?.next_timeout())
            .min()
    }

    /// Whether the arithmetic may be done now.
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
        self.actions.push(Action::Known(usable, node));
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
            self.actions.push(Action::Known(from, sent.peer));
            self.with_session(sent.peer, now, |session| session.ponged(from, latency, now));
        }
    }

    /// Works on the session of a peer, which is begun if there is none, and does what it wishes.
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
        let disco = peer.disco;
        for wish in session.wishes() {
            match wish {
                Wish::Route(to) => self.actions.push(Action::Route(key, to)),
                Wish::Ping(to) => self.ping(key, &disco, to, now),
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
        self.forget_pings(now);
        if self.sent.len() >= MAX_PINGS || getrandom::fill(&mut tx).is_err() {
            return;
        }
        let ping = Message::Ping { tx, node: self.node };
        if let Some(packet) = disco::seal(&ping, &self.keys.private, disco) {
            self.pings.insert(tx, Sent { peer, to, at: now });
            self.sent.push_back((now, tx));
            self.actions.push(Action::Send(to, packet));
        }
    }

    /// Forgets pings for whose answers it is too late.
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
