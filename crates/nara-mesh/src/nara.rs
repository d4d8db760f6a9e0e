//! One whole nara: the front door of this library.
//!
//! A [`Nara`] owns everything that makes up a nara on a mesh: identity, ledger, registry, client, server, gossip
//! and discovery. [`Nara::builder`] takes the settings, each once, and [`start`](NaraBuilder::start) starts the
//! parts in the right order.
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
//! The parts stay usable alone: [`MeshClient`], [`MeshServer`](crate::server::MeshServer),
//! [`GossipService`] and [`Discovery`](crate::discovery::Discovery) have builders of their own.

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
/// [`Nara::shutdown`] ends it in order and waits for it. A dropped handle does the same in the background, with
/// 1 s for the requests in progress; outside of a tokio runtime it ends everything at once.
#[derive(Debug)]
pub struct Nara {
    local: LocalNara,
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    recalled: Recalled,
    /// Taken by whatever ends the nara.
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
    /// `None`: this nara calls others and is not called.
    server: Option<Arc<RunningServer>>,
    gossip: Option<GossipService>,
    /// Discovery, catching up, and what follows the address of the node.
    following: Vec<AbortOnDropHandle<()>>,
    /// Where this nara is reached.
    address: watch::Receiver<Option<SocketAddr>>,
}

/// Why a nara cannot start, or cannot be reconfigured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NaraError {
    /// The ledger cannot be opened or read.
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
    /// A configured peer contradicts the registry.
    #[error("the configured peer {peer} is refused")]
    Peer {
        /// Its name, id or address.
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

    /// The identity.
    pub fn local(&self) -> &LocalNara {
        &self.local
    }

    /// The name.
    pub fn name(&self) -> &NaraName {
        self.local.name()
    }

    /// The nara id.
    pub fn id(&self) -> &NaraId {
        self.local.id()
    }

    /// The entry for the registries of others: id, name and key, and the address if it can be dialled.
    pub fn as_peer(&self) -> PeerInfo {
        let address = self.address().filter(|address| !address.ip().is_unspecified());
        self.local.as_peer(address)
    }

    /// The client of this nara.
    pub fn client(&self) -> &MeshClient {
        &self.client
    }

    /// The ledger of this nara.
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.ledger
    }

    /// A peer, on which every call can be made: [`MeshClient::peer`].
    pub fn peer(&self, peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>) -> PeerHandle {
        self.client.peer(peer)
    }

    /// The peers that this nara knows, and their keys.
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

    /// Stores an event that this nara signed, as [`publish`](Self::publish) does. Returns it as it is stored.
    ///
    /// # Errors
    /// [`LedgerError`] if it cannot be stored, or peers would refuse it.
    pub async fn publish_signed(&self, event: SyncEvent) -> Result<SyncEvent, LedgerError> {
        self.running().append(event).await
    }

    /// The records loaded from the ledger at the start.
    pub fn recalled(&self) -> &Recalled {
        &self.recalled
    }

    /// The address at which peers reach this nara; `None` if it does not listen.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.running().address.borrow()
    }

    /// The other address at which peers reach this nara: see [`NaraBuilder::also_listen`].
    pub fn other_address(&self) -> Option<SocketAddr> {
        let server = self.running().server.as_ref()?;
        let other = server.other_addr()?;
        // Both began on one address, and move together.
        let now = self.address().filter(|_| other.ip() == server.local_addr().ip());
        Some(SocketAddr::new(
            now.map_or_else(|| other.ip(), |now| now.ip()),
            other.port(),
        ))
    }

    /// The address at which peers reach this nara, and its changes: the node of a tailnet may get a new one.
    pub fn watch_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.running().address.clone()
    }

    /// The status of gossip; `None` if it is off.
    pub fn gossip_status(&self) -> Option<watch::Receiver<GossipStatus>> {
        self.running().gossip.as_ref().map(GossipService::status)
    }

    /// Forgets what a peer left with this nara; see [`RunningServer::forget_stash`].
    ///
    /// # Errors
    /// If it may still be in the store.
    pub async fn forget_stash(&self, owner: &NaraId) -> io::Result<bool> {
        match &self.running().server {
            Some(server) => server.forget_stash(owner).await,
            None => Ok(false),
        }
    }

    /// What peers left with this nara, sealed, by owner.
    pub fn stashes(&self) -> Vec<SealedStash> {
        let server = self.running().server.as_ref();
        server.map(|server| server.stashes()).unwrap_or_default()
    }

    /// The peers to which streams go: live events, or an answer of a route. By name.
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

    /// Applies a new list of configured peers, and the decisions that another process wrote to the ledger.
    ///
    /// `peers` is the whole list: a peer that was configured before and is missing is removed with its key. Every
    /// peer that can be applied is applied; the first error is returned afterwards.
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
        // Decisions apply whatever is wrong with the list: a ban must not wait for an unrelated fault.
        let recalled = self.running().keeper.reload().await?;
        applied?;
        Ok(recalled)
    }

    /// Applies the decisions that another process wrote to the ledger, and leaves the configured peers as they are.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn apply_decisions(&self) -> Result<Recalled, LedgerError> {
        self.running().keeper.reload().await
    }

    /// Ends this nara in order: discovery and gossip stop, peers hear a goodbye, the server finishes the requests in
    /// progress, and learned peer records are written to the ledger. Goodbye and requests take up to `grace`; peers hear
    /// it on streams and, if gossip is on, up to 16 of them by zine.
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
            // Until it has let go of the ledger.
            let _ = task.await;
        }
        let gossips = self.gossip.is_some();
        if let Some(gossip) = self.gossip.take() {
            gossip.stop().await;
        }
        let mut outcome = Shutdown::Graceful;
        if let Some(server) = self.server.take() {
            // Before the streams end, so that subscribers hear it. Best effort: a full disk must not cut requests.
            let goodbye = presence::goodbye(&self.local, self.clock.now_nanos());
            if let Err(error) = self.append(goodbye.clone()).await {
                tracing::warn!(%error, "the goodbye is not stored, so peers do not hear it");
            }
            let telling = async {
                if gossips {
                    presence::tell_going(&self.client, &*self.ledger, &goodbye, grace).await;
                }
            };
            (outcome, ()) = tokio::join!(server.end(grace), telling);
        }
        self.keeper.finish().await;
        outcome
    }
}
