use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use nara_proto::event::SyncEvent;
use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::sync::SyncResponse;
use nara_proto::time::{UnixMillis, UnixSeconds};

use crate::Coverage;
use crate::identity::LocalNara;
use crate::seldom::{shown, warn_seldom};
use crate::server::answer::rejection::Rejection;
use crate::server::connection::facts::ConnectionFacts;

/// The proven sender of a request.
///
/// Only the server's verification creates it. It travels in the extensions of the request, never as a header. As an
/// axum extractor it refuses unverified requests.
#[derive(Clone, Debug)]
pub struct VerifiedSender {
    name: NaraName,
    id: Option<NaraId>,
    key: PublicKey,
    address: SocketAddr,
    signed_at: UnixMillis,
    coverage: Coverage,
    /// Whether an inner signature in an answer would prove nothing more to the sender.
    needs_no_inner: bool,
}

impl VerifiedSender {
    pub(in crate::server) fn new(
        name: NaraName,
        id: Option<NaraId>,
        key: PublicKey,
        address: SocketAddr,
        signed_at: UnixMillis,
        coverage: Coverage,
    ) -> Self {
        Self {
            name,
            id,
            key,
            address,
            signed_at,
            coverage,
            needs_no_inner: false,
        }
    }

    /// Returns the same sender, with answers whose proof covers all of the answer and its request: a v2 signature, or a
    /// secure connection.
    pub(in crate::server) fn without_inner_signature(mut self) -> Self {
        self.needs_no_inner = true;
        self
    }

    /// Returns an answer with events for this sender.
    pub(in crate::server) fn answer(
        &self,
        from: &LocalNara,
        events: Vec<SyncEvent>,
        now: UnixSeconds,
    ) -> SyncResponse {
        let name = from.name().as_str();
        if self.needs_no_inner {
            SyncResponse::unsigned(name, events, now)
        } else {
            SyncResponse::signed(name, events, now, from.keypair())
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// Returns the id, if known.
    pub fn id(&self) -> Option<&NaraId> {
        self.id.as_ref()
    }

    /// Returns the key with which the request was verified.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Returns the source address of the request.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns when the sender signed the request.
    pub fn signed_at(&self) -> UnixMillis {
        self.signed_at
    }

    /// Returns which parts of the request are proven.
    pub fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Checks that a field of the body names this sender.
    pub(in crate::server) fn must_be(&self, field: &'static str, name: &str) -> Result<(), Rejection> {
        if self.name.as_str() == name {
            return Ok(());
        }
        warn_seldom!(
            sender = %self.name, address = %self.address, claimed = %shown(name), field,
            "the body names another sender than the signer of the request"
        );
        Err(Rejection::SenderMismatch {
            field,
            sender: self.name.clone(),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for VerifiedSender {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!(
                path = parts.uri.path(),
                "a signed route lacks request verification"
            );
            Rejection::Panicked.into_response()
        })
    }
}

/// A middleware for routes of the application: it refuses requests of which only method and path are proven
/// ([`Coverage::MethodAndPath`]) with a signed answer, status 403, that says what to do.
///
/// ```
/// use axum::Router;
/// use axum::middleware::from_fn;
/// use axum::routing::post;
/// use nara_mesh::server::{VerifiedSender, require_whole};
///
/// async fn transfer(sender: VerifiedSender, body: String) -> String {
///     format!("{} signed {body}", sender.name())
/// }
///
/// let routes: Router = Router::new()
///     .route("/transfer", post(transfer))
///     .route_layer(from_fn(require_whole));
/// ```
pub async fn require_whole(sender: VerifiedSender, request: Request, next: Next) -> Response {
    match sender.coverage() {
        Coverage::MethodAndPath | Coverage::Head => Rejection::NotWhole.into_response(),
        Coverage::Whole | Coverage::Channel => next.run(request).await,
    }
}

/// The address of the peer at the other end of the connection; also in the extensions of requests to handlers of the
/// application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) struct PeerAddress(pub(in crate::server) SocketAddr);

impl PeerAddress {
    /// Returns the address in the extensions, or else an unspecified one.
    pub(in crate::server) fn of(extensions: &http::Extensions) -> SocketAddr {
        let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        ConnectionFacts::of(extensions).map_or(unknown, |connection| connection.address)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PeerAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(Self::of(&parts.extensions)))
    }
}
