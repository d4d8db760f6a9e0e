//! How much of a server one address, one peer, and all of them together may have.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ::metrics::{counter, histogram};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use nara_proto::endpoint::{
    AllCheckpoints, DirectMessage, Endpoint as _, EventsFetch, EventsImport, EventsReconcile, EventsStream,
    EventsSync, GetCoordinates, GossipZine, MeshMessage, PeerQuery, Ping, WorldRelay,
};
use nara_proto::identity::PublicKey;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body_budget::{BodyBudget, Source};
use super::places::{NoPlace, Place, Places};
use super::rates::Rates;
use super::rejection::{Limit, Rejection};
use super::{PeerAddress, ServerLimits, VerifiedSender};
use crate::metrics::{self, Counted};
use crate::rate_limit::RateLimit;

/// Counts requests, and refuses those that are too many, before anything costly is done for them.
#[derive(Debug)]
pub(super) struct Gate {
    by_address: Option<(RateLimit, Rates<IpAddr>)>,
    by_peer: Option<(RateLimit, Rates<PublicKey>)>,
    in_flight: Semaphore,
    in_flight_by_peer: Places<PublicKey>,
    in_flight_per_peer: usize,
    body_budget: Arc<BodyBudget>,
}

impl Gate {
    pub(super) fn new(limits: &ServerLimits, body_budget: Arc<BodyBudget>) -> Self {
        Self {
            by_address: limits
                .requests_per_address
                .map(|limit| (limit, Rates::new(limit))),
            by_peer: limits.requests_per_peer.map(|limit| (limit, Rates::new(limit))),
            in_flight: Semaphore::new(limits.requests_in_flight.min(Semaphore::MAX_PERMITS)),
            in_flight_by_peer: Places::new(usize::MAX, limits.requests_in_flight_per_peer),
            in_flight_per_peer: limits.requests_in_flight_per_peer,
            body_budget,
        }
    }

    /// Before anything is known but the address.
    fn admit_address(&self, address: Option<&PeerAddress>) -> Result<SemaphorePermit<'_>, Rejection> {
        // Without one, whoever runs the router counts by itself: all sources together are not one.
        if let (Some((limit, rates)), Some(PeerAddress(address))) = (&self.by_address, address) {
            let source = address.ip().to_canonical();
            rates.check(&source).map_err(|retry_after| {
                tracing::debug!(%source, ?retry_after, "too many requests of one address");
                Rejection::TooManyRequests {
                    of: Limit::Address,
                    limit: *limit,
                    retry_after,
                }
            })?;
        }
        self.in_flight.try_acquire().map_err(|_| {
            tracing::warn!("too many requests in flight: refused");
            Rejection::Overloaded
        })
    }

    /// Once the sender is known.
    fn admit_peer(&self, sender: &VerifiedSender) -> Result<Place<PublicKey>, Rejection> {
        if let Some((limit, rates)) = &self.by_peer {
            rates.check(sender.key()).map_err(|retry_after| {
                tracing::debug!(sender = %sender.name(), ?retry_after, "too many requests of one peer");
                Rejection::TooManyRequests {
                    of: Limit::Peer,
                    limit: *limit,
                    retry_after,
                }
            })?;
        }
        self.in_flight_by_peer.take(sender.key()).map_err(|no_place| {
            tracing::debug!(sender = %sender.name(), "too many requests of one peer in flight");
            match no_place {
                NoPlace::OfKey => Rejection::TooManyInFlight(self.in_flight_per_peer),
                NoPlace::All => Rejection::Overloaded,
            }
        })
    }
}

/// Middleware outside of everything: limits what one address, and all together, may ask for.
pub(super) async fn limit_address(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let endpoint = endpoint(request.uri().path());
    let started = Instant::now();
    let response = match gate.admit_address(request.extensions().get()) {
        Ok(_permit) => {
            let _counted = Counted::new(metrics::REQUESTS_IN_FLIGHT);
            next.run(request).await
        }
        Err(rejection) => rejection.into_response(),
    };
    histogram!(metrics::REQUEST_SECONDS, "endpoint" => endpoint).record(started.elapsed());
    let status = match response.status().as_u16() / 100 {
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    counter!(metrics::REQUESTS, "endpoint" => endpoint, "status" => status).increment(1);
    response
}

/// The path, if it is one of ours: who asks for others must not make new series of them.
fn endpoint(path: &str) -> &'static str {
    const PATHS: [&str; 13] = [
        AllCheckpoints::PATH,
        DirectMessage::PATH,
        EventsFetch::PATH,
        EventsImport::PATH,
        EventsReconcile::PATH,
        EventsStream::PATH,
        EventsSync::PATH,
        GetCoordinates::PATH,
        GossipZine::PATH,
        MeshMessage::PATH,
        PeerQuery::PATH,
        Ping::PATH,
        WorldRelay::PATH,
    ];
    PATHS.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// Middleware behind the authentication: limits what one peer may ask for.
pub(super) async fn limit_peer(
    State(gate): State<Arc<Gate>>,
    sender: VerifiedSender,
    request: Request,
    next: Next,
) -> Response {
    match gate.admit_peer(&sender) {
        Ok(_place) => {
            let allowance = gate.body_budget.allowance(Source::Peer(*sender.key()));
            next.run(request.map(|body| allowance.watch(body))).await
        }
        Err(rejection) => rejection.into_response(),
    }
}
