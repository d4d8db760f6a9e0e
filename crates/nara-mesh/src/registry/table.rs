mod room;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nara_proto::breaker::BreakerConfig;
use nara_proto::coordinates::NetworkCoordinates;
use nara_proto::identity::{NaraId, NaraName, PublicKey};
use smallvec::SmallVec;
use tokio::sync::{broadcast, watch};

use super::by_teller::ByTeller;
use super::counts::count;
use super::looks::Looks;
use super::own_key::OwnKey;
use super::peer_clock::Clocks;
use super::succession::Successions;
use super::{
    KeyConflict, KeyRefused, KeySource, Peer, PeerEvent, PeerInfo, PeerProtocol, PinnedKey, TrustPolicy,
};
use crate::tls::TlsPolicy;
use crate::{defaults, metrics};

/// Events that a slow subscriber may lag behind before it misses some.
const EVENT_BACKLOG: usize = 256;

/// Why a peer cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The registry is full, or its share for hearsay is.
    #[error("the registry is full ({0} peers): remove peers, or raise the limit")]
    Full(usize),
    /// Id and name belong to two naras.
    #[error("{claimed} contradicts {known}, which is registered: correct the wrong one")]
    IdentityConflict {
        /// Name and id that are known.
        known: Box<PeerInfo>,
        /// Name and id that were claimed.
        claimed: Box<PeerInfo>,
    },
    /// The key contradicts the pinned one.
    #[error(transparent)]
    KeyConflict(#[from] KeyConflict),
    /// The trust policy refused the key.
    #[error(transparent)]
    KeyRefused(#[from] KeyRefused),
}

/// All peers, by id, by name and by address. Clones share one registry.
#[derive(Clone, Debug)]
pub struct PeerRegistry {
    table: Arc<RwLock<Table>>,
    events: broadcast::Sender<PeerEvent>,
    breaker: Arc<BreakerConfig>,
    max_peers: usize,
    trust: TrustPolicy,
    decisions: Arc<watch::Sender<()>>,
    pub(super) clocks: Arc<Mutex<Clocks>>,
    pub(super) successions: Arc<Mutex<Successions>>,
    /// Held while a statement of succession is taken in.
    pub(super) heeding: Arc<Mutex<()>>,
    pub(super) own_key: Arc<Mutex<OwnKey>>,
    /// Where this nara is.
    pub(super) coordinates: Arc<Mutex<NetworkCoordinates>>,
}

/// Nearly always one.
type Peers = SmallVec<[Arc<Peer>; 1]>;

#[derive(Debug, Default)]
pub(super) struct Table {
    by_id: HashMap<NaraId, Arc<Peer>>,
    by_name: HashMap<NaraName, Arc<Peer>>,
    by_ip: HashMap<IpAddr, Peers>,
    /// Peers of which nothing but the address is known. Apart, because one address may have very many others.
    nameless: HashMap<IpAddr, Peers>,
    by_key: HashMap<PublicKey, Peers>,
    /// The keys of naras that the operator does not trust, and their names.
    banned: HashMap<PublicKey, BTreeSet<Option<NaraName>>>,
    pub(super) looks: Looks,
    /// Naras that others introduced and that were never seen themselves.
    ghosts: ByTeller,
    /// Naras that others introduced and that were seen then.
    seen: ByTeller,
    /// Naras that were met, those that were seen among them, and that nobody configured.
    met: BTreeSet<NaraName>,
    /// All peers.
    len: usize,
}

impl Default for PeerRegistry {
    fn default() -> Self {
        Self::new(BreakerConfig::default())
    }
}

impl PeerRegistry {
    /// An empty registry whose peers get circuit breakers of this kind.
    pub fn new(breaker: BreakerConfig) -> Self {
        Self {
            table: Arc::default(),
            events: broadcast::channel(EVENT_BACKLOG).0,
            breaker: Arc::new(breaker),
            max_peers: defaults::MAX_PEERS,
            trust: TrustPolicy::default(),
            decisions: Arc::default(),
            clocks: Arc::default(),
            successions: Arc::default(),
            heeding: Arc::default(),
            own_key: Arc::default(),
            coordinates: Arc::default(),
        }
    }

    /// Sets the trust policy for keys that nobody configured; the default is [`TrustPolicy::FirstUse`].
    #[must_use]
    pub fn with_trust(mut self, policy: TrustPolicy) -> Self {
        self.trust = policy;
        self
    }

    /// The trust policy for keys that nobody configured.
    pub fn trust(&self) -> &TrustPolicy {
        &self.trust
    }

    /// Limits the number of peers; the default is 200,000. Peers that one nara introduced have 1/128 of it until they are seen,
    /// and 1/64 after that, but at least 16 places, or half of the places for all introduced peers if that is less.
    #[must_use]
    pub fn with_max_peers(mut self, max_peers: usize) -> Self {
        self.max_peers = max_peers;
        self
    }

    /// Registers a peer, or adds new facts to a peer with this id or name. A new address closes its breaker.
    ///
    /// # Errors
    /// [`RegisterError`] if it contradicts the registry; nothing is changed then.
    pub fn register(&self, info: PeerInfo) -> Result<Arc<Peer>, RegisterError> {
        self.check_trust(&info)?;
        self.insert(info)
    }

    /// Like [`PeerRegistry::register`], without asking the trust policy.
    pub(super) fn insert(&self, info: PeerInfo) -> Result<Arc<Peer>, RegisterError> {
        let mut table = self.write();
        let known = table.find(&info);
        for peer in &known {
            self.check_consistent(&peer.info(), &info)?;
        }
        let mut look_alike = None;
        let mut evicted = Vec::new();
        if known.is_empty() {
            evicted.extend(table.make_room(&info, self.max_peers)?);
            look_alike = info.name.as_ref().and_then(|name| table.looks.look_alike(name));
        }
        // Found under its id and under its name, one peer was known in two halves until now.
        let mut known = known.into_iter();
        let peer = known.next();
        let before = peer.as_ref().map(|peer| peer.info());
        let peer = peer.unwrap_or_else(|| Arc::new(Peer::new(PeerInfo::default(), self.breaker.clone())));
        table.unlink(&peer);
        for other_half in known {
            table.unlink(&other_half);
            peer.update(|known| known.fill_from(other_half.info()));
        }
        peer.update(|known| {
            let same_ip = known.address.map(|known| known.ip()) == info.address.map(|new| new.ip());
            // A guess does not replace a port that is known, or has answered.
            if let Some(address) = info.address.filter(|_| !(info.either_port && same_ip)) {
                (known.address, known.either_port) = (Some(address), info.either_port);
            }
            known.tls = info.tls.or(known.tls);
            known.configured |= info.configured;
            known.configured_at = info.configured_at.or(known.configured_at);
            // It was only introduced until now, and answers with that key at an address of its own.
            let direct = |key: &PinnedKey| matches!(key.source, KeySource::Ping(_) | KeySource::Tls(_));
            let same_key = known.key.as_ref().map(|key| key.key) == info.key.as_ref().map(|key| key.key);
            known.seen |= same_key && info.key.as_ref().is_some_and(direct);
            known.fill_from(info);
        });
        table.link(&peer);
        drop(table);
        for ghost in evicted {
            self.removed(&ghost);
        }
        self.announce(&peer, before);
        if let Some(known) = look_alike {
            let peer = peer.info();
            self.emit(PeerEvent::LookAlike { peer, known });
        }
        Ok(peer)
    }

    /// Registers the address of a peer by its id.
    ///
    /// # Errors
    /// As [`PeerRegistry::register`].
    pub fn register_address(&self, id: &NaraId, address: SocketAddr) -> Result<Arc<Peer>, RegisterError> {
        self.register(PeerInfo {
            id: Some(id.clone()),
            address: Some(address),
            ..PeerInfo::default()
        })
    }

    /// Removes a peer and its pinned key. Returns whether it was registered.
    pub fn unregister(&self, id: &NaraId) -> bool {
        let Some(peer) = self.by_id(id) else { return false };
        self.remove(&peer);
        true
    }

    /// Removes a peer, with its pinned key.
    pub fn remove(&self, peer: &Arc<Peer>) {
        if self.write().unlink(peer) {
            self.removed(peer);
        }
    }

    /// Removes the naras that were only introduced by others and never seen themselves, and about which nothing was
    /// decided. Returns their names.
    pub fn prune(&self) -> Vec<NaraName> {
        let names = self.read().ghosts.names();
        for peer in names.iter().filter_map(|name| self.by_name(name.as_str())) {
            self.remove(&peer);
        }
        names
    }

    /// Tells of a peer that was taken out of the table.
    fn removed(&self, peer: &Peer) {
        self.forget_succession(peer);
        self.forget_clock_of(peer);
        self.changed();
        self.emit(PeerEvent::Unregistered(peer.info()));
    }

    /// Whether the operator does not trust a nara with this key.
    pub(super) fn is_banned(&self, key: &PublicKey) -> bool {
        self.read().banned.contains_key(key)
    }

    /// The peer with this id.
    pub fn by_id(&self, id: &NaraId) -> Option<Arc<Peer>> {
        self.read().by_id.get(id).cloned()
    }

    /// The peer with this name.
    pub fn by_name(&self, name: &str) -> Option<Arc<Peer>> {
        self.read().by_name.get(name).cloned()
    }

    /// The nara whose key this is; `None`: nobody's that is known, or that of several names.
    pub(crate) fn holder(&self, key: &PublicKey) -> Option<Arc<Peer>> {
        match self.read().by_key.get(key).map(Peers::as_slice) {
            Some([only]) => Some(only.clone()),
            _ => None,
        }
    }

    /// The peers at this address: several naras may share a machine.
    pub fn by_ip(&self, ip: IpAddr) -> Vec<Arc<Peer>> {
        self.read()
            .by_ip
            .get(&ip)
            .map_or_else(Vec::new, |peers| peers.to_vec())
    }

    /// Whether one more nara at this address may be registered from hearsay.
    pub(crate) fn has_room_at(&self, ip: IpAddr) -> bool {
        let at_ip = self.read().by_ip.get(&ip).map_or(0, Peers::len);
        at_ip < defaults::HEARSAY_PER_ADDRESS
    }

    /// All peers, by name and then by id.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        let table = self.read();
        let mut peers: Vec<_> = table.by_ip.values().flatten().cloned().collect();
        let without_address = |peer: &&Arc<Peer>| peer.info().address.is_none();
        peers.extend(table.by_name.values().filter(without_address).cloned());
        let nameless = |peer: &&Arc<Peer>| peer.info().address.is_none() && peer.info().name.is_none();
        peers.extend(table.by_id.values().filter(nameless).cloned());
        drop(table);
        peers.sort_by_cached_key(|peer| {
            let info = peer.info();
            (info.name, info.id, info.address)
        });
        peers
    }

    /// The number of peers.
    pub fn len(&self) -> usize {
        self.read().len
    }

    /// Whether the registry is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pins a key to its name. Pinning the same key again has no effect.
    ///
    /// # Errors
    /// [`RegisterError::KeyConflict`] if another key is pinned: subscribers are notified, and nothing is changed.
    pub fn pin(&self, key: PinnedKey) -> Result<Arc<Peer>, RegisterError> {
        self.register(PeerInfo {
            id: key.id.clone(),
            name: Some(key.name.clone()),
            key: Some(key),
            ..PeerInfo::default()
        })
    }

    /// Records protocols that a peer has proven. Earlier ones stay.
    pub fn learn_protocol(&self, peer: &Peer, protocol: PeerProtocol) {
        let known = peer.protocol();
        let union = known.union(protocol);
        if union != known {
            peer.update(|info| info.protocol = info.protocol.union(protocol));
            self.emit(PeerEvent::ProtocolLearned(peer.info()));
        }
    }

    /// Subscribes to changes of peers. A subscriber that falls behind misses the oldest ones.
    pub fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    /// Notifies when a decision of the operator takes effect, for long-running work that must check again.
    pub(crate) fn decisions(&self) -> watch::Receiver<()> {
        self.decisions.subscribe()
    }

    /// Notes on which port a peer whose port was a guess has given a **verified** answer.
    pub(crate) fn note_port(&self, peer: &Peer, port: u16) {
        if !peer.with_info(|info| info.either_port) {
            return;
        }
        let guessed = peer.info();
        if let Some(address) = guessed
            .address
            .filter(|address| guessed.either_port && address.port() != port)
        {
            peer.update(|info| {
                if info.address == Some(address) {
                    info.address = Some(SocketAddr::new(address.ip(), port));
                }
            });
            self.emit(PeerEvent::AddressChanged(peer.info()));
        }
    }

    /// Has everything that runs long look again at what it is allowed to do.
    pub(super) fn changed(&self) {
        self.decisions.send_replace(());
    }

    /// Tells everybody about a decision of the operator.
    pub(super) fn decided(&self, peer: &Peer) {
        self.changed();
        self.emit(PeerEvent::Decided(peer.info()));
    }

    /// A peer of this kind that is not in the registry: somebody called its address. Where a registered one must
    /// not be called without TLS, neither must this one: it may be the same.
    pub(crate) fn stranger(&self, address: SocketAddr) -> Arc<Peer> {
        self.make_stranger(address, false)
    }

    /// As [`PeerRegistry::stranger`], where the port is a guess.
    pub(crate) fn stranger_on_either_port(&self, address: SocketAddr) -> Arc<Peer> {
        self.make_stranger(address, true)
    }

    fn make_stranger(&self, address: SocketAddr, either_port: bool) -> Arc<Peer> {
        let must_be_tls = |peer: &Arc<Peer>| {
            let known = peer.info();
            let here = known.address == Some(address);
            (here || either_port)
                && match known.tls {
                    Some(TlsPolicy::Plain) => false,
                    Some(TlsPolicy::Require) => true,
                    Some(TlsPolicy::Prefer) | None => known.protocol.tls,
                }
        };
        let tls = self.by_ip(address.ip()).iter().any(must_be_tls);
        let info = PeerInfo {
            address: Some(address),
            either_port,
            tls: tls.then_some(TlsPolicy::Require),
            ..PeerInfo::default()
        };
        Arc::new(Peer::new(info, self.breaker.clone()))
    }

    pub(crate) fn emit(&self, event: PeerEvent) {
        count(&event);
        // An error means that nobody listens, which is fine.
        let _ = self.events.send(event);
    }

    fn check_consistent(&self, known: &PeerInfo, new: &PeerInfo) -> Result<(), RegisterError> {
        fn differ<T: PartialEq>(known: &Option<T>, new: &Option<T>) -> bool {
            matches!((known, new), (Some(known), Some(new)) if known != new)
        }
        if differ(&known.name, &new.name) || differ(&known.id, &new.id) {
            return Err(RegisterError::IdentityConflict {
                known: Box::new(known.clone()),
                claimed: Box::new(new.clone()),
            });
        }
        if let (Some(pinned), Some(offered)) = (&known.key, &new.key)
            && pinned.key != offered.key
        {
            return Err(self.conflict(pinned, offered).into());
        }
        Ok(())
    }

    fn announce(&self, peer: &Peer, before: Option<PeerInfo>) {
        let now = peer.info();
        let known_before = before.is_some();
        let before = before.unwrap_or_default();
        if !known_before {
            self.emit(PeerEvent::Registered(now.clone()));
        }
        if let Some(key) = now.key.clone().filter(|_| before.key.is_none()) {
            self.emit(PeerEvent::KeyPinned(key));
        } else if now.key.is_some() && now.id.is_some() && before.id.is_none() {
            self.emit(PeerEvent::IdLearned(now.clone()));
        }
        if known_before && now.address != before.address {
            self.came_online(peer);
            self.emit(PeerEvent::AddressChanged(now));
        }
    }

    /// The peers that a description may mean: see [`Table::find`].
    pub(super) fn find(&self, info: &PeerInfo) -> Vec<Arc<Peer>> {
        self.read().find(info)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // No method panics between two changes of the table.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The peers that have the id or the name, or of which nothing but this address is known: none, one, or
    /// several that turn out to be one.
    fn find(&self, info: &PeerInfo) -> Vec<Arc<Peer>> {
        let mut found = Vec::new();
        found.extend(info.id.as_ref().and_then(|id| self.by_id.get(id)).cloned());
        if let Some(peer) = info.name.as_ref().and_then(|name| self.by_name.get(name))
            && !found.iter().any(|other| Arc::ptr_eq(other, peer))
        {
            found.push(peer.clone());
        }
        let nameless = info.address.and_then(|address| self.nameless.get(&address.ip()));
        let is_here = |peer: &&Arc<Peer>| peer.with_info(|known| known.address == info.address);
        found.extend(nameless.into_iter().flatten().filter(is_here).cloned());
        found
    }

    fn contains(&self, peer: &Arc<Peer>) -> bool {
        let info = peer.info();
        let same = |other: Option<&Arc<Peer>>| other.is_some_and(|other| Arc::ptr_eq(other, peer));
        same(info.id.and_then(|id| self.by_id.get(&id)))
            || same(info.name.and_then(|name| self.by_name.get(&name)))
            || info
                .address
                .and_then(|address| self.nameless.get(&address.ip()))
                .is_some_and(|peers| peers.iter().any(|other| Arc::ptr_eq(other, peer)))
    }

    pub(super) fn link(&mut self, peer: &Arc<Peer>) {
        let info = peer.info();
        if let Some(id) = info.id.clone() {
            self.by_id.insert(id, peer.clone());
        }
        if let Some(name) = info.name.clone() {
            self.by_name.insert(name, peer.clone());
        }
        if let Some(address) = info.address {
            self.by_ip.entry(address.ip()).or_default().push(peer.clone());
            if info.id.is_none() && info.name.is_none() {
                self.nameless.entry(address.ip()).or_default().push(peer.clone());
            }
        }
        if let Some(key) = &info.key {
            self.by_key.entry(key.key).or_default().push(peer.clone());
        }
        if info.is_untrusted() {
            for key in peer.all_keys() {
                let names = self.banned.entry(key).or_default();
                let is_new = names.is_empty();
                names.insert(info.name.clone());
                if is_new {
                    self.note_banned(&key);
                }
            }
        }
        peer.set_banned(
            info.key
                .as_ref()
                .is_some_and(|key| self.banned.contains_key(&key.key)),
        );
        if let Some(name) = &info.name {
            self.looks.add(name);
        }
        self.classify(peer);
        peer.set_registered(true);
        self.len += 1;
        self.note_len();
    }

    /// Has all peers with a key know whether it is banned.
    fn note_banned(&self, key: &PublicKey) {
        let banned = self.banned.contains_key(key);
        for peer in self.by_key.get(key).into_iter().flatten() {
            peer.set_banned(banned);
        }
    }

    fn note_len(&self) {
        ::metrics::gauge!(metrics::PEERS).set(self.len as f64);
    }

    /// Takes a peer out, if it is there. Returns whether it was.
    pub(super) fn unlink(&mut self, peer: &Arc<Peer>) -> bool {
        if !self.contains(peer) {
            return false;
        }
        peer.set_registered(false);
        let info = peer.info();
        if let Some(id) = &info.id {
            self.by_id.remove(id);
        }
        if let Some(name) = &info.name {
            self.by_name.remove(name);
        }
        if let Some(ip) = info.address.map(|address| address.ip()) {
            take_out(&mut self.by_ip, &ip, peer);
            take_out(&mut self.nameless, &ip, peer);
        }
        if let Some(key) = info.key.map(|key| key.key) {
            take_out(&mut self.by_key, &key, peer);
        }
        for key in peer.all_keys() {
            if let Some(names) = self.banned.get_mut(&key) {
                names.remove(&info.name);
                if names.is_empty() {
                    self.banned.remove(&key);
                    self.note_banned(&key);
                }
            }
        }
        if let Some(name) = &info.name {
            self.ghosts.remove(name);
            self.seen.remove(name);
            self.met.remove(name);
            self.looks.remove(name);
        }
        self.len -= 1;
        self.note_len();
        true
    }
}

fn take_out<K: Eq + Hash>(index: &mut HashMap<K, Peers>, key: &K, peer: &Arc<Peer>) {
    if let Some(peers) = index.get_mut(key) {
        peers.retain(|other| !Arc::ptr_eq(other, peer));
        if peers.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
