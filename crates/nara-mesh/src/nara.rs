//! One complete nara: the entry point of this library.
//!
//! A [`Nara`] owns all parts of a nara on a mesh: identity, ledger, registry, client, server, gossip and discovery.
//! [`Nara::builder`] takes each setting once, and [`start`](NaraBuilder::start) starts the parts in the right order.
//!
//! ```
//! use nara_mesh::{LocalNara, Nara};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let alice = Nara::builder(LocalNara::generate("alice")?).listen("127.0.0.1:0".parse()?).start().await?;
//! let bob = Nara::builder(LocalNara::generate("bob")?).know(alice.as_peer()).start().await?;
//! alice.registry().register(bob.as_peer())?;
//!
//! println!("{:?}", bob.peer(alice.id()).ping().await?.rtt);
//! # Ok(())
//! # }
//! ```
//!
//! The parts can also be used alone: [`MeshClient`], [`MeshServer`](crate::server::MeshServer), [`GossipService`] and
//! [`Discovery`](crate::discovery::Discovery) have their own builders.

mod builder;
mod catch_up;
mod distances;
mod presence;

pub use builder::NaraBuilder;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::event::{Payload, SyncEvent};
use nara_proto::identity::{NaraId, NaraName};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{InvalidPeerRef, MeshClient, PeerHandle, PeerRef};
use crate::clock::Clock;
use crate::defaults;
use crate::gossip::{GossipService, GossipStatus};
use crate::identity::LocalNara;
use crate::ledger::{Ledger, LedgerError};
use crate::own_events;
use crate::registry::{KeySource, KnownKeys, PeerInfo, PeerKeeper, PeerRegistry, Recalled, RegisterError};
use crate::server::{RunningServer, SealedStash, ServeError, Shutdown};

/// A running nara.
///
/// [`Nara::shutdown`] stops it in order and waits for the end. Dropping the handle does the same in the background,
/// with 1 s for requests in progress; outside a tokio runtime it stops everything at once.
#[derive(Debug)]
pub struct Nara {
    local: LocalNara,
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    recalled: Recalled,
    /// Taken when the nara is stopped.
    running: Option<Running>,
}

/// The parts that run in the background.
#[derive(Debug)]
struct Running {
    local: LocalNara,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    client: MeshClient,
    keeper: PeerKeeper,
    /// `None`: this nara calls peers and cannot be called.
    server: Option<Arc<RunningServer>>,
    gossip: Option<GossipService>,
    /// Discovery, catching up, and the task that follows the address of the node.
    following: Vec<AbortOnDropHandle<()>>,
    /// The address at which this nara is reached.
    address: watch::Receiver<Option<SocketAddr>>,
}

/// The reason why a nara cannot start, or cannot be reconfigured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NaraError {
    /// The ledger cannot be opened or read.
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
    /// A configured peer contradicts the registry.
    #[error("the configured peer {peer} is refused")]
    Peer {
        /// The peer's name, id or address.
        peer: String,
        /// The contradiction.
        source: Box<RegisterError>,
    },
    /// The server cannot start.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Nara {
    /// Configures a nara with this identity.
    pub fn builder(local: LocalNara) -> NaraBuilder {
        NaraBuilder::new(local)
    }

    /// Returns the identity.
    pub fn local(&self) -> &LocalNara {
        &self.local
    }

    /// Returns the name.
    pub fn name(&self) -> &NaraName {
        self.local.name()
    }

    /// Returns the nara id.
    pub fn id(&self) -> &NaraId {
        self.local.id()
    }

    /// Returns the entry for the registries of peers: id, name and key, and the address if it can be dialled.
    pub fn as_peer(&self) -> PeerInfo {
        let address = self.address().filter(|address| !address.ip().is_unspecified());
        self.local.as_peer(address)
    }

    /// Returns the client of this nara.
    pub fn client(&self) -> &MeshClient {
        &self.client
    }

    /// Returns the ledger of this nara.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// Returns a handle for calls to a peer: see [`MeshClient::peer`].
    pub fn peer(&self, peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>) -> PeerHandle {
        self.client.peer(peer)
    }

    /// Returns the registry of known peers and their keys.
    pub fn registry(&self) -> &PeerRegistry {
        self.client.registry()
    }

    /// Signs an event of this nara and stores it in the ledger; subscribers and gossip pick it up from there.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be stored, or peers would refuse it.
    pub async fn publish(&self, payload: Payload) -> Result<SyncEvent, LedgerError> {
        let event = presence::signed(&self.local, payload, self.running().clock.now_nanos());
        self.publish_signed(event).await
    }

    /// Stores an event that this nara signed, like [`publish`](Self::publish). Returns the stored form.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be stored, or peers would refuse it.
    pub async fn publish_signed(&self, event: SyncEvent) -> Result<SyncEvent, LedgerError> {
        self.running().append(event).await
    }

    /// Returns the records that were loaded from the ledger at the start.
    pub fn recalled(&self) -> &Recalled {
        &self.recalled
    }

    /// Returns the address at which peers reach this nara; `None` if it does not listen.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.running().address.borrow()
    }

    /// Returns the other address at which peers reach this nara: see [`NaraBuilder::also_listen`].
    pub fn other_address(&self) -> Option<SocketAddr> {
        let server = self.running().server.as_ref()?;
        let other = server.other_addr()?;
        // Both have the same IP address, and move together.
        let now = self.address().filter(|_| other.ip() == server.local_addr().ip());
        Some(SocketAddr::new(
            now.map_or_else(|| other.ip(), |now| now.ip()),
            other.port(),
        ))
    }

    /// Watches the address at which peers reach this nara: a node of a tailnet may get a new one.
    pub fn watch_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.running().address.clone()
    }

    /// Returns the status of gossip; `None` if it is off.
    pub fn gossip_status(&self) -> Option<watch::Receiver<GossipStatus>> {
        self.running().gossip.as_ref().map(GossipService::status)
    }

    /// Deletes the stash that a peer left with this nara; see [`RunningServer::forget_stash`].
    ///
    /// # Errors
    /// If the stash may still be in the store.
    pub async fn forget_stash(&self, owner: &NaraId) -> io::Result<bool> {
        match &self.running().server {
            Some(server) => server.forget_stash(owner).await,
            None => Ok(false),
        }
    }

    /// Returns the sealed stashes that peers left with this nara, by owner.
    pub fn stashes(&self) -> Vec<SealedStash> {
        let server = self.running().server.as_ref();
        server.map(|server| server.stashes()).unwrap_or_default()
    }

    /// Returns the peers with an open stream, of live events or an answer of a route, by name.
    pub fn stream_readers(&self) -> Vec<NaraName> {
        let server = self.running().server.as_ref();
        server.map(|server| server.stream_readers()).unwrap_or_default()
    }

    /// Waits until the listener of the server fails. Without a server it waits forever.
    pub async fn finished(&self) {
        match &self.running().server {
            Some(server) => server.finished().await,
            None => std::future::pending().await,
        }
    }

    /// Applies a new list of configured peers, and the decisions that another process stored in the ledger.
    ///
    /// `peers` is the complete list: a formerly configured peer that is missing is removed with its key. Every valid
    /// entry is applied; the first error is returned afterwards.
    ///
    /// # Errors
    /// [`NaraError`].
    pub async fn reconfigure(&self, peers: Vec<PeerInfo>) -> Result<Recalled, NaraError> {
        let named: HashSet<NaraName> = peers.iter().filter_map(|peer| peer.name.clone()).collect();
        let nameless = peers.iter().filter(|peer| peer.name.is_none());
        let nameless: HashSet<SocketAddr> = nameless.filter_map(|peer| peer.configured_at).collect();
        for peer in self.registry().peers() {
            let info = peer.info();
            let configured =
                info.configured || info.key.is_some_and(|key| key.source == KeySource::Configured);
            let stays = info.name.is_some_and(|name| named.contains(&name))
                || info
                    .configured_at
                    .is_some_and(|address| nameless.contains(&address));
            if configured && !stays {
                self.registry().remove(&peer);
            }
        }
        let applied = builder::configure(self.registry(), &self.local, peers);
        // Decisions apply whatever errors the list has: a ban must not wait for an unrelated fault.
        let recalled = self.running().keeper.reload().await?;
        applied?;
        Ok(recalled)
    }

    /// Applies the decisions that another process stored in the ledger; the configured peers stay unchanged.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn apply_decisions(&self) -> Result<Recalled, LedgerError> {
        self.running().keeper.reload().await
    }

    /// Stops this nara in order: discovery and gossip stop, peers receive a goodbye, the server finishes the requests
    /// in progress, and learned peer records are stored in the ledger. Goodbye and requests take up to `grace`; peers
    /// receive the goodbye on streams and, if gossip is on, up to 16 of them by zine.
    pub async fn shutdown(mut self, grace: Duration) -> Shutdown {
        match self.running.take() {
            Some(running) => running.end(grace).await,
            None => Shutdown::Graceful,
        }
    }

    fn running(&self) -> &Running {
        self.running
            .as_ref()
            .expect("only shutdown and drop take it, and both end the handle")
    }
}

impl Drop for Nara {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(running.end(defaults::DROP_GRACE));
        }
    }
}

impl Running {
    async fn append(&self, event: SyncEvent) -> Result<SyncEvent, LedgerError> {
        let keys = KnownKeys::new(self.local.clone(), self.client.registry().clone());
        own_events::append(&*self.ledger, &keys, event, self.clock.now_nanos()).await
    }

    async fn end(mut self, grace: Duration) -> Shutdown {
        for task in std::mem::take(&mut self.following) {
            task.abort();
            // Waits until the task has released the ledger.
            let _ = task.await;
        }
        let gossips = self.gossip.is_some();
        if let Some(gossip) = self.gossip.take() {
            gossip.stop().await;
        }
        let mut outcome = Shutdown::Graceful;
        if let Some(server) = self.server.take() {
            // Before the streams end, so that subscribers receive it. Best effort: a full disk must not interrupt
            // requests.
            let goodbye = presence::goodbye(&self.local, self.clock.now_nanos());
            if let Err(error) = self.append(goodbye.clone()).await {
                tracing::warn!(%error, "the goodbye was not stored, so peers will not receive it");
            }
            let telling = async {
                if gossips {
                    presence::send_goodbye(&self.client, &*self.ledger, &goodbye, grace).await;
                }
            };
            (outcome, ()) = tokio::join!(server.end(grace), telling);
        }
        self.keeper.finish().await;
        outcome
    }
}
