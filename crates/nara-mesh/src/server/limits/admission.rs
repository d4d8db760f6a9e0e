//! How much of a server one address, one peer, and all of them together may have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ::metrics::{counter, histogram};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use nara_proto::identity::PublicKey;

use crate::metrics::{self, Counted};
use crate::server::answer::rejection::{Limit, Rejection};
use crate::server::auth::sender::{PeerAddress, VerifiedSender};
use crate::server::limits::body_bytes::{BodyBytes, Source};
use crate::server::limits::quota::{Exceeded, Quota, Share};
use crate::server::limits::settings::ServerLimits;
use crate::server::route::spelling::PATHS;

/// Counts requests, and refuses those that are too many, before anything costly is done for them.
#[derive(Debug)]
pub(in crate::server) struct Admission {
    by_address: Quota<IpAddr>,
    by_peer: Quota<PublicKey>,
    body_bytes: Arc<BodyBytes>,
}

impl Admission {
    pub(in crate::server) fn new(limits: &ServerLimits, body_bytes: Arc<BodyBytes>) -> Self {
        Self {
            by_address: Quota::new(limits.requests_in_flight, usize::MAX)
                .with_rate(limits.requests_per_address),
            by_peer: Quota::new(usize::MAX, limits.requests_in_flight_per_peer)
                .with_rate(limits.requests_per_peer),
            body_bytes,
        }
    }

    /// Before anything is known but the address.
    fn admit_address(&self, address: SocketAddr) -> Result<Share<IpAddr>, Rejection> {
        let source = address.ip().to_canonical();
        self.by_address.take(&source).map_err(|exceeded| match exceeded {
            Exceeded::Rate { limit, retry_after } => {
                tracing::debug!(%source, ?retry_after, "too many requests of one address");
                Rejection::TooManyRequests {
                    of: Limit::Address,
                    limit,
                    retry_after,
                }
            }
            Exceeded::All | Exceeded::OfKey(_) => {
                tracing::warn!("too many requests in flight: refused");
                Rejection::Overloaded
            }
        })
    }

    /// Once the sender is known.
    fn admit_peer(&self, sender: &VerifiedSender) -> Result<Share<PublicKey>, Rejection> {
        self.by_peer.take(sender.key()).map_err(|exceeded| {
            tracing::debug!(sender = %sender.name(), ?exceeded, "too many requests of one peer");
            match exceeded {
                Exceeded::Rate { limit, retry_after } => Rejection::TooManyRequests {
                    of: Limit::Peer,
                    limit,
                    retry_after,
                },
                Exceeded::OfKey(limit) => Rejection::TooManyInFlight(limit),
                Exceeded::All => Rejection::Overloaded,
            }
        })
    }
}

/// Middleware outside of everything: limits what one address, and all together, may ask for.
pub(in crate::server) async fn limit_address(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let endpoint = endpoint(request.uri().path());
    let started = Instant::now();
    let response = match admission.admit_address(PeerAddress::of(request.extensions())) {
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
    PATHS.into_iter().find(|known| *known == path).unwrap_or("other")
}

/// Middleware behind the authentication: limits what one peer may ask for.
pub(in crate::server) async fn limit_peer(
    State(admission): State<Arc<Admission>>,
    sender: VerifiedSender,
    request: Request,
    next: Next,
) -> Response {
    match admission.admit_peer(&sender) {
        Ok(_place) => {
            let allowance = admission.body_bytes.allowance(Source::Peer(*sender.key()));
            next.run(request.map(|body| allowance.watch(body))).await
        }
        Err(rejection) => rejection.into_response(),
    }
}
