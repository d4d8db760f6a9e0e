use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use ipnet::IpNet;
use nara_proto::peer::Coordinates;
use nara_proto::replay::ReplayCache;
use tokio::sync::{Semaphore, watch};

use super::auth::authenticator::Authenticator;
use super::auth::key_discovery::KeyDiscovery;
use super::auth::source_check::SourceCheck;
use super::background::Background;
use super::clock::ServerClock;
use super::connection::accept::Acceptor;
use super::connection::opening::Opening;
use super::connection::running::RunningServer;
use super::expose::Services;
use super::handler::{MeshHandler, NoHandler};
use super::limits::answer_bytes::AnswerBytes;
use super::limits::body_bytes::BodyBytes;
use super::limits::quota::Quota;
use super::limits::settings::ServerLimits;
use super::limits::turns::Turns;
use super::route;
use super::route::samples::Samples;
use super::route::stash::Stash;
use super::route::state::{Reachable, Shared};
use super::route::user::{RouteError, UserRoutes};
use super::route::way::Entrance;
use super::stash_store::StashStore;
use crate::Signatures;
use crate::announcement::Announcement;
use crate::client::MeshClient;
use crate::clock::{Clock, SystemClock};
use crate::defaults;
use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::mesh_ranges::{LOOPBACK, TAILNET};
use crate::registry::{KnownKeys, PeerProtocol, PeerRegistry};
use crate::tls::{ChannelTrust, TlsPolicy};
use crate::transport::{MeshListener, PeerSource, TcpTransport, Transport};

/// The reason why a server cannot be built, or cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Routes collide with each other or with the server's own.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// The stashes of peers cannot be read.
    #[error("the store of stashes failed")]
    Stash(#[source] io::Error),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: choose another port, or an address of this machine")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

/// A builder of a [`MeshServer`].
#[derive(Debug)]
#[must_use = "a builder makes nothing until `build` or `serve`"]
pub struct MeshServerBuilder {
    local: LocalNara,
    ledger: Arc<dyn Ledger>,
    registry: Option<PeerRegistry>,
    client: Option<MeshClient>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    handler: Arc<dyn MeshHandler>,
    mesh_ip: String,
    coordinates: Option<Coordinates>,
    mesh_ranges: Vec<IpNet>,
    mesh_port: u16,
    tls: TlsPolicy,
    channel_trust: ChannelTrust,
    peer_source: Option<Arc<dyn PeerSource>>,
    limits: ServerLimits,
    signatures: Signatures,
    refuse_before_start: bool,
    routes: UserRoutes,
    services: Option<Services>,
    without_client: bool,
    stash_store: Option<Arc<dyn StashStore>>,
    also_listen: Option<SocketAddr>,
}

impl MeshServerBuilder {
    fn new(local: LocalNara, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            local,
            ledger,
            registry: None,
            client: None,
            transport: Arc::new(TcpTransport),
            clock: Arc::new(SystemClock),
            handler: Arc::new(NoHandler),
            mesh_ip: String::new(),
            coordinates: None,
            mesh_ranges: TAILNET.to_vec(),
            mesh_port: defaults::MESH_PORT,
            tls: TlsPolicy::default(),
            channel_trust: ChannelTrust::default(),
            peer_source: None,
            limits: ServerLimits::default(),
            signatures: Signatures::default(),
            refuse_before_start: true,
            routes: UserRoutes::default(),
            services: None,
            without_client: false,
            stash_store: None,
            also_listen: None,
        }
    }

    /// Sets the registry of peers and their keys; the default is the registry of the client, else an empty one.
    pub fn registry(mut self, registry: PeerRegistry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Sets the client with which the server calls peers: to relay world messages, to reply to runtime messages, and to
    /// ask unknown senders for their key. Without it, the server does none of these, and logs a warning.
    pub fn client(mut self, client: MeshClient) -> Self {
        self.client = Some(client);
        self
    }

    /// Runs without a client on purpose, so that no warning is logged.
    pub fn without_client(mut self) -> Self {
        self.client = None;
        self.without_client = true;
        self
    }

    /// Adds routes of the application, beside the server's own.
    ///
    /// Every request is verified before a handler sees it, and every answer is signed, including answers to unknown
    /// paths and methods; handlers get the sender as the extractor [`VerifiedSender`](crate::server::VerifiedSender).
    /// Rates, requests in flight, the bytes of bodies, time limits, metrics and shutdown apply as for the server's own
    /// routes; the fields of [`ServerLimits`] that begin with `route_` limit routes. A body is read and checked before
    /// the handler runs, except a stream that a secure connection proves. Headers that begin with `X-Nara-` do not
    /// reach the handler.
    ///
    /// The router gets every path that the server does not use itself, including its fallback: without a valid
    /// signature no caller learns which paths exist. It may be given once ([`axum::Router::merge`] joins several). A
    /// route that matches a path of the server's own, or a path below a [nested](Self::nest_routes) prefix, is an error
    /// when the server is built; for routes below a nested prefix only the prefix itself and wildcards are checked: a
    /// nested router gets everything below its prefix.
    ///
    /// ```
    /// use axum::Router;
    /// use axum::routing::get;
    /// use nara_mesh::server::VerifiedSender;
    ///
    /// async fn greet(sender: VerifiedSender) -> String {
    ///     format!("hello {}", sender.name())
    /// }
    ///
    /// let routes: Router = Router::new().route("/greeting", get(greet));
    /// # let _ = routes;
    /// ```
    pub fn routes(mut self, router: Router) -> Self {
        self.routes.merge(router);
        self
    }

    /// Like [`routes`](Self::routes), for all paths below a prefix, such as `/notes`, which the router does not see.
    ///
    /// Overlapping prefixes, and a prefix of one of the server's own paths, are errors when the server is built.
    pub fn nest_routes(mut self, prefix: &str, router: Router) -> Self {
        self.routes.nest(prefix, router, true);
        self
    }

    /// Like [`nest_routes`](Self::nest_routes), but requests are not verified and answers are not signed: any host that
    /// reaches this nara may call these routes, and no client can verify an answer. The limits of source addresses and
    /// of all requests apply.
    pub fn danger_unsigned_routes(mut self, prefix: &str, router: Router) -> Self {
        self.routes.nest(prefix, router, false);
        self
    }

    /// Serves local programs that are added and removed while the server runs, with the same layers as
    /// [`routes`](Self::routes). Below their prefixes they take precedence over merged routes.
    pub fn services(mut self, services: Services) -> Self {
        self.services = Some(services);
        self
    }

    /// Sets the transport; the default is [`TcpTransport`].
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = transport;
        self
    }

    /// Sets the wall clock for the freshness of requests and the time of signatures; the default is [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the application's handler of incoming messages; by default they are only stored.
    pub fn handler(mut self, handler: impl MeshHandler) -> Self {
        self.handler = Arc::new(handler);
        self
    }

    /// Sets the mesh address in `/ping` answers, as text; none by default.
    pub fn mesh_ip(mut self, mesh_ip: impl Into<String>) -> Self {
        self.mesh_ip = mesh_ip.into();
        self
    }

    /// Sets the network coordinates for `/coordinates`; the default are those of the
    /// [registry](PeerRegistry::coordinates).
    pub fn coordinates(mut self, coordinates: Coordinates) -> Self {
        self.coordinates = Some(coordinates);
        self
    }

    /// Sets the mesh ranges: only unknown senders in these are asked for their key. The default is `100.64.0.0/10` and
    /// `fd7a:115c:a1e0::/48`, the addresses of tailnets.
    pub fn mesh_ranges(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.mesh_ranges = ranges.into_iter().collect();
        self
    }

    /// Adds the loopback addresses to the mesh ranges: for tests and demonstrations on one machine. On a shared
    /// machine, every user could introduce a nara.
    pub fn loopback_for_tests(mut self) -> Self {
        self.mesh_ranges.extend(LOOPBACK);
        self
    }

    /// Sets the port for asking unknown senders for their key; the default is [`defaults::MESH_PORT`], followed by
    /// [`defaults::LEGACY_MESH_PORT`].
    pub fn mesh_port(mut self, port: u16) -> Self {
        self.mesh_port = port;
        self
    }

    /// Sets the TLS policy; the default is [`TlsPolicy::Prefer`], TLS and plain HTTP on one port. A signed request of a
    /// peer whose [`PeerInfo::tls`](crate::registry::PeerInfo::tls) is [`TlsPolicy::Require`] is always refused on a
    /// plain connection.
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = policy;
        self
    }

    /// Sets whether a TLS connection with the pinned key proves requests, and answers on it stay unsigned unless the
    /// request asks for a signature; the default is [`ChannelTrust::Trust`]. [`ChannelTrust::Handshake`] also accepts
    /// unsigned requests there, and announces it.
    pub fn channel_trust(mut self, trust: ChannelTrust) -> Self {
        self.channel_trust = trust;
        self
    }

    /// Sets the source of the owners of addresses, such as the [confirmed
    /// peers](crate::discovery::Discovery::confirmed_peers) of a discovery: a signed request that claims another name
    /// than the owner of its address is refused. By default there is no such check.
    pub fn peer_source(mut self, source: Arc<dyn PeerSource>) -> Self {
        self.peer_source = Some(source);
        self
    }

    /// Sets the persistent store of peers' stashes; by default they are in memory only.
    pub fn stash_store(mut self, store: Arc<dyn StashStore>) -> Self {
        self.stash_store = Some(store);
        self
    }

    /// Also listens on this address, if it is free: v1 peers only call [`defaults::LEGACY_MESH_PORT`]. If the address
    /// cannot be bound, the server runs without it; see [`RunningServer::other_addr`].
    pub fn also_listen(mut self, address: SocketAddr) -> Self {
        self.also_listen = Some(address);
        self
    }

    /// Sets the limits of the server.
    pub fn limits(mut self, limits: ServerLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets which signatures are accepted, made and announced; the default is [`Signatures::V2AndV1`].
    pub fn signatures(mut self, signatures: Signatures) -> Self {
        self.signatures = signatures;
        self
    }

    /// Sets whether to refuse, in the first 30 s, requests that were signed before the server was built; on by default.
    ///
    /// The replay cache is in memory, so after a restart an earlier request could be replayed while its time is fresh.
    /// The price: a peer whose clock is some seconds behind is refused for as long after a restart, and retries. The
    /// age of the server is measured by the monotonic clock: if the wall clock is corrected after the start, the server
    /// neither refuses its peers nor accepts requests from before the start.
    pub fn refuse_before_start(mut self, refuse: bool) -> Self {
        self.refuse_before_start = refuse;
        self
    }

    /// Builds the server, not yet listening.
    ///
    /// # Errors
    /// [`ServeError`] if routes collide with each other or with the server's own, or stashes cannot be read.
    pub fn build(self) -> Result<MeshServer, ServeError> {
        let user = self.routes.check()?;
        if let Some(services) = &self.services {
            let taken = user.nested.iter().map(|nested| nested.prefix.clone());
            services.reserve_paths(taken.collect(), user.merged.clone());
        }
        let takes_streams = user.take_streams() || self.services.is_some();
        if self.client.is_none() && !self.without_client {
            tracing::warn!(
                nara = %self.local.name(),
                "this server has no client: it cannot relay, reply, or ask strangers for their keys"
            );
        }
        let registry = self
            .registry
            .or_else(|| self.client.as_ref().map(|client| client.registry().clone()))
            .unwrap_or_default();
        let stash = Arc::new(
            Stash::new(&self.limits, self.stash_store, self.clock.now_seconds())
                .map_err(ServeError::Stash)?,
        );
        let background = Background::default();
        let opening = Opening::new(self.tls, self.local.keypair().clone(), &self.limits);
        let discovery = self.client.clone().map(|client| {
            Arc::new(KeyDiscovery::new(
                client,
                registry.clone(),
                self.clock.clone(),
                self.mesh_ranges.clone(),
                vec![self.mesh_port, defaults::LEGACY_MESH_PORT],
                &self.limits,
            ))
        });
        let known_keys = KnownKeys::new(self.local.clone(), registry.clone());
        let uptime = Arc::new(ServerClock::new(self.clock.clone(), registry.clone()));
        let authenticator = Arc::new(Authenticator {
            local: self.local.clone(),
            registry: registry.clone(),
            clock: self.clock.clone(),
            discovery,
            replay: Mutex::new(ReplayCache::new(self.limits.replay_capacity)),
            signatures: self.signatures,
            channel_trust: self.channel_trust,
            uptime: uptime.clone(),
            refuse_before_start: self.refuse_before_start,
            known_keys: known_keys.clone(),
            background: background.clone(),
            source_check: SourceCheck {
                source: self.peer_source,
                registry: registry.clone(),
            },
            conflicts: Arc::new(Semaphore::new(self.limits.discoveries)),
        });
        let mut protocol = match self.signatures {
            Signatures::V2AndV1 => PeerProtocol::V2,
            Signatures::V1Only => PeerProtocol::default(),
        };
        if self.signatures == Signatures::V2AndV1 && self.tls != TlsPolicy::Plain {
            protocol.tls = true;
            protocol.raw_public_key = true;
        }
        let mesh_ip = watch::Sender::new(self.mesh_ip);
        let announcement = Announcement::new(
            self.local.clone(),
            protocol,
            takes_streams,
            self.channel_trust == ChannelTrust::Handshake,
        );
        let announcement = Arc::new(announcement);
        let client = self.client.clone();
        let shared = Arc::new(Shared {
            announcement: announcement.clone(),
            local: self.local,
            ledger: self.ledger,
            registry,
            known_keys,
            client: self.client,
            clock: self.clock,
            handler: self.handler,
            mesh_ip: mesh_ip.clone(),
            coordinates: self.coordinates,
            mesh_ranges: self.mesh_ranges,
            mesh_port: self.mesh_port,
            stash,
            streams: Quota::new(self.limits.streams, self.limits.streams_per_peer),
            reachable: Reachable::default(),
            replies: Arc::new(Semaphore::new(self.limits.replies)),
            reads: Turns::new(self.limits.reads),
            answer_bytes: AnswerBytes::new(&self.limits),
            checks: Turns::new(self.limits.reads),
            samples: Samples::default(),
            checkpoints: Quota::new(usize::MAX, self.limits.checkpoint_answers_per_address)
                .with_rate(self.limits.checkpoint_requests_per_address),
            imports: Quota::new(self.limits.imports, self.limits.imports_per_address),
            background: background.clone(),
            body_bytes: Arc::new(BodyBytes::new(&self.limits)),
            limits: self.limits.clone(),
        });
        Ok(MeshServer {
            entrance: route::entrance(shared.clone(), &authenticator, user, self.services),
            transport: self.transport,
            opening,
            limits: self.limits,
            background,
            mesh_ip,
            clock: uptime,
            announcement,
            client,
            also_listen: self.also_listen,
            shared,
        })
    }

    /// Builds the server and serves on a mesh address of this nara; port 0 selects a free one.
    ///
    /// # Errors
    /// [`ServeError`] if it cannot be built, or cannot listen there.
    pub async fn serve(self, local: SocketAddr) -> Result<RunningServer, ServeError> {
        self.build()?.serve(local).await
    }
}

/// The server of one nara, ready to serve.
#[derive(Debug)]
pub struct MeshServer {
    entrance: Entrance,
    transport: Arc<dyn Transport>,
    opening: Opening,
    limits: ServerLimits,
    background: Background,
    mesh_ip: watch::Sender<String>,
    clock: Arc<ServerClock>,
    announcement: Arc<Announcement>,
    client: Option<MeshClient>,
    also_listen: Option<SocketAddr>,
    shared: Arc<Shared>,
}

impl MeshServer {
    /// Returns a builder of a server that acts as `local` and stores its events in `ledger`.
    pub fn builder(local: LocalNara, ledger: Arc<dyn Ledger>) -> MeshServerBuilder {
        MeshServerBuilder::new(local, ledger)
    }

    /// Listens on a mesh address of this nara and serves in the background; port 0 selects a free one.
    ///
    /// # Errors
    /// [`ServeError`] if the address cannot be bound.
    pub async fn serve(self, local: SocketAddr) -> Result<RunningServer, ServeError> {
        let listener = self
            .transport
            .listen(local)
            .await
            .map_err(|source| ServeError::Listen {
                address: local,
                source,
            })?;
        let other = match self.also_listen.filter(|other| *other != listener.local_addr()) {
            Some(other) => listen_if_free(&*self.transport, other).await,
            None => None,
        };
        self.announcement.listens_on(listener.local_addr().port());
        if let Some(client) = &self.client {
            client.announce(self.announcement);
        }
        let background = self.background;
        let acceptor = Acceptor::new(self.entrance, self.opening, &self.limits, background.clone());
        Ok(RunningServer::start(
            listener,
            other,
            acceptor,
            background,
            self.mesh_ip,
            self.clock,
            self.shared,
        ))
    }
}

/// Listens on an optional address.
async fn listen_if_free(transport: &dyn Transport, address: SocketAddr) -> Option<Box<dyn MeshListener>> {
    match transport.listen(address).await {
        Ok(listener) => {
            tracing::info!(address = %listener.local_addr(), "also listening");
            Some(listener)
        }
        Err(error) => {
            tracing::info!(%address, %error, "not listening on the optional address: v1 peers cannot reach this nara");
            None
        }
    }
}
