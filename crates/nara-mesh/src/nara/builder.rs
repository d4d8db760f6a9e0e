//! Builds a running nara from settings.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
#[cfg(feature = "sqlite")]
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use nara_proto::identity::NaraName;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::catch_up::CatchUp;
use super::{Nara, NaraError, Running, distances, presence};
use crate::Signatures;
use crate::client::{MeshClient, MeshClientBuilder};
use crate::clock::{Clock, SystemClock};
use crate::defaults;
use crate::discovery::{Discovery, Found};
use crate::gossip::{GossipConfig, GossipService};
use crate::identity::LocalNara;
use crate::ledger::{Ledger, LedgerError, MemoryLedger, Opening};
use crate::mesh_ranges::{LOOPBACK, TAILNET};
#[cfg(feature = "sqlite")]
use crate::offload::on_blocking_thread;
use crate::own_events;
use crate::registry::{KnownKeys, PeerInfo, PeerKeeper, PeerRegistry, TrustPolicy, own_successions};
use crate::server::{MeshHandler, MeshServer, MeshServerBuilder, RunningServer};
#[cfg(feature = "sqlite")]
use crate::server::{ServeError, SqliteStash, StashStore};
use crate::tls::{ChannelTrust, TlsPolicy};
use crate::transport::{PeerSource, TcpTransport, Transport};

/// Configures a [`Nara`]. Every setting is optional, and settings shared by client and server are given once.
#[must_use = "a builder does nothing until `start`"]
pub struct NaraBuilder {
    local: LocalNara,
    listen: Option<SocketAddr>,
    ledger: LedgerPlace,
    opening: Option<Opening>,
    registry: PeerRegistry,
    peers: Vec<PeerInfo>,
    transport: Arc<dyn Transport>,
    source: Option<Arc<dyn PeerSource>>,
    clock: Arc<dyn Clock>,
    mesh_port: u16,
    tls: TlsPolicy,
    channel_trust: ChannelTrust,
    signatures: Signatures,
    gossip: Option<GossipConfig>,
    catch_up: bool,
    client: Vec<Adjust<MeshClientBuilder>>,
    server: Vec<Adjust<MeshServerBuilder>>,
    discovery: Vec<Adjust<Discovery>>,
    on_found: Box<dyn FnMut(Found) + Send>,
}

type Adjust<T> = Box<dyn FnOnce(T) -> T + Send>;

/// The storage of events.
#[derive(Debug)]
enum LedgerPlace {
    #[cfg(feature = "sqlite")]
    File(PathBuf),
    Given(Arc<dyn Ledger>),
}

impl fmt::Debug for NaraBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NaraBuilder")
            .field("local", &self.local)
            .field("listen", &self.listen)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl NaraBuilder {
    pub(super) fn new(local: LocalNara) -> Self {
        Self {
            local,
            listen: None,
            ledger: LedgerPlace::Given(Arc::new(MemoryLedger::new())),
            opening: None,
            registry: PeerRegistry::default(),
            peers: Vec::new(),
            transport: Arc::new(TcpTransport),
            source: None,
            clock: Arc::new(SystemClock),
            mesh_port: defaults::MESH_PORT,
            tls: TlsPolicy::default(),
            channel_trust: ChannelTrust::default(),
            signatures: Signatures::default(),
            gossip: Some(GossipConfig::default()),
            catch_up: true,
            client: Vec::new(),
            server: Vec::new(),
            discovery: Vec::new(),
            on_found: Box::new(|_| {}),
        }
    }

    /// Sets the mesh address to listen on; port 0 picks a free one. Without it, this nara calls others but cannot
    /// be called. On a loopback address, strangers on this machine are asked for their key, as strangers on the
    /// mesh are.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Also listens on this address, if it is free: see [`MeshServerBuilder::also_listen`].
    pub fn also_listen(self, address: SocketAddr) -> Self {
        self.configure_server(move |server| server.also_listen(address))
    }

    /// Sets the storage of events and learned keys; by default a [`MemoryLedger`], which is lost on restart.
    pub fn ledger(mut self, ledger: Arc<dyn Ledger>) -> Self {
        self.ledger = LedgerPlace::Given(ledger);
        self
    }

    /// Stores events and learned keys in `ledger.db` in this folder, which is created if missing, and the stashes
    /// of peers in `stash.db` next to it. When the ledger is full, events about naras without a pinned key are
    /// evicted first.
    #[cfg(feature = "sqlite")]
    pub fn data_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.ledger = LedgerPlace::File(folder.into().join("ledger.db"));
        self
    }

    /// Sets a callback for opening the ledger in the [data folder](Self::data_dir). It is called repeatedly with
    /// the number of events converted to a newer schema so far and the total; both are 0 if there is nothing to
    /// convert. `Break` cancels the start with [`LedgerError::Stopped`] and leaves the ledger unchanged. It runs
    /// on a thread that may block.
    pub fn on_opening(mut self, opening: impl FnMut(u64, u64) -> ControlFlow<()> + Send + 'static) -> Self {
        self.opening = Some(Box::new(opening));
        self
    }

    /// Sets the trust policy; by default [`TrustPolicy::FirstUse`].
    pub fn trust(mut self, policy: TrustPolicy) -> Self {
        self.registry = self.registry.with_trust(policy);
        self
    }

    /// Sets the registry of peers, to share it or to configure it; by default a new one. Overrides an earlier
    /// [`trust`](Self::trust).
    pub fn registry(mut self, registry: PeerRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Adds a configured peer, such as [`Nara::as_peer`] of the other side. Its key takes precedence over the key
    /// in the ledger.
    pub fn know(mut self, peer: PeerInfo) -> Self {
        self.peers.push(peer);
        self
    }

    /// Adds configured peers. An entry about this nara itself is skipped, so that one list can serve many naras.
    pub fn know_all(mut self, peers: impl IntoIterator<Item = PeerInfo>) -> Self {
        self.peers.extend(peers);
        self
    }

    /// Sets the transport to peers; by default [`TcpTransport`].
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = transport;
        self
    }

    /// Sets the network to join, such as a node of a tailnet: connections use `transport`, and naras are
    /// [discovered](crate::discovery) among the nodes of `source`. The node should be ready.
    pub fn network(mut self, transport: Arc<dyn Transport>, source: Arc<dyn PeerSource>) -> Self {
        self.transport = transport;
        self.source = Some(source);
        self
    }

    /// Sets the wall clock; by default [`SystemClock`].
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the port for peers registered without one; by default [`defaults::MESH_PORT`].
    pub fn mesh_port(mut self, port: u16) -> Self {
        self.mesh_port = port;
        self
    }

    /// Sets the time limit for dialling and for whole calls; by default 5 s.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.configure_client(move |client| client.call_timeout(timeout).dial_timeout(timeout))
    }

    /// Sets the TLS policy in both directions; by default [`TlsPolicy::Prefer`].
    pub fn tls(mut self, policy: TlsPolicy) -> Self {
        self.tls = policy;
        self
    }

    /// Sets whether a TLS connection with the pinned key authenticates requests and answers; by default
    /// [`ChannelTrust::Trust`].
    pub fn channel_trust(mut self, trust: ChannelTrust) -> Self {
        self.channel_trust = trust;
        self
    }

    /// Sets which signatures to make and accept; by default [`Signatures::V2AndV1`].
    pub fn signatures(mut self, signatures: Signatures) -> Self {
        self.signatures = signatures;
        self
    }

    /// Sets the configuration of gossip; by default [`GossipConfig::default`].
    pub fn gossip(mut self, config: GossipConfig) -> Self {
        self.gossip = Some(config);
        self
    }

    /// Turns gossip off: peers may still send events and subscribe.
    pub fn without_gossip(mut self) -> Self {
        self.gossip = None;
        self
    }

    /// Sets whether to catch up with events missed while offline, at the start and from time to time; by default
    /// yes. A nara that does not listen never catches up.
    pub fn catch_up(mut self, catch_up: bool) -> Self {
        self.catch_up = catch_up;
        self
    }

    /// Sets the application's handler of incoming messages.
    pub fn handler(self, handler: impl MeshHandler) -> Self {
        self.configure_server(move |server| server.handler(handler))
    }

    /// Serves routes of the application on the signed channel; see [`MeshServerBuilder::routes`].
    pub fn routes(self, routes: Router) -> Self {
        self.configure_server(move |server| server.routes(routes))
    }

    /// Serves routes of the application below a prefix; see [`MeshServerBuilder::nest_routes`].
    pub fn nest_routes(self, prefix: &str, routes: Router) -> Self {
        let prefix = prefix.to_owned();
        self.configure_server(move |server| server.nest_routes(&prefix, routes))
    }

    /// Adds the loopback addresses to the mesh ranges of server and discovery: for tests and demonstrations on one
    /// machine.
    pub fn loopback_for_tests(self) -> Self {
        self.configure_server(MeshServerBuilder::loopback_for_tests)
            .configure_discovery(Discovery::loopback_for_tests)
    }

    /// Applies any other setting to the client.
    pub fn configure_client(
        mut self,
        adjust: impl FnOnce(MeshClientBuilder) -> MeshClientBuilder + Send + 'static,
    ) -> Self {
        self.client.push(Box::new(adjust));
        self
    }

    /// Applies any other setting to the server.
    pub fn configure_server(
        mut self,
        adjust: impl FnOnce(MeshServerBuilder) -> MeshServerBuilder + Send + 'static,
    ) -> Self {
        self.server.push(Box::new(adjust));
        self
    }

    /// Applies any other setting to the discovery on a [network](Self::network).
    pub fn configure_discovery(
        mut self,
        adjust: impl FnOnce(Discovery) -> Discovery + Send + 'static,
    ) -> Self {
        self.discovery.push(Box::new(adjust));
        self
    }

    /// Sets a callback for what discovery finds. It must return quickly.
    pub fn on_found(mut self, on_found: impl FnMut(Found) + Send + 'static) -> Self {
        self.on_found = Box::new(on_found);
        self
    }

    /// Opens the ledger, loads peer records, starts the server, announces this nara to peers, and starts
    /// discovery and gossip. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`NaraError`]; nothing is left running in that case.
    pub async fn start(self) -> Result<Nara, NaraError> {
        #[cfg(feature = "sqlite")]
        let stash_file = self.ledger.stash_file();
        let opened = self.ledger.open(&self.registry, self.local.name(), self.opening);
        let ledger = opened.await?;
        // Register configured peers before the records of the ledger: they take precedence.
        configure(&self.registry, &self.local, self.peers)?;
        self.registry.belongs_to(&self.local);
        let (keeper, recalled) = PeerKeeper::start(self.registry.clone(), ledger.clone()).await?;
        let now = self.clock.now_nanos();
        self.registry.recall_presence(&*ledger, now).await?;

        let client = MeshClient::builder(self.local.clone())
            .registry(self.registry)
            .transport(self.transport.clone())
            .clock(self.clock.clone())
            .mesh_port(self.mesh_port)
            .tls(self.tls)
            .channel_trust(self.channel_trust)
            .signatures(self.signatures);
        let client = client.succession(own_successions(&*ledger, &self.local).await?);
        let client = adjusted(client, self.client).build();
        let discovery = self
            .source
            .map(|source| adjusted(Discovery::new(client.clone(), source), self.discovery));

        let server = match self.listen {
            None => None,
            Some(listen) => {
                let mut server = MeshServer::builder(self.local.clone(), ledger.clone())
                    .client(client.clone())
                    .transport(self.transport.clone())
                    .clock(self.clock.clone())
                    .mesh_port(self.mesh_port)
                    .mesh_ip(mesh_ip(Some(listen)))
                    .tls(self.tls)
                    .channel_trust(self.channel_trust)
                    .signatures(self.signatures);
                if listen.ip().to_canonical().is_loopback() {
                    // Only this machine can call, so this machine is the mesh.
                    server = server.mesh_ranges(TAILNET.into_iter().chain(LOOPBACK));
                }
                if let Some(discovery) = &discovery {
                    server = server.peer_source(discovery.confirmed_peers());
                }
                #[cfg(feature = "sqlite")]
                if let Some(file) = stash_file {
                    server = server.stash_store(open_stash(file).await?);
                }
                Some(Arc::new(adjusted(server, self.server).serve(listen).await?))
            }
        };
        let address = server.as_ref().map(|server| server.local_addr());
        let mut following = Vec::new();
        if server.is_some() {
            let now = self.clock.now_nanos();
            let introduction = presence::introduction(&self.local, &mesh_ip(address), now);
            let keys = KnownKeys::new(self.local.clone(), client.registry().clone());
            let introduction = match own_events::append(&*ledger, &keys, introduction.clone(), now).await {
                // Announced anyway.
                Err(LedgerError::NotRetained) => introduction,
                stored => stored?,
            };
            if self.gossip.is_some() {
                let telling = presence::tell_coming(client.clone(), ledger.clone(), introduction);
                following.push(AbortOnDropHandle::new(tokio::spawn(telling.boxed())));
            }
            if self.catch_up {
                let catching_up = CatchUp::new(client.clone(), ledger.clone()).run();
                following.push(AbortOnDropHandle::new(tokio::spawn(catching_up.boxed())));
            }
        }

        let (moved, address) = watch::channel(address);
        if let Some(server) = server.clone() {
            let follower = AddressFollower {
                keys: KnownKeys::new(self.local.clone(), client.registry().clone()),
                ledger: ledger.clone(),
                clock: self.clock.clone(),
                server,
                moved,
            };
            let addresses = self.transport.watch_addresses();
            following.push(AbortOnDropHandle::new(tokio::spawn(
                follower.run(addresses).boxed(),
            )));
        }
        let measuring = distances::measure(client.clone());
        following.push(AbortOnDropHandle::new(tokio::spawn(measuring.boxed())));
        if let Some(discovery) = discovery {
            let on_found = self.on_found;
            let finding = async move { discovery.run(on_found).await };
            following.push(AbortOnDropHandle::new(tokio::spawn(finding.boxed())));
        }
        let gossip = self.gossip.map(|config| {
            GossipService::start(client.clone(), ledger.clone(), config, GossipService::CATCH_UP)
        });
        Ok(Nara {
            local: self.local.clone(),
            client: client.clone(),
            ledger: ledger.clone(),
            recalled,
            running: Some(Running {
                local: self.local,
                ledger,
                clock: self.clock,
                client,
                keeper,
                server,
                gossip,
                following,
                address,
            }),
        })
    }
}

impl LedgerPlace {
    /// Returns the file for stashes, next to the ledger.
    #[cfg(feature = "sqlite")]
    fn stash_file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.with_file_name("stash.db")),
            Self::Given(_) => None,
        }
    }

    #[cfg_attr(
        not(feature = "sqlite"),
        expect(clippy::unused_async, reason = "opening a file is asynchronous")
    )]
    async fn open(
        self,
        registry: &PeerRegistry,
        own: &NaraName,
        opening: Option<Opening>,
    ) -> Result<Arc<dyn Ledger>, LedgerError> {
        #[cfg(not(feature = "sqlite"))]
        let _ = (registry, own, opening);
        match self {
            Self::Given(ledger) => Ok(ledger),
            #[cfg(feature = "sqlite")]
            Self::File(path) => {
                use crate::ledger::SqliteLedger;

                let known = registry.known_names(own.clone());
                let holder = own.to_string();
                // Opening blocks on disk I/O.
                let opened = on_blocking_thread(move || {
                    if let Some(folder) = path.parent() {
                        std::fs::create_dir_all(folder).map_err(|source| LedgerError::File {
                            path: path.clone(),
                            source,
                        })?;
                    }
                    Ok(SqliteLedger::open_watched(path, &holder, opening)?.with_known_names(known))
                });
                Ok(Arc::new(opened.await.unwrap_or(Err(LedgerError::Closed))?))
            }
        }
    }
}

#[cfg(feature = "sqlite")]
async fn open_stash(file: PathBuf) -> Result<Arc<dyn StashStore>, NaraError> {
    // Opening blocks on disk I/O.
    let opening = on_blocking_thread(move || SqliteStash::open(file));
    match opening.await {
        Ok(Ok(stash)) => Ok(Arc::new(stash)),
        Ok(Err(error)) => Err(ServeError::Stash(error).into()),
        // The runtime shuts down.
        Err(_) => Err(LedgerError::Closed.into()),
    }
}

/// Registers configured peers, except this nara itself. Every valid entry is registered; the first error is
/// returned.
pub(super) fn configure(
    registry: &PeerRegistry,
    local: &LocalNara,
    peers: Vec<PeerInfo>,
) -> Result<(), NaraError> {
    let mut outcome = Ok(());
    for info in peers
        .into_iter()
        .filter(|info| info.name.as_ref() != Some(local.name()))
    {
        let peer = info.label();
        if let Err(source) = registry.reconfigure(info) {
            tracing::warn!(%peer, error = %source, "a configured peer is refused");
            if outcome.is_ok() {
                outcome = Err(NaraError::Peer {
                    peer,
                    source: Box::new(source),
                });
            }
        }
    }
    outcome
}

fn adjusted<T>(settings: T, adjustments: Vec<Adjust<T>>) -> T {
    adjustments
        .into_iter()
        .fold(settings, |settings, adjust| adjust(settings))
}

/// Returns the address for `/ping` and `hey-there`; empty if it is unspecified.
fn mesh_ip(address: Option<SocketAddr>) -> String {
    let ip = address
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified());
    ip.map(|ip| ip.to_string()).unwrap_or_default()
}

/// Informs peers when the node of this nara gets another address. The listener follows by itself.
struct AddressFollower {
    keys: KnownKeys,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    server: Arc<RunningServer>,
    moved: watch::Sender<Option<SocketAddr>>,
}

impl AddressFollower {
    async fn run(self, mut addresses: BoxStream<'static, Vec<IpAddr>>) {
        while let Some(now) = addresses.next().await {
            let Some(before) = *self.moved.borrow() else {
                return;
            };
            let Some(ip) = moved_from(before.ip(), &now) else {
                continue;
            };
            let address = SocketAddr::new(ip, before.port());
            tracing::warn!(%before, %address, "the node has a new address");
            let mesh_ip = ip.to_string();
            self.server.set_mesh_ip(mesh_ip.as_str());
            // Subscribers learn it at once, others from the network.
            let now = self.clock.now_nanos();
            let introduction = presence::introduction(self.keys.local(), &mesh_ip, now);
            if let Err(error) = own_events::append(&*self.ledger, &self.keys, introduction, now).await {
                tracing::warn!(%error, "the new address cannot be stored, so subscribers do not receive it");
            }
            self.moved.send_replace(Some(address));
        }
    }
}

/// Returns the address that replaces the previous one; `None` if the node still has it.
fn moved_from(before: IpAddr, now: &[IpAddr]) -> Option<IpAddr> {
    if before.is_unspecified() || now.contains(&before) {
        return None;
    }
    let same_family = now.iter().find(|ip| ip.is_ipv4() == before.is_ipv4());
    same_family.or_else(|| now.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_replaced_by_one_of_its_family_if_there_is_one() {
        let [four, moved]: [IpAddr; 2] = ["100.64.0.1", "100.64.0.9"].map(|ip| ip.parse().unwrap());
        let six: IpAddr = "fd7a::1".parse().unwrap();
        assert_eq!(moved_from(four, &[six, four]), None);
        assert_eq!(moved_from(four, &[six, moved]), Some(moved));
        assert_eq!(moved_from(four, &[six]), Some(six));
        assert_eq!(moved_from(four, &[]), None);
        assert_eq!(moved_from("0.0.0.0".parse().unwrap(), &[six, moved]), None);
    }
}
