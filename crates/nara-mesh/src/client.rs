//! The client: signs requests and verifies answers.
//!
//! ```no_run
//! use nara_mesh::client::MeshClient;
//! use nara_mesh::identity::LocalNara;
//! use nara_mesh::proto::identity::{NaraId, Soul};
//! use nara_mesh::proto::sync::SyncRequest;
//!
//! # async fn example(soul: Soul, bob: NaraId) -> Result<(), Box<dyn std::error::Error>> {
//! let me = LocalNara::new(&soul, "alice".parse()?)?;
//! let client = MeshClient::builder(me).build();
//! client.register_peer(&bob, "100.64.0.7:9632".parse()?)?;
//!
//! println!("{:?}", client.ping(&bob).await?.rtt);
//! let answer = client.fetch_sync_events(&bob, SyncRequest::recent(100)).await?;
//! for checked in &answer.events.accepted {
//!     println!("{} {:?}", checked.event.id, checked.trust);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The stages of a call
//!
//! The peer is resolved; an unknown peer is asked for its name and key. Then the request waits for pauses that
//! the peer asked for, passes the circuit breaker, takes a slot of the peer's in-flight limit, gets a connection
//! from the pool or by [`Transport::dial`](crate::transport::Transport::dial), and is signed for that connection.
//! The answer is verified, and updates what is known of the peer's clock. A single deadline covers all of it.

mod answer_body;
mod builder;
mod bulk;
mod caller;
mod clocks;
mod deadline;
mod error;
mod event_check;
mod events;
mod exchange;
mod fan_out;
mod handle;
mod open;
mod open_request;
mod own_journeys;
mod pages;
mod ping;
mod pool;
mod proof;
mod query;
mod reconcile;
mod refusal;
mod replies;
mod reply;
mod request;
mod request_problem;
mod resolve;
mod retry_after;
mod service;
mod settling;
mod sign;
mod stash;
mod subscribe;
mod verified;
mod verifier;

pub use nara_proto::event::{CheckedEvent, CheckedEvents, RefusedEvent};

pub use answer_body::AnswerBody;
pub use builder::MeshClientBuilder;
pub(crate) use bulk::Pace;
pub use bulk::{InterruptedSync, SyncError, SyncOptions, SyncProgress, SyncReport};
pub use error::{ClientError, ClientErrorKind};
pub(crate) use fan_out::fan_out;
pub use handle::PeerHandle;
pub use replies::PendingReplies;
pub use resolve::{AddressOverrides, InvalidPeerRef, PeerRef};
pub use service::PeerService;
pub use subscribe::{StreamError, StreamProblem, StreamState, SubscribeOptions, Subscription, VerifiedEvent};
pub use verified::{BodyProof, DiscoveredKey, PingReport, SyncEvents, SyncPage, Verification, Verified};

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use nara_proto::event::SyncEvent;
use nara_proto::identity::{NaraId, NaraName};
use nara_proto::peer::Receipt;
use nara_proto::sync::SyncRequest;
use nara_proto::world::WorldMessage;

use crate::announcement::Announcement;
use crate::clock::Clock;
use crate::defaults;
use crate::identity::LocalNara;
use crate::registry::{Peer, PeerInfo, PeerRegistry, RegisterError};
use deadline::deadline_after;
use exchange::{Callee, Exchange};
use open_request::BodyLimits;

/// The client of one nara. Cloning is cheap and gives another handle to the same client.
#[derive(Clone, Debug)]
pub struct MeshClient {
    exchange: Arc<Exchange>,
    call_timeout: Duration,
    fan_out: usize,
}

impl MeshClient {
    /// Default number of peers that are called concurrently.
    pub const FAN_OUT: usize = defaults::FAN_OUT;

    /// Returns a builder for a client that acts as `local`.
    pub fn builder(local: LocalNara) -> MeshClientBuilder {
        MeshClientBuilder::new(local)
    }

    /// Returns the same client with another time limit for whole calls: `client.with_timeout(limit).ping(&id)`.
    /// Answers with many events may take longer: see [`PeerHandle::with_timeout`].
    #[must_use]
    pub fn with_timeout(&self, call_timeout: Duration) -> Self {
        Self {
            call_timeout,
            ..self.clone()
        }
    }

    /// Returns a handle for calls to a peer. The peer is looked up only when a call is made.
    pub fn peer(&self, peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>) -> PeerHandle {
        PeerHandle {
            exchange: self.exchange.clone(),
            peer: Callee(peer.try_into().map_err(Into::into)),
            call_timeout: self.call_timeout,
            body_limits: BodyLimits::default(),
        }
    }

    /// Measures the round trip to a peer: [`PeerHandle::ping`].
    ///
    /// # Errors
    /// As [`PeerHandle::ping`].
    pub async fn ping(
        &self,
        peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>,
    ) -> Result<PingReport, ClientError> {
        self.peer(peer).ping().await
    }

    /// Fetches events of a peer: [`PeerHandle::fetch_sync_events`].
    ///
    /// # Errors
    /// As [`PeerHandle::fetch_sync_events`].
    pub async fn fetch_sync_events(
        &self,
        peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>,
        request: SyncRequest,
    ) -> Result<Verified<SyncEvents>, ClientError> {
        self.peer(peer).fetch_sync_events(request).await
    }

    /// Forwards a world message to the next nara of its journey: [`PeerHandle::relay_world_message`].
    ///
    /// # Errors
    /// As [`PeerHandle::relay_world_message`].
    pub async fn relay_world_message(
        &self,
        peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>,
        message: &WorldMessage,
    ) -> Result<Verified<Receipt>, ClientError> {
        self.peer(peer).relay_world_message(message).await
    }

    /// Sends one signed event directly to a peer: [`PeerHandle::send_dm`].
    ///
    /// # Errors
    /// As [`PeerHandle::send_dm`].
    pub async fn send_dm(
        &self,
        peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>,
        event: SyncEvent,
    ) -> Result<Verified<Receipt>, ClientError> {
        self.peer(peer).send_dm(event).await
    }

    /// Sends an arbitrary request to a peer: [`PeerHandle::request`].
    ///
    /// # Errors
    /// As [`PeerHandle::request`].
    pub async fn request<B>(
        &self,
        peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>,
        request: Request<B>,
    ) -> Result<Verified<Response<Bytes>>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.peer(peer).request(request).await
    }

    /// Returns a peer as a [`tower::Service`]: [`PeerHandle::service`].
    pub fn service(&self, peer: impl TryInto<PeerRef, Error: Into<InvalidPeerRef>>) -> PeerService {
        self.peer(peer).service()
    }

    /// Attaches the announcement of this nara's server to requests, where strangers could not find it otherwise.
    pub(crate) fn announce(&self, announcement: Arc<Announcement>) {
        self.exchange.caller.signer.announce(announcement);
    }

    /// Calls many peers, at most [as many](MeshClientBuilder::fan_out) at once, and returns one outcome per peer,
    /// in the order of `peers`. A slow peer occupies one of the slots and delays no other peer.
    ///
    /// ```no_run
    /// # async fn example(client: nara_mesh::client::MeshClient) {
    /// let outcomes = client.call_each(client.registry().peers(), |peer| async move { peer.coordinates().await }).await;
    /// for (peer, outcome) in outcomes {
    ///     println!("{peer}: {}", outcome.is_ok());
    /// }
    /// # }
    /// ```
    pub async fn call_each<T, Call, Calling>(
        &self,
        peers: impl IntoIterator<Item = Arc<Peer>>,
        call: Call,
    ) -> Vec<(PeerInfo, T)>
    where
        Call: Fn(PeerHandle) -> Calling,
        Calling: Future<Output = T>,
    {
        fan_out(peers, self.fan_out, |peer| call(self.peer(peer))).await
    }

    /// Pings every registered peer that has an address, and returns one outcome per peer.
    pub async fn ping_all(&self) -> Vec<(PeerInfo, Result<PingReport, ClientError>)> {
        let mut peers = self.registry().peers();
        peers.retain(|peer| peer.info().address.is_some());
        self.call_each(peers, async |peer| peer.ping().await).await
    }

    /// Asks the nara at an address for its name and key, within 2 s. The answer is not signed and nothing is
    /// pinned: relying on it is trust on first use.
    ///
    /// # Errors
    /// [`ClientError`] if there is no answer, if it has no valid name or key, or if the name is not `expected`.
    pub async fn discover_key(
        &self,
        address: SocketAddr,
        expected: Option<&NaraName>,
    ) -> Result<DiscoveredKey, ClientError> {
        let deadline = deadline_after(defaults::DISCOVERY_TIMEOUT);
        self.exchange
            .verifier
            .discover_key(address, expected, deadline)
            .await
    }

    /// Searches for a nara by asking registered peers one by one, at most
    /// [`MAX_QUERY_HOPS`](nara_proto::endpoint::MAX_QUERY_HOPS), starting with peers that others suggest. The
    /// result is unsigned hearsay of the peer named by
    /// [`KeySource::PeerQuery`](crate::registry::KeySource::PeerQuery). Nothing is pinned: if you register it,
    /// the trust policy of the registry decides about its key.
    ///
    /// # Errors
    /// [`ClientError::is_unknown_peer`] if no peer that answered knows it.
    pub async fn query_peer(&self, target: &NaraName) -> Result<PeerInfo, ClientError> {
        self.exchange.query_peer(target, self.call_timeout).await
    }

    /// Returns whether this client started the journey of a message with this text.
    pub(crate) fn began(&self, message: &WorldMessage) -> bool {
        self.exchange.journeys.has(message)
    }

    /// Returns the nara that the client acts as.
    pub fn local(&self) -> &LocalNara {
        &self.exchange.local
    }

    /// Returns the registry in which the client looks up peers and pins their keys.
    pub fn registry(&self) -> &PeerRegistry {
        &self.exchange.registry
    }

    /// Returns the clock used for signing.
    pub fn clock(&self) -> &dyn Clock {
        self.exchange.clocks.clock()
    }

    /// Returns the runtime messages that await replies; the server that receives the replies needs them.
    pub fn pending_replies(&self) -> &PendingReplies {
        &self.exchange.replies
    }

    /// Registers a peer at an address and port.
    ///
    /// # Errors
    /// [`RegisterError::Full`].
    pub fn register_peer(&self, id: &NaraId, address: SocketAddr) -> Result<Arc<Peer>, RegisterError> {
        self.registry().register_address(id, address)
    }

    /// Registers a peer at an address with unknown port: the client tries both mesh ports and remembers the one
    /// that answers.
    ///
    /// # Errors
    /// As [`MeshClient::register_peer`].
    pub fn register_peer_ip(&self, id: &NaraId, ip: IpAddr) -> Result<Arc<Peer>, RegisterError> {
        self.registry().register(PeerInfo {
            id: Some(id.clone()),
            address: Some(SocketAddr::new(ip, self.exchange.resolver.mesh_port)),
            either_port: true,
            ..PeerInfo::default()
        })
    }

    /// Removes a peer and its pinned key. Returns whether it was registered.
    pub fn unregister_peer(&self, id: &NaraId) -> bool {
        self.registry().unregister(id)
    }

    /// Returns whether an address is known for this id.
    pub fn has_peer(&self, id: &NaraId) -> bool {
        self.exchange.resolver.has(id)
    }
}
