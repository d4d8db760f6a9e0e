use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nara_proto::breaker::{Breaker, BreakerConfig, BreakerState};
use nara_proto::clock_offset::ClockOffset;
use nara_proto::event::KeyStanding;
use nara_proto::identity::{KeyId, NaraId, NaraName, PublicKey};
use nara_proto::presence::{Presence, PresenceState};
use nara_proto::time::UnixMillis;
use tokio::sync::SemaphorePermit;

use super::contact::{Contact, Distance};
use super::peer_clock::PeerClock;
use super::{KeySource, OperatorDecision, PeerProtocol, PeerRecord, PinnedKey, Verdict};
use crate::clock::monotonic_now as now;
use crate::defaults;
use crate::tls::TlsPolicy;

/// The registry's data about a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// The nara id, if known. V1 peers do not announce theirs.
    pub id: Option<NaraId>,
    /// The name, if known.
    pub name: Option<NaraName>,
    /// The mesh address and port, if known.
    pub address: Option<SocketAddr>,
    /// Whether the port of `address` is a guess, because the address was given without a port. Then both ports of naras
    /// are tried, the one in `address` first.
    pub either_port: bool,
    /// The key that is pinned for its name.
    pub key: Option<PinnedKey>,
    /// The protocols that it has proven.
    pub protocol: PeerProtocol,
    /// The TLS policy that the operator set for this peer. No peer can change it.
    pub tls: Option<TlsPolicy>,
    /// The last decision of the operator.
    pub decision: Option<OperatorDecision>,
    /// Whether the operator configured it: then no other peer can introduce its key.
    pub configured: bool,
    /// The address at which the operator configured it: its first key is accepted only from there.
    pub configured_at: Option<SocketAddr>,
    /// Whether it has proven at least once that it holds its key.
    pub seen: bool,
}

impl PeerInfo {
    /// Returns its address without the port.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip().to_canonical())
    }

    /// Adds facts that are not known yet.
    pub(super) fn fill_from(&mut self, other: Self) {
        self.id = self.id.take().or(other.id);
        self.name = self.name.take().or(other.name);
        if self.address.is_none() {
            (self.address, self.either_port) = (other.address, other.either_port);
        }
        self.key = self.key.take().or(other.key);
        self.protocol = self.protocol.union(other.protocol);
        self.tls = self.tls.or(other.tls);
        self.configured |= other.configured;
        self.configured_at = self.configured_at.or(other.configured_at);
        self.seen |= other.seen;
        if let Some(news) = other.decision.filter(|news| news.is_newer_than(self.decision)) {
            self.decision = Some(news);
        }
    }

    /// Returns a nara with a configured name and key, to be registered.
    ///
    /// ```
    /// # use nara_mesh::proto::identity::{KeyPair, Soul};
    /// use nara_mesh::registry::{PeerInfo, PeerRegistry};
    ///
    /// # let key = KeyPair::from_soul(&Soul::bond([2; 32], "bob")).public_key();
    /// let registry = PeerRegistry::default();
    /// registry.register(PeerInfo::configured("bob".parse()?, key).at("100.64.0.7:9632".parse()?))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn configured(name: NaraName, key: PublicKey) -> Self {
        let pinned = PinnedKey {
            name: name.clone(),
            id: None,
            key,
            source: KeySource::Configured,
            learned_at: UnixMillis::default(),
        };
        Self {
            name: Some(name),
            key: Some(pinned),
            ..Self::default()
        }
    }

    /// Sets address and port.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Sets an address with an unknown port: both ports of naras are tried.
    #[must_use]
    pub fn at_ip(mut self, ip: IpAddr) -> Self {
        self.address = Some(SocketAddr::new(ip, defaults::MESH_PORT));
        self.either_port = true;
        self
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: NaraId) -> Self {
        if let Some(key) = &mut self.key {
            key.id = Some(id.clone());
        }
        self.id = Some(id);
        self
    }

    /// Returns whether the operator banned it.
    pub fn is_untrusted(&self) -> bool {
        self.decision
            .is_some_and(|decision| decision.verdict == Verdict::Untrusted)
    }

    /// Returns its record; `None` while its name is unknown.
    pub fn into_record(self) -> Option<PeerRecord> {
        Some(PeerRecord {
            name: self.name?,
            id: self.id,
            key: self.key,
            protocol: self.protocol,
            decision: self.decision,
            seen: self.seen,
        })
    }

    /// Returns a label for messages: name, else id, else address.
    pub fn label(&self) -> String {
        match (&self.name, &self.id, &self.address) {
            (Some(name), _, _) => name.to_string(),
            (None, Some(id), _) => id.to_string(),
            (None, None, Some(address)) => address.to_string(),
            (None, None, None) => "unknown peer".to_owned(),
        }
    }
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())?;
        let id = self.id.as_ref().filter(|_| self.name.is_some());
        let key = self.key.as_ref().map(|pinned| KeyId::from(&pinned.key));
        match (id, key) {
            (Some(id), Some(key)) => write!(f, " (id {id}, key {key})"),
            (Some(id), None) => write!(f, " (id {id})"),
            (None, Some(key)) => write!(f, " (key {key})"),
            (None, None) => Ok(()),
        }
    }
}

/// What a peer has announced about a capability, as one byte.
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// One peer of a [`PeerRegistry`](super::PeerRegistry): its data and its circuit breaker.
#[derive(Debug)]
pub struct Peer {
    /// Shared with the calls that started with it.
    info: RwLock<Arc<PeerInfo>>,
    /// Whether the registry contains it.
    registered: AtomicBool,
    /// The settings of its breaker, until that exists.
    breaker: Arc<BreakerConfig>,
    contact: OnceLock<Box<Contact>>,
    presence: Mutex<Presence>,
    /// A copy of the flag in `info`; read for every message of a stream.
    untrusted: AtomicBool,
    /// Whether a nara with the same key is distrusted.
    banned: AtomicBool,
    /// Whether it has no valid key: it retired, or two statements of succession contradict each other.
    keyless: AtomicBool,
    /// Whether it announces that it accepts streamed bodies. Not stored: if unknown, bodies are buffered.
    streams: AtomicBool,
    /// Whether it announces that it accepts requests that only the handshake proves, as one of the three bytes. Not
    /// stored: if unknown, requests are signed.
    handshake: AtomicU8,
    /// Whether it was seen in an earlier run, and no call has failed since.
    recalled: AtomicBool,
}

impl Peer {
    pub(super) fn new(info: PeerInfo, breaker: Arc<BreakerConfig>) -> Self {
        Self {
            registered: AtomicBool::default(),
            untrusted: AtomicBool::new(info.is_untrusted()),
            banned: AtomicBool::new(false),
            keyless: AtomicBool::new(false),
            info: RwLock::new(Arc::new(info)),
            breaker,
            contact: OnceLock::new(),
            presence: Mutex::default(),
            streams: AtomicBool::default(),
            handshake: AtomicU8::new(UNKNOWN),
            recalled: AtomicBool::default(),
        }
    }

    /// Returns the contact state, and creates it if necessary.
    fn contact(&self) -> &Contact {
        self.contact.get_or_init(|| Box::new(Contact::new(*self.breaker)))
    }

    /// Returns the contact state, if it exists.
    pub(super) fn noted(&self) -> Option<&Contact> {
        self.contact.get().map(Box::as_ref)
    }

    /// Returns the current data about the peer.
    pub fn info(&self) -> PeerInfo {
        self.with_info(PeerInfo::clone)
    }

    /// Returns the current data without a copy.
    pub(crate) fn shared_info(&self) -> Arc<PeerInfo> {
        self.info.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls a function with the current data, without a copy.
    pub(crate) fn with_info<T>(&self, look: impl FnOnce(&PeerInfo) -> T) -> T {
        look(&self.info.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns its pinned key, unless the operator banned it or no key is valid.
    pub fn key(&self) -> Option<PublicKey> {
        if self.is_untrusted() || self.keyless.load(Ordering::Relaxed) {
            return None;
        }
        self.info
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .key
            .as_ref()
            .map(|pinned| pinned.key)
    }

    /// Returns the TLS policy that the operator set for this peer.
    pub fn tls(&self) -> Option<TlsPolicy> {
        self.info.read().unwrap_or_else(PoisonError::into_inner).tls
    }

    /// Returns the key standing with which events in its name are verified.
    pub(super) fn standing(&self) -> KeyStanding {
        if self.is_untrusted() || self.keyless.load(Ordering::Relaxed) {
            KeyStanding::Untrusted
        } else {
            self.key().into()
        }
    }

    /// Returns whether the operator banned it, or another nara with the same key: its requests are refused, and it is
    /// not called.
    pub fn is_untrusted(&self) -> bool {
        self.untrusted.load(Ordering::Relaxed) || self.banned.load(Ordering::Relaxed)
    }

    /// Returns whether the registry contains it under this name.
    pub(super) fn is_registered_as(&self, name: &NaraName) -> bool {
        self.registered.load(Ordering::Relaxed) && self.with_info(|info| info.name.as_ref() == Some(name))
    }

    /// Called by the table only, which adds and removes peers.
    pub(super) fn set_registered(&self, registered: bool) {
        self.registered.store(registered, Ordering::Relaxed);
    }

    pub(super) fn set_keyless(&self, keyless: bool) {
        self.keyless.store(keyless, Ordering::Relaxed);
    }

    /// Returns its pinned key and its former keys.
    pub(super) fn all_keys(&self) -> Vec<PublicKey> {
        let mut keys = self
            .noted()
            .map_or_else(Vec::new, |contact| contact.marks().former_keys.clone());
        keys.extend(self.with_info(|info| info.key.as_ref().map(|pinned| pinned.key)));
        keys
    }

    /// Records a key from before a successor was followed: the holder of the last key held it, too.
    pub(super) fn note_former_key(&self, key: PublicKey) {
        self.contact().marks().former_keys.push(key);
    }

    /// Forgets its former keys; only the pinned one remains.
    pub(super) fn forget_former_keys(&self) {
        if let Some(contact) = self.noted() {
            contact.marks().former_keys.clear();
        }
    }

    pub(super) fn set_banned(&self, banned: bool) {
        self.banned.store(banned, Ordering::Relaxed);
    }

    /// Returns the protocols that it has proven.
    pub fn protocol(&self) -> PeerProtocol {
        self.info.read().unwrap_or_else(PoisonError::into_inner).protocol
    }

    /// Returns whether it announced that it accepts streamed bodies.
    pub(crate) fn takes_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Records its signed announcement whether it accepts streamed bodies.
    pub(crate) fn note_streams(&self, takes_streams: bool) {
        self.streams.store(takes_streams, Ordering::Relaxed);
    }

    /// Returns whether it announced that it accepts requests that only the handshake proves; `None` if unknown.
    pub(crate) fn takes_handshake(&self) -> Option<bool> {
        match self.handshake.load(Ordering::Relaxed) {
            UNKNOWN => None,
            said => Some(said == YES),
        }
    }

    /// Records its signed announcement whether it accepts requests that only the handshake proves.
    pub(crate) fn note_handshake(&self, takes_handshake: bool) {
        let said = if takes_handshake { YES } else { NO };
        self.handshake.store(said, Ordering::Relaxed);
    }

    /// Returns whether it has proven at its address that it holds its key: an address from another peer may lead
    /// anywhere. A peer that was seen in an earlier run counts as proven until a call to it fails.
    pub(crate) fn is_at_its_address(&self) -> bool {
        self.recalled.load(Ordering::Relaxed) || self.is_proven_now()
    }

    fn is_proven_now(&self) -> bool {
        let proven_at = self.noted().and_then(|contact| contact.marks().proven_at);
        proven_at.is_some() && proven_at == self.with_info(PeerInfo::ip)
    }

    /// Records that it was seen in an earlier run.
    pub(super) fn note_recalled(&self) {
        self.recalled.store(true, Ordering::Relaxed);
    }

    /// Records that a call to it failed, or that its answer was not proven.
    pub(crate) fn proved_nothing(&self) {
        self.recalled.store(false, Ordering::Relaxed);
    }

    /// Returns when its last turn began for calls without a proof that it is at its address.
    pub(crate) fn turn(&self) -> Option<Instant> {
        self.noted()?.marks().turn
    }

    /// Records that such a turn begins now.
    pub(crate) fn begin_turn(&self, now: Instant) {
        self.contact().marks().turn = Some(now);
    }

    /// Records the address from which it proved that it holds its key. Returns whether that is new.
    pub(super) fn note_proven_at(&self, ip: IpAddr) -> bool {
        let was_there = self.is_proven_now();
        self.contact().marks().proven_at = Some(ip);
        !was_there
    }

    /// Returns the state of its circuit breaker.
    pub fn breaker_state(&self) -> BreakerState {
        // tokio's clock, so that tests can pause time.
        self.noted()
            .map_or(BreakerState::Closed, |contact| contact.breaker().state(now()))
    }

    /// Returns its presence, by its verified events, by calls and by the network.
    pub fn presence(&self) -> PresenceState {
        self.signs_of_life().state(now())
    }

    /// Returns the time since its last sign of life; `None` without one.
    pub fn last_alive(&self) -> Option<Duration> {
        let last = self.signs_of_life().last_alive()?;
        Some(now().saturating_duration_since(last))
    }

    pub(super) fn signs_of_life(&self) -> MutexGuard<'_, Presence> {
        // Every method leaves it valid.
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the remaining pause that it asked for (`Retry-After`); `None` if it may be called.
    pub fn retry_after(&self) -> Option<Duration> {
        let not_before = self.noted()?.marks().not_before?;
        not_before
            .checked_duration_since(now())
            .filter(|wait| !wait.is_zero())
    }

    /// Records that it asked for this pause. A shorter pause does not end a longer one.
    pub(crate) fn defer(&self, pause: Duration) {
        let until = now() + pause;
        let mut marks = self.contact().marks();
        marks.not_before = marks.not_before.max(Some(until));
    }

    /// Returns a slot for one more call in flight, if one is free.
    pub(crate) fn free_slot(&self) -> Option<SemaphorePermit<'_>> {
        self.contact().in_flight.try_acquire().ok()
    }

    /// Waits for a free slot for one more call in flight. Cancel safe.
    pub(crate) async fn slot(&self) -> SemaphorePermit<'_> {
        self.contact()
            .in_flight
            .acquire()
            .await
            .expect("the semaphore is never closed")
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut PeerInfo)) {
        let mut info = self.info.write().unwrap_or_else(PoisonError::into_inner);
        let info = Arc::make_mut(&mut info);
        change(info);
        self.untrusted.store(info.is_untrusted(), Ordering::Relaxed);
    }

    pub(crate) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.contact().breaker()
    }

    /// Returns the offset of its clock, by its verified answers of the last ten minutes; `None` without one.
    pub fn clock_offset(&self) -> Option<ClockOffset> {
        self.noted()?.clock().offset()
    }

    /// Sets whether requests to it are signed with the time of its clock instead of ours, if they are known to differ
    /// by 1 s or more; `None` for the setting of
    /// [`MeshClientBuilder::compensate_clocks`](crate::client::MeshClientBuilder::compensate_clocks).
    pub fn set_clock_compensation(&self, compensate: Option<bool>) {
        self.clock().set_compensation(compensate);
    }

    /// Returns the signing time of a request to it, if it is not our own time.
    pub(crate) fn signing_time(&self, now_here: UnixMillis, by_default: bool) -> Option<UnixMillis> {
        self.noted()?.clock().signing_time(now_here, by_default)
    }

    /// Records that it refused a request because of its time.
    pub(crate) fn time_was_refused(&self) {
        if let Some(contact) = self.noted() {
            contact.clock().refused();
        }
    }

    /// Forgets the learned offset of its clock, because ours was set.
    pub(super) fn forget_clock(&self) {
        if let Some(contact) = self.noted() {
            contact.clock().forget();
        }
    }

    /// Returns its distance, and creates it if necessary.
    pub(super) fn distance(&self) -> MutexGuard<'_, Distance> {
        self.contact().distance()
    }

    /// Returns its distance, if it was recorded.
    pub(super) fn noted_distance(&self) -> Option<MutexGuard<'_, Distance>> {
        Some(self.noted()?.distance())
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, PeerClock> {
        self.contact().clock()
    }
}

/// Returns the same host with the other port of naras.
pub(crate) fn with_other_port(address: SocketAddr) -> SocketAddr {
    let port = match address.port() {
        defaults::LEGACY_MESH_PORT => defaults::MESH_PORT,
        _ => defaults::LEGACY_MESH_PORT,
    };
    SocketAddr::new(address.ip(), port)
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};

    use super::super::PeerRegistry;
    use super::*;

    #[test]
    fn a_peer_that_was_never_called_is_asked_about_without_room_for_calls() {
        let registry = PeerRegistry::default();
        let key = KeyPair::from_soul(&Soul::bond([2; 32], "bob")).public_key();
        let info = PeerInfo::configured("bob".parse().unwrap(), key).at(([100, 64, 0, 7], 9632).into());
        let bob = registry.register(info).unwrap();
        assert_eq!(bob.breaker_state(), BreakerState::Closed);
        assert_eq!((bob.retry_after(), bob.turn()), (None, None));
        assert_eq!((bob.clock_offset(), bob.measured_rtt()), (None, None));
        assert_eq!(bob.signing_time(UnixMillis::new(1), true), None);
        assert!(!bob.is_at_its_address() && bob.told_coordinates().is_none());
        assert_eq!(bob.all_keys(), [key]);
        bob.time_was_refused();
        registry.clock_was_set();
        registry.sign_of_life(&bob);
        assert_eq!(bob.presence(), PresenceState::Online);
        registry.remove(&bob);
        assert!(bob.noted().is_none());

        // The recorded pause remains.
        bob.defer(Duration::from_secs(5));
        drop(bob.free_slot());
        assert!(bob.retry_after().is_some());
    }
}
