//! Key discovery: asks an unknown sender for its key by calling it back.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nara_proto::identity::NaraName;
use nara_proto::v2::SignedCapability;

use crate::client::{DiscoveredKey, MeshClient};
use crate::clock::Clock;
use crate::mesh_ranges;
use crate::metrics;
use crate::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey, RegisterError};
use crate::seldom::warn_seldom;
use crate::server::limits::quota::Quota;
use crate::server::limits::settings::ServerLimits;

/// How long the outcome of a discovery is cached: a sender that did not answer is not called again within it.
const OUTCOME_TTL: Duration = Duration::from_secs(30);

/// The maximum number of cached outcomes; the least used are evicted, which costs one more call.
const OUTCOMES: u64 = 1024;

/// The maximum number of requests that wait for the key of their sender. Each only holds its connection.
const WAITING: usize = 256;

/// The maximum per source address.
const WAITING_PER_ADDRESS: usize = 8;

/// The maximum number of concurrent calls to one source address: a silent one must not hold all of them.
const CALLS_PER_ADDRESS: usize = 4;

/// The lowest port that a stranger may name for the call back: system services listen below.
const LOWEST_PORT: u16 = 1024;

/// Asks unknown senders for their key with a `/ping` to their source address.
///
/// The answer is not signed, so this is trust on first use. A stranger causes it, so everything is bounded: only
/// addresses of the mesh are called, with at most one call per address, name and port at a time and per 30 s, a limit
/// per minute and address, and a limit on all concurrent calls. A sender may announce the port on which it listens; it
/// is called there at its source address only, and is trusted if the key that it returns signed the announcement.
#[derive(Debug)]
pub(in crate::server) struct KeyDiscovery {
    client: MeshClient,
    registry: PeerRegistry,
    clock: Arc<dyn Clock>,
    ranges: Vec<IpNet>,
    ports: Vec<u16>,
    outcomes: moka::future::Cache<(IpAddr, NaraName, Option<u16>), Outcome>,
    calls: Quota<IpAddr>,
    waiting: Quota<IpAddr>,
}

/// The outcome of a discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Another key is pinned for the name.
    Conflict,
    /// The key is pinned now.
    Pinned,
    /// The trust policy refused the key.
    Refused,
    /// The sender did not answer, or not as the claimed nara.
    Unknown,
}

/// The error for too many concurrent discoveries; it is not cached.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Busy;

impl KeyDiscovery {
    pub(in crate::server) fn new(
        client: MeshClient,
        registry: PeerRegistry,
        clock: Arc<dyn Clock>,
        ranges: Vec<IpNet>,
        ports: Vec<u16>,
        limits: &ServerLimits,
    ) -> Self {
        Self {
            client,
            registry,
            clock,
            ranges,
            ports,
            outcomes: moka::future::Cache::builder()
                .max_capacity(OUTCOMES)
                .time_to_live(OUTCOME_TTL)
                .build(),
            waiting: Quota::new(WAITING, WAITING_PER_ADDRESS),
            calls: Quota::new(limits.discoveries, CALLS_PER_ADDRESS)
                .with_rate_per_minute(limits.discoveries_per_minute),
        }
    }

    /// Returns whether naras at this address are called.
    pub(in crate::server) fn may_call(&self, source: IpAddr) -> bool {
        mesh_ranges::contain(&self.ranges, source)
    }

    /// Tries to learn the key of `name`, which claims to call from `source`. The registry then knows whether it
    /// succeeded.
    ///
    /// # Errors
    /// [`Busy`] if too many requests are waiting already.
    pub(in crate::server) async fn discover(
        self: &Arc<Self>,
        name: &NaraName,
        source: IpAddr,
        claim: Option<SignedCapability>,
    ) -> Result<(), Busy> {
        let source = source.to_canonical();
        let known = self.registry.by_name(name.as_str());
        let is_keyless = known.is_none_or(|peer| peer.info().key.is_none());
        if is_keyless && !self.registry.trust().asks_strangers() {
            tracing::debug!(%name, %source, "unknown sender: strangers are not called back");
            return Ok(());
        }
        if !self.may_call(source) {
            tracing::debug!(%name, %source, "unknown sender outside of the mesh: not called back");
            return Ok(());
        }
        let _waiting = self.waiting.take(&source).map_err(|_| Busy)?;
        let claim = Claim::of(claim);
        let port = claim.as_ref().map(|claim| claim.port);
        let asked = (source, name.clone(), port);
        if is_keyless
            && matches!(
                self.outcomes.get(&asked).await,
                Some(Outcome::Pinned | Outcome::Conflict)
            )
        {
            // The operator has reset it since.
            self.outcomes.invalidate(&asked).await;
        }
        let outcome = self
            .outcomes
            .try_get_with(asked, self.ask(name, source, claim))
            .await;
        let word = match &outcome {
            Ok(Outcome::Conflict) => "conflict",
            Ok(Outcome::Pinned) => "pinned",
            Ok(Outcome::Refused) => "refused",
            Ok(Outcome::Unknown) => "unknown",
            Err(_) => "busy",
        };
        ::metrics::counter!(metrics::KEY_DISCOVERIES, "outcome" => word).increment(1);
        match outcome {
            Ok(outcome) => tracing::debug!(%name, %source, ?outcome, "key discovery"),
            Err(_) => warn_seldom!(%name, %source, "too many unknown senders: key not requested"),
        }
        Ok(())
    }

    async fn ask(&self, name: &NaraName, source: IpAddr, claim: Option<Claim>) -> Result<Outcome, Busy> {
        let _call = self.calls.take(&source).map_err(|_| Busy)?;
        if let Some(Claim { port, statement }) = claim {
            let address = SocketAddr::new(source, port);
            match self.client.discover_key(address, Some(name)).await {
                Ok(found)
                    if statement
                        .verify(name, &found.key, self.clock.now_millis())
                        .is_ok() =>
                {
                    return Ok(self.pin(found, address));
                }
                Ok(_) => tracing::debug!(%name, %address, "the nara did not announce this port"),
                Err(error) => tracing::debug!(%name, %address, %error, "key discovery failed"),
            }
        }
        for address in self.addresses(name, source) {
            match self.client.discover_key(address, Some(name)).await {
                Ok(found) => return Ok(self.pin(found, address)),
                Err(error) => {
                    tracing::debug!(%name, %address, %error, "key discovery failed");
                }
            }
        }
        Ok(Outcome::Unknown)
    }

    /// Returns the addresses to try: the registered one, if it is on the calling machine, and the standard ports.
    fn addresses(&self, name: &NaraName, source: IpAddr) -> Vec<SocketAddr> {
        let registered = self
            .registry
            .by_name(name.as_str())
            .and_then(|peer| peer.info().address);
        let mut addresses: Vec<_> = registered
            .filter(|address| address.ip() == source)
            .into_iter()
            .collect();
        for &port in &self.ports {
            let address = SocketAddr::new(source, port);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    fn pin(&self, found: DiscoveredKey, address: SocketAddr) -> Outcome {
        let known = self.registry.by_name(found.name.as_str());
        // A configured address takes precedence over the source address.
        let takes_address =
            known.is_none_or(|peer| peer.info().address.is_none()) && self.registry.has_room_at(address.ip());
        let info = PeerInfo {
            address: takes_address.then_some(address),
            name: Some(found.name.clone()),
            key: Some(PinnedKey {
                name: found.name,
                id: None,
                key: found.key,
                source: KeySource::Ping(address),
                learned_at: self.clock.now_millis(),
            }),
            ..PeerInfo::default()
        };
        match self.registry.register(info) {
            Ok(peer) => {
                if let Some(capability) = &found.capability {
                    self.registry.learn_protocol(&peer, capability.into());
                }
                Outcome::Pinned
            }
            Err(error @ RegisterError::KeyConflict(_)) => {
                // The registry has already notified its subscribers.
                warn_seldom!(%error, "key conflict");
                Outcome::Conflict
            }
            Err(error @ RegisterError::KeyRefused(_)) => {
                tracing::info!(%error, "discovered key not trusted");
                Outcome::Refused
            }
            Err(error) => {
                warn_seldom!(%error, "discovered key not pinned");
                Outcome::Unknown
            }
        }
    }
}

/// The port that a sender announces.
#[derive(Debug)]
struct Claim {
    port: u16,
    statement: SignedCapability,
}

impl Claim {
    /// Returns `None` if it announces nothing, or a port that is not allowed.
    fn of(statement: Option<SignedCapability>) -> Option<Self> {
        let statement = statement?;
        let port = statement.unverified().port?.get();
        (port >= LOWEST_PORT).then_some(Self { port, statement })
    }
}
