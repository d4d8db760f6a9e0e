//! The client: signed requests out, verified answers back.
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
//! # What a call goes through
//!
//! Resolve the peer, then in this order: trace, deadline, circuit breaker, limit of calls in flight to one
//! peer, one more try where that is safe, verification of the answer, signing, connection pool,
//! [`Transport::dial`](crate::transport::Transport::dial).

mod address;
mod builder;
mod bulk;
mod call;
mod clock_skew;
mod clocks;
mod discover;
mod error;
mod events;
mod fan_out;
mod messages;
mod outgoing;
mod pages;
mod pool;
mod proof;
mod query;
mod reconcile;
mod replies;
mod retry_after;
mod sign;
mod status_answer;
mod subscribe;
mod verified;
mod verify;

pub use address::{AddressLookup, AddressOverrides, InvalidBaseUrl, PeerRef};
pub use builder::MeshClientBuilder;
pub use bulk::{InterruptedSync, SyncError, SyncOptions, SyncProgress, SyncReport};
pub use error::ClientError;
pub use fan_out::fan_out;
pub use reconcile::{ReconcileOptions, ReconcileReport, SyncCheck};
pub use replies::PendingReplies;
pub use subscribe::{
    ReconnectPolicy, StreamError, StreamProblem, StreamState, SubscribeOptions, Subscription, VerifiedEvent,
};
pub use verified::{
    CheckedEvent, CheckedEvents, Checkpoints, DiscoveredKey, FoundPeer, PingReport, RefusedEvent, SyncEvents,
    SyncPage, Verification, Verified, ZineEvents,
};
pub(crate) use verify::offload;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nara_proto::endpoint::{Endpoint, GetCoordinates};
use nara_proto::identity::{NaraId, PreparedKeys};
use nara_proto::peer::CoordinatesResponse;
use nara_proto::v1::Stamp;

use crate::Signatures;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::registry::{Peer, PeerRegistry, RegisterError};
use crate::tls::{ChannelTrust, TlsPolicy};
use address::Resolver;
use pool::Pool;

/// The client of one nara. Cloning is cheap and gives another handle to the same client.
#[derive(Clone, Debug)]
pub struct MeshClient {
    shared: Arc<Shared>,
    call_timeout: Duration,
}

#[derive(Debug)]
struct Shared {
    local: LocalNara,
    registry: PeerRegistry,
    resolver: Resolver,
    clock: Arc<dyn Clock>,
    stamp: Mutex<Stamp>,
    pool: Pool,
    /// Peers that are called often have their keys prepared.
    keys: Arc<PreparedKeys>,
    replies: PendingReplies,
    tls: TlsPolicy,
    channel_trust: ChannelTrust,
    accept_unverified: bool,
    signatures: Signatures,
    compensate_clocks: bool,
    fan_out: usize,
}

/// How one call differs from the defaults of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallOptions {
    /// How long the whole call may take, shorter or longer than the default.
    pub timeout: Option<Duration>,
}

impl CallOptions {
    /// A call that may take this long.
    pub fn timeout(timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
        }
    }
}

impl MeshClient {
    /// Begins a client that acts as `local`.
    pub fn builder(local: LocalNara) -> MeshClientBuilder {
        MeshClientBuilder::new(local)
    }

    /// The same client with another time limit for whole calls: `client.with_timeout(limit).ping(&id)`.
    #[must_use]
    pub fn with_timeout(&self, call_timeout: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            call_timeout,
        }
    }

    /// The nara that the client acts as.
    pub fn local(&self) -> &LocalNara {
        &self.shared.local
    }

    /// The registry in which the client looks up peers and pins their keys.
    pub fn registry(&self) -> &PeerRegistry {
        &self.shared.registry
    }

    /// The clock by which the client signs.
    pub fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// The runtime messages that wait for replies: for the server that receives them.
    pub fn pending_replies(&self) -> &PendingReplies {
        &self.shared.replies
    }

    /// Registers a peer at an address and port.
    ///
    /// # Errors
    /// [`RegisterError::Full`].
    pub fn register_peer(&self, id: &NaraId, address: SocketAddr) -> Result<Arc<Peer>, RegisterError> {
        self.shared.registry.register_address(id, address)
    }

    /// Registers a peer at an address and the mesh port.
    ///
    /// # Errors
    /// As [`MeshClient::register_peer`].
    pub fn register_peer_ip(&self, id: &NaraId, ip: IpAddr) -> Result<Arc<Peer>, RegisterError> {
        self.register_peer(id, SocketAddr::new(ip, self.shared.resolver.mesh_port))
    }

    /// Removes a peer, with its pinned key. Returns whether it was there.
    pub fn unregister_peer(&self, id: &NaraId) -> bool {
        self.shared.registry.unregister(id)
    }

    /// Whether a call to this id has somewhere to go.
    pub fn has_peer(&self, id: &NaraId) -> bool {
        self.shared.resolver.has(id)
    }

    /// The registered peer that a reference names, by id, name or address.
    pub fn peer(&self, peer: impl Into<PeerRef>) -> Option<Arc<Peer>> {
        self.shared.resolver.registered(&peer.into())
    }

    /// Calls an endpoint and verifies that the peer signed the answer, if the endpoint is a signed one. What
    /// is inside the answer is left to the caller; the methods named after endpoints look at it as well.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<E: Endpoint>(
        &self,
        peer: impl Into<PeerRef>,
        request: &E::Request,
        options: CallOptions,
    ) -> Result<Verified<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        let deadline = self.deadline(options);
        let answer = self.exchange::<E>(&peer.into(), request, deadline).await?;
        Ok(Verified::new(answer.value, answer.verification))
    }

    /// Asks for the coordinates of a peer. The answer is not signed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn coordinates(
        &self,
        peer: impl Into<PeerRef>,
    ) -> Result<Verified<CoordinatesResponse>, ClientError> {
        self.call::<GetCoordinates>(peer, &(), CallOptions::default())
            .await
    }
}
