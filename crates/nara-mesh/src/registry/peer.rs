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

/// What a registry knows about a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id, if known. V1 peers do not announce theirs.
    pub id: Option<NaraId>,
    /// Its name, if known.
    pub name: Option<NaraName>,
    /// Its mesh address and port, if known.
    pub address: Option<SocketAddr>,
    /// Whether the port of `address` is a guess: what was told is an address without a port. Then both ports of naras
    /// are tried, the one in `address` first.
    pub either_port: bool,
    /// The key that is pinned for its name.
    pub key: Option<PinnedKey>,
    /// The protocols that it has proven.
    pub protocol: PeerProtocol,
    /// The TLS policy that the operator set for this peer alone. No peer can change it.
    pub tls: Option<TlsPolicy>,
    /// The last decision of the operator.
    pub decision: Option<OperatorDecision>,
    /// Whether the operator configured it: what others tell gives it no key.
    pub configured: bool,
    /// The address at which the operator configured it: its first key is taken from there and from nowhere else.
    pub configured_at: Option<SocketAddr>,
    /// Whether it has proven once that it holds its key.
    pub seen: bool,
}

impl PeerInfo {
    /// Its address without the port.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip().to_canonical())
    }

    /// Adds what is not known yet.
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

    /// A nara whose name and key somebody has configured, to be registered.
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

    /// The same nara at an address and port.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The same nara at an address of which the port is not known: both ports of naras are tried.
    #[must_use]
    pub fn at_ip(mut self, ip: IpAddr) -> Self {
        self.address = Some(SocketAddr::new(ip, defaults::MESH_PORT));
        self.either_port = true;
        self
    }

    /// The same nara with its id.
    #[must_use]
    pub fn with_id(mut self, id: NaraId) -> Self {
        if let Some(key) = &mut self.key {
            key.id = Some(id.clone());
        }
        self.id = Some(id);
        self
    }

    /// Whether the operator banned it.
    pub fn is_untrusted(&self) -> bool {
        self.decision
            .is_some_and(|decision| decision.verdict == Verdict::Untrusted)
    }

    /// Its record; `None` while its name is unknown.
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

    /// A label for messages: name, else id, else address.
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

/// What a peer has said of something, as one byte.
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// One peer of a [`PeerRegistry`](super::PeerRegistry): what is known about it, and its circuit breaker.
#[derive(Debug)]
pub struct Peer {
    /// Shared with the calls that began with it.
    info: RwLock<Arc<PeerInfo>>,
    /// Whether the registry has it.
    registered: AtomicBool,
    /// The settings of its breaker, until it has one.
    breaker: Arc<BreakerConfig>,
    contact: OnceLock<Box<Contact>>,
    presence: Mutex<Presence>,
    /// What `info` says; asked for every message of a stream.
    untrusted: AtomicBool,
    /// Whether a nara with the same key is not trusted.
    banned: AtomicBool,
    /// Whether no key holds for it: it retired, or two statements of succession contradict each other.
    keyless: AtomicBool,
    /// Whether it says that it takes streamed bodies. Not kept beyond the process: without it, bodies are buffered.
    streams: AtomicBool,
    /// Whether it says that the handshake alone proves requests to it, as one of the three bytes. Not kept beyond the process:
    /// without it, requests are signed.
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

    /// To note something.
    fn contact(&self) -> &Contact {
        self.contact.get_or_init(|| Box::new(Contact::new(*self.breaker)))
    }

    /// To look at what was noted, if anything was.
    pub(super) fn noted(&self) -> Option<&Contact> {
        self.contact.get().map(Box::as_ref)
    }

    /// What is now known about the peer.
    pub fn info(&self) -> PeerInfo {
        self.with_info(PeerInfo::clone)
    }

    /// The same, not copied.
    pub(crate) fn shared_info(&self) -> Arc<PeerInfo> {
        self.info.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at what is known about it, without a copy.
    pub(crate) fn with_info<T>(&self, look: impl FnOnce(&PeerInfo) -> T) -> T {
        look(&self.info.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its pinned key, unless the operator banned it, or no key holds for it any more.
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

    /// The TLS policy that the operator set for this peer alone.
    pub fn tls(&self) -> Option<TlsPolicy> {
        self.info.read().unwrap_or_else(PoisonError::into_inner).tls
    }

    /// What an event in its name is verified with.
    pub(super) fn standing(&self) -> KeyStanding {
        if self.is_untrusted() || self.keyless.load(Ordering::Relaxed) {
            KeyStanding::Untrusted
        } else {
            self.key().into()
        }
    }

    /// Whether the operator banned it, or another nara with the same key: its requests are refused, and it is not
    /// called.
    pub fn is_untrusted(&self) -> bool {
        self.untrusted.load(Ordering::Relaxed) || self.banned.load(Ordering::Relaxed)
    }

    /// Whether the registry has it under this name.
    pub(super) fn is_registered_as(&self, name: &NaraName) -> bool {
        self.registered.load(Ordering::Relaxed) && self.with_info(|info| info.name.as_ref() == Some(name))
    }

    /// For the table alone, in which it is or is not.
    pub(super) fn set_registered(&self, registered: bool) {
        self.registered.store(registered, Ordering::Relaxed);
    }

    pub(super) fn set_keyless(&self, keyless: bool) {
        self.keyless.store(keyless, Ordering::Relaxed);
    }

    /// Its pinned key, and those before it.
    pub(super) fn all_keys(&self) -> Vec<PublicKey> {
        let mut keys = self
            .noted()
            .map_or_else(Vec::new, |contact| contact.marks().former_keys.clone());
        keys.extend(self.with_info(|info| info.key.as_ref().map(|pinned| pinned.key)));
        keys
    }

    /// Notes a key that was its own before a successor was followed: whoever has the last one had it, too.
    pub(super) fn note_former_key(&self, key: PublicKey) {
        self.contact().marks().former_keys.push(key);
    }

    /// Only its pinned key was ever its own.
    pub(super) fn forget_former_keys(&self) {
        if let Some(contact) = self.noted() {
            contact.marks().former_keys.clear();
        }
    }

    pub(super) fn set_banned(&self, banned: bool) {
        self.banned.store(banned, Ordering::Relaxed);
    }

    /// The protocols that it has proven.
    pub fn protocol(&self) -> PeerProtocol {
        self.info.read().unwrap_or_else(PoisonError::into_inner).protocol
    }

    /// Whether it has said that it takes streamed bodies.
    pub(crate) fn takes_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Notes whether it says, signed, that it takes streamed bodies.
    pub(crate) fn note_streams(&self, takes_streams: bool) {
        self.streams.store(takes_streams, Ordering::Relaxed);
    }

    /// Whether it has said that the handshake alone proves requests to it; `None`: it was not asked.
    pub(crate) fn takes_handshake(&self) -> Option<bool> {
        match self.handshake.load(Ordering::Relaxed) {
            UNKNOWN => None,
            said => Some(said == YES),
        }
    }

    /// Notes whether it says, signed, that the handshake alone proves requests to it.
    pub(crate) fn note_handshake(&self, takes_handshake: bool) {
        let said = if takes_handshake { YES } else { NO };
        self.handshake.store(said, Ordering::Relaxed);
    }

    /// Whether it has proven at its address that it holds its key: what others say about the address may lead to anybody.
    /// A peer that was seen in an earlier run counts as proven until a call to it fails.
    pub(crate) fn is_at_its_address(&self) -> bool {
        self.recalled.load(Ordering::Relaxed) || self.is_proven_now()
    }

    fn is_proven_now(&self) -> bool {
        let proven_at = self.noted().and_then(|contact| contact.marks().proven_at);
        proven_at.is_some() && proven_at == self.with_info(PeerInfo::ip)
    }

    /// Notes that it was seen in an earlier run.
    pub(super) fn note_recalled(&self) {
        self.recalled.store(true, Ordering::Relaxed);
    }

    /// Notes that a call to it failed, or that its answer was not proven.
    pub(crate) fn proved_nothing(&self) {
        self.recalled.store(false, Ordering::Relaxed);
    }

    /// When its last turn began to be called without a proof that it is at its address.
    pub(crate) fn turn(&self) -> Option<Instant> {
        self.noted()?.marks().turn
    }

    /// Notes that such a turn begins now.
    pub(crate) fn begin_turn(&self, now: Instant) {
        self.contact().marks().turn = Some(now);
    }

    /// Notes where it has proven that it holds its key. Returns whether that is news.
    pub(super) fn note_proven_at(&self, ip: IpAddr) -> bool {
        let was_there = self.is_proven_now();
        self.contact().marks().proven_at = Some(ip);
        !was_there
    }

    /// The state of its circuit breaker.
    pub fn breaker_state(&self) -> BreakerState {
        // tokio's clock, so that tests with paused time see it move.
        self.noted()
            .map_or(BreakerState::Closed, |contact| contact.breaker().state(now()))
    }

    /// Whether it is there, by its verified events, by calls and by the network.
    pub fn presence(&self) -> PresenceState {
        self.signs_of_life().state(now())
    }

    /// How long ago its last sign of life was; `None` without one.
    pub fn last_alive(&self) -> Option<Duration> {
        let last = self.signs_of_life().last_alive()?;
        Some(now().saturating_duration_since(last))
    }

    pub(super) fn signs_of_life(&self) -> MutexGuard<'_, Presence> {
        // Every method of it leaves it valid.
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much longer it asked us to wait (`Retry-After`); `None` if it may be called.
    pub fn retry_after(&self) -> Option<Duration> {
        let not_before = self.noted()?.marks().not_before?;
        not_before
            .checked_duration_since(now())
            .filter(|wait| !wait.is_zero())
    }

    /// Notes that it asked not to be called for so long. A shorter wish does not end a longer one.
    pub(crate) fn defer(&self, pause: Duration) {
        let until = now() + pause;
        let mut marks = self.contact().marks();
        marks.not_before = marks.not_before.max(Some(until));
    }

    /// A slot for one more call in flight, if one is free.
    pub(crate) fn free_slot(&self) -> Option<SemaphorePermit<'_>> {
        self.contact().in_flight.try_acquire().ok()
    }

    /// Waits for a free slot for one more call in flight. Cancel safe.
    pub(crate) async fn slot(&self) -> SemaphorePermit<'_> {
        self.contact()
            .in_flight
            .acquire()
            .await
            .expect("nobody closes it")
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

    /// How far its clock is ahead of ours, by its verified answers of the last ten minutes; `None` without one.
    pub fn clock_offset(&self) -> Option<ClockOffset> {
        self.noted()?.clock().offset()
    }

    /// Whether requests to it are signed with the time of its clock instead of ours, if they are known to differ by
    /// 1 s or more; `None`: as
    /// [`MeshClientBuilder::compensate_clocks`](crate::client::MeshClientBuilder::compensate_clocks) says.
    pub fn set_clock_compensation(&self, compensate: Option<bool>) {
        self.clock().set_compensation(compensate);
    }

    /// The time of a request to it, if that is not simply ours.
    pub(crate) fn signing_time(&self, now_here: UnixMillis, by_default: bool) -> Option<UnixMillis> {
        self.noted()?.clock().signing_time(now_here, by_default)
    }

    /// Notes that it refused a request for its time.
    pub(crate) fn time_was_refused(&self) {
        if let Some(contact) = self.noted() {
            contact.clock().refused();
        }
    }

    /// Forgets what was learned of its clock, because ours was set.
    pub(super) fn forget_clock(&self) {
        if let Some(contact) = self.noted() {
            contact.clock().forget();
        }
    }

    /// To note how far it is.
    pub(super) fn distance(&self) -> MutexGuard<'_, Distance> {
        self.contact().distance()
    }

    /// How far it is, as far as that was noted.
    pub(super) fn noted_distance(&self) -> Option<MutexGuard<'_, Distance>> {
        Some(self.noted()?.distance())
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, PeerClock> {
        self.contact().clock()
    }
}

/// The same host at the other port on which naras listen.
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

        // What was noted stays.
        bob.defer(Duration::from_secs(5));
        drop(bob.free_slot());
        assert!(bob.retry_after().is_some());
    }
}
