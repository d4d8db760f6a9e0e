//! How much of a server one address, one peer, and all of them together may have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ::metrics::{SharedString, counter, histogram};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use nara_proto::identity::PublicKey;

use crate::metrics::{self, Counted};
use crate::seldom::warn_seldom;
use crate::server::answer::hold::{CutOff, hold};
use crate::server::answer::rejection::{Limit, Rejection};
use crate::server::auth::sender::{PeerAddress, VerifiedSender};
use crate::server::auth::verify::StreamedRequest;
use crate::server::limits::body_bytes::{BodyBytes, Source};
use crate::server::limits::quota::{Exceeded, Quota, Share};
use crate::server::limits::settings::ServerLimits;
use crate::server::route::user::covers;
use nara_proto::endpoint::PATHS;

/// Counts requests, and refuses those that are too many, before anything costly is done for them.
#[derive(Debug)]
pub(in crate::server) struct Admission {
    by_address: Quota<IpAddr>,
    by_peer: Quota<PublicKey>,
    in_flight: Quota<()>,
    body_bytes: Arc<BodyBytes>,
    /// Prefixes of routes of the application, for metrics.
    prefixes: Vec<Arc<str>>,
}

/// One of the requests that are worked on.
pub(in crate::server) struct InFlight {
    _share: Share<()>,
    _counted: Counted,
}

impl Admission {
    pub(in crate::server) fn new(
        limits: &ServerLimits,
        body_bytes: Arc<BodyBytes>,
        prefixes: Vec<Arc<str>>,
    ) -> Self {
        Self {
            by_address: Quota::new(usize::MAX, usize::MAX).with_rate(limits.requests_per_address),
            by_peer: Quota::new(usize::MAX, limits.requests_in_flight_per_peer)
                .with_rate(limits.requests_per_peer),
            in_flight: Quota::new(limits.requests_in_flight, usize::MAX),
            body_bytes,
            prefixes,
        }
    }

    /// Before anything is known but the address.
    fn admit_address(&self, address: SocketAddr) -> Result<(), Rejection> {
        let source = address.ip().to_canonical();
        self.by_address.check_rate(&source).map_err(|exceeded| {
            tracing::debug!(%source, ?exceeded, "too many requests of one address");
            refusal(exceeded, Limit::Address)
        })
    }

    /// Once the sender is known.
    fn admit_peer(&self, sender: &VerifiedSender) -> Result<Share<PublicKey>, Rejection> {
        self.by_peer.take(sender.key()).map_err(|exceeded| {
            tracing::debug!(sender = %sender.name(), ?exceeded, "too many requests of one peer");
            refusal(exceeded, Limit::Peer)
        })
    }

    /// When the work begins. A request whose sender is still being asked for its key does not count: strangers that
    /// never answer must not keep out all others.
    fn begin(&self) -> Result<InFlight, Rejection> {
        let share = self.in_flight.take(&()).map_err(|exceeded| {
            warn_seldom!("too many requests in flight: refused");
            refusal(exceeded, Limit::Address)
        })?;
        Ok(InFlight {
            _share: share,
            _counted: Counted::new(metrics::REQUESTS_IN_FLIGHT),
        })
    }

    /// Behind the authentication: limits what one peer may ask for, and how many requests are worked on at once. What
    /// is returned beside the request is held until it is answered.
    pub(in crate::server) fn admit(
        &self,
        sender: &VerifiedSender,
        request: Request,
    ) -> Result<(Request, (Share<PublicKey>, InFlight)), Rejection> {
        let held = (self.admit_peer(sender)?, self.begin()?);
        // A stream is not held, but read as its handler goes along.
        if request.extensions().get::<StreamedRequest>().is_some() {
            return Ok((request, held));
        }
        let allowance = self.body_bytes.allowance(Source::Peer(*sender.key()));
        Ok((request.map(|body| allowance.watch(body)), held))
    }

    /// Outside of everything: limits how often one address may ask, and counts what is answered.
    pub(in crate::server) async fn watch<F>(
        &self,
        request: Request,
        answer: impl FnOnce(Request) -> F,
    ) -> Response
    where
        F: Future<Output = Response>,
    {
        let endpoint = self.endpoint(request.uri().path());
        let started = Instant::now();
        let connection = request.extensions().get::<CutOff>().cloned();
        let response = match self.admit_address(PeerAddress::of(request.extensions())) {
            Ok(()) => hold(answer(request).await, connection.as_ref()),
            Err(rejection) => rejection.into_response(),
        };
        histogram!(metrics::REQUEST_SECONDS, "endpoint" => endpoint.clone()).record(started.elapsed());
        let status = match response.status().as_u16() / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        counter!(metrics::REQUESTS, "endpoint" => endpoint, "status" => status).increment(1);
        response
    }

    /// The path, if it is one of ours, or the prefix of a nested router: other paths must not make new series.
    fn endpoint(&self, path: &str) -> SharedString {
        if let Some(known) = PATHS.into_iter().find(|known| *known == path) {
            return SharedString::const_str(known);
        }
        let prefix = self.prefixes.iter().find(|prefix| covers(prefix, path));
        prefix.map_or(SharedString::const_str("other"), |prefix| {
            SharedString::from(prefix.clone())
        })
    }
}

fn refusal(exceeded: Exceeded, of: Limit) -> Rejection {
    match exceeded {
        Exceeded::Rate { limit, retry_after } => Rejection::TooManyRequests {
            of,
            limit,
            retry_after,
        },
        Exceeded::OfKey(limit) => Rejection::TooManyInFlight(limit),
        Exceeded::All => Rejection::Overloaded,
    }
}

/// Middleware of routes without authentication: limits how many are worked on at once.
pub(in crate::server) async fn limit_open(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    match admission.begin() {
        Ok(_in_flight) => next.run(request).await,
        Err(rejection) => rejection.into_response(),
    }
}
