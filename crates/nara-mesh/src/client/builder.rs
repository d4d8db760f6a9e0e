use std::sync::{Arc, RwLock};
use std::time::Duration;

use nara_proto::succession::Succession;

use super::MeshClient;
use super::caller::Caller;
use super::clocks::PeerClocks;
use super::exchange::Exchange;
use super::own_journeys::OwnJourneys;
use super::pool::Pool;
use super::replies::PendingReplies;
use super::resolve::{AddressOverrides, Resolver, Strangers};
use super::sign::RequestSigner;
use super::verifier::AnswerVerifier;
use crate::Signatures;
use crate::clock::{Clock, SystemClock};
use crate::defaults;
use crate::identity::LocalNara;
use crate::registry::PeerRegistry;
use crate::tls::{ChannelTrust, TlsPolicy};
use crate::transport::{TcpTransport, Transport};

/// Configures a [`MeshClient`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct MeshClientBuilder {
    local: LocalNara,
    registry: PeerRegistry,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    overrides: AddressOverrides,
    call_timeout: Duration,
    dial_timeout: Duration,
    fan_out: usize,
    mesh_port: u16,
    tls: TlsPolicy,
    channel_trust: ChannelTrust,
    accept_unverified: bool,
    signatures: Signatures,
    compensate_clocks: bool,
    successions: Vec<Succession>,
}

impl MeshClientBuilder {
    pub(super) fn new(local: LocalNara) -> Self {
        Self {
            local,
            registry: PeerRegistry::default(),
            transport: Arc::new(TcpTransport),
            clock: Arc::new(SystemClock),
            overrides: AddressOverrides::default(),
            call_timeout: defaults::CALL_TIMEOUT,
            dial_timeout: defaults::DIAL_TIMEOUT,
            fan_out: defaults::FAN_OUT,
            mesh_port: defaults::MESH_PORT,
            tls: TlsPolicy::default(),
            channel_trust: ChannelTrust::default(),
            accept_unverified: false,
            signatures: Signatures::default(),
            compensate_clocks: false,
            successions: Vec::new(),
        }
    }

    /// Sets the registry of peers; by default a new, empty one. Share it with the server of the same nara. Its
    /// [policy](PeerRegistry::with_trust) decides which keys of responders are trusted.
    pub fn registry(mut self, registry: PeerRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Sets the transport to peers; by default [`TcpTransport`].
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = transport;
        self
    }

    /// Sets the wall clock for signatures and freshness checks; by default [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets addresses that take precedence over the registry: for tests.
    pub fn address_overrides(mut self, overrides: AddressOverrides) -> Self {
        self.overrides = overrides;
        self
    }

    /// Sets the time limit of a whole call, from dialling to the last verified byte; by default 5 s. Answers with many
    /// events may take longer: see [`PeerHandle::with_timeout`](super::PeerHandle::with_timeout).
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets the time limit of dialling; by default 5 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// Sets how many peers [`MeshClient::ping_all`] calls at once; by default [`MeshClient::FAN_OUT`].
    pub fn fan_out(mut self, peers: usize) -> Self {
        self.fan_out = peers;
        self
    }

    /// Sets the port that is tried first if only the IP address of a peer is known; by default
    /// [`defaults::MESH_PORT`]. The second port is [`defaults::LEGACY_MESH_PORT`], or the mesh port if that is
    /// the first.
    pub fn mesh_port(mut self, port: u16) -> Self {
        self.mesh_port = port;
        self
    }

    /// Sets the TLS policy for peers without their own ([`PeerInfo::tls`](crate::registry::PeerInfo::tls)); by
    /// default [`TlsPolicy::Prefer`].
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = policy;
        self
    }

    /// Sets whether a TLS connection with the pinned key authenticates answers; by default
    /// [`ChannelTrust::Trust`].
    pub fn channel_trust(mut self, trust: ChannelTrust) -> Self {
        self.channel_trust = trust;
        self
    }

    /// Accepts answers with a missing, wrong or stale signature: for experiments with peers that cannot sign.
    /// [`Verified::is_verified`](super::Verified::is_verified) still reports the truth.
    pub fn danger_accept_unverified_responses(mut self) -> Self {
        self.accept_unverified = true;
        self
    }

    /// Sets which signatures to make and accept; by default [`Signatures::V2AndV1`]. The server of the same nara
    /// must use the same setting.
    pub fn signatures(mut self, signatures: Signatures) -> Self {
        self.signatures = signatures;
        self
    }

    /// Sets the succession statements that lead to the current key of this nara, oldest first. They are sent with
    /// each request, so that a peer that knows any of these keys can follow without hearing them from others.
    pub fn succession(mut self, statements: impl IntoIterator<Item = Succession>) -> Self {
        self.successions = statements.into_iter().collect();
        self
    }

    /// Sets whether to sign requests to a peer whose clock is wrong with its time instead of ours, so that it
    /// accepts them; by default no.
    /// [`Peer::set_clock_compensation`](crate::registry::Peer::set_clock_compensation) overrides it per peer. The
    /// offset comes from verified, fresh answers, so no attacker can shift the time by more than the freshness
    /// window.
    pub fn compensate_clocks(mut self, compensate: bool) -> Self {
        self.compensate_clocks = compensate;
        self
    }

    /// Builds the client.
    pub fn build(self) -> MeshClient {
        let clocks = Arc::new(PeerClocks::new(
            self.clock,
            self.registry.clone(),
            self.compensate_clocks,
        ));
        let caller = Arc::new(Caller {
            registry: self.registry.clone(),
            pool: Pool::new(
                self.transport,
                self.dial_timeout,
                self.local.keypair().clone(),
                &self.registry,
            ),
            signer: RequestSigner {
                local: self.local.clone(),
                registry: self.registry.clone(),
                clocks: clocks.clone(),
                signatures: self.signatures,
                channel_trust: self.channel_trust,
                succession: Succession::to_header(&self.successions),
                announcement: RwLock::default(),
            },
            clocks: clocks.clone(),
            tls: self.tls,
        });
        let verifier = AnswerVerifier {
            local: self.local.clone(),
            registry: self.registry.clone(),
            caller: caller.clone(),
            clocks: clocks.clone(),
            signatures: self.signatures,
            accept_unverified: self.accept_unverified,
        };
        let exchange = Exchange {
            resolver: Resolver {
                registry: self.registry.clone(),
                overrides: self.overrides,
                mesh_port: self.mesh_port,
                strangers: Strangers::default(),
            },
            local: self.local,
            registry: self.registry,
            caller,
            verifier,
            clocks,
            replies: PendingReplies::default(),
            journeys: OwnJourneys::default(),
        };
        MeshClient {
            exchange: Arc::new(exchange),
            call_timeout: self.call_timeout,
            fan_out: self.fan_out,
        }
    }
}
