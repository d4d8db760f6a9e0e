//! Admission of requests, per address, per peer and in total.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ::metrics::SharedString;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use nara_proto::identity::PublicKey;

use crate::metrics::{self, Counted, Plain, Series};
use crate::seldom::warn_seldom;
use crate::server::answer::hold::hold;
use crate::server::answer::rejection::{Limit, Rejection};
use crate::server::auth::sender::VerifiedSender;
use crate::server::connection::facts::ConnectionFacts;
use crate::server::limits::body_bytes::{BodyBytes, Source, Watched};
use crate::server::limits::quota::{Exceeded, Quota, Share};
use crate::server::limits::settings::ServerLimits;
use crate::server::route::user::covers;
use nara_proto::endpoint::PATHS;

static IN_FLIGHT: Plain = Plain::new(metrics::REQUESTS_IN_FLIGHT);

/// Counts requests, and refuses excess ones before any costly work.
#[derive(Debug)]
pub(in crate::server) struct Admission {
    by_address: Quota<IpAddr>,
    by_peer: Quota<PublicKey>,
    in_flight: Quota<IpAddr>,
    body_bytes: Arc<BodyBytes>,
    /// The metrics of our endpoints, by path.
    endpoints: [(&'static str, Series<4>); PATHS.len()],
    /// The metrics of nested routes of the application, by prefix.
    nested: Vec<(Arc<str>, Series<4>)>,
    other: Series<4>,
}

/// The status classes in metrics.
const STATUS: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

fn series(endpoint: impl Into<SharedString>) -> Series<4> {
    let by_status = ("status", STATUS);
    Series::new(endpoint, metrics::REQUEST_SECONDS, metrics::REQUESTS, by_status)
}

/// A request in progress.
pub(in crate::server) struct InFlight {
    _share: Share<IpAddr>,
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
            // Each connection has one request at a time.
            in_flight: Quota::new(limits.requests_in_flight, limits.connections_per_address),
            body_bytes,
            endpoints: PATHS.map(|path| (path, series(path))),
            nested: prefixes
                .into_iter()
                .map(|prefix| (prefix.clone(), series(prefix)))
                .collect(),
            other: series("other"),
        }
    }

    /// Checks the limits of the address, before anything else is known.
    fn admit_address(&self, address: SocketAddr) -> Result<(), Rejection> {
        let source = address.ip().to_canonical();
        self.by_address.check_rate(&source).map_err(|exceeded| {
            tracing::debug!(%source, ?exceeded, "too many requests of one address");
            refusal(exceeded, Limit::Address)
        })
    }

    /// Checks the limits of the authenticated sender.
    fn admit_peer(&self, sender: &VerifiedSender) -> Result<Share<PublicKey>, Rejection> {
        self.by_peer.take(sender.key()).map_err(|exceeded| {
            tracing::debug!(sender = %sender.name(), ?exceeded, "too many requests of one peer");
            refusal(exceeded, Limit::Peer)
        })
    }

    /// Counts a request in progress. A request that waits for key discovery does not count: silent strangers must not
    /// keep out all other peers. Counted by address, because an attacker has fewer addresses than keys.
    fn begin(&self, address: SocketAddr) -> Result<InFlight, Rejection> {
        let share = self.in_flight.take(&address.ip().to_canonical());
        let share = share.map_err(|exceeded| {
            warn_seldom!("too many requests in flight: refused");
            refusal(exceeded, Limit::Address)
        })?;
        Ok(InFlight {
            _share: share,
            _counted: Counted::begin(IN_FLIGHT.gauge()),
        })
    }

    /// Limits a peer's requests and the requests in progress, after the authentication. The result is held until the
    /// request is answered.
    pub(in crate::server) fn admit(
        &self,
        sender: &VerifiedSender,
    ) -> Result<(Share<PublicKey>, InFlight), Rejection> {
        Ok((self.admit_peer(sender)?, self.begin(sender.address())?))
    }

    /// Counts the bytes of a sender's body.
    pub(in crate::server) fn count<B>(&self, sender: &VerifiedSender, body: B) -> Watched<B> {
        self.body_bytes.allowance(Source::Peer(*sender.key())).watch(body)
    }

    /// The outermost layer: limits the request rate of an address, and counts answers.
    pub(in crate::server) async fn watch(
        &self,
        series: &Series<4>,
        connection: &ConnectionFacts,
        answer: impl Future<Output = Response>,
    ) -> Response {
        let started = Instant::now();
        let response = match self.admit_address(connection.address) {
            Ok(()) => hold(answer.await, &connection.watch),
            Err(rejection) => rejection.into_response(),
        };
        let status = match response.status().as_u16() / 100 {
            2 => STATUS[0],
            3 => STATUS[1],
            4 => STATUS[2],
            _ => STATUS[3],
        };
        series.write(started.elapsed(), status);
        response
    }

    /// Returns the metrics of one of our paths, or of a nested router: other paths must not create new series.
    pub(in crate::server) fn series(&self, path: &str) -> &Series<4> {
        if let Some((_, series)) = self.endpoints.iter().find(|(known, _)| *known == path) {
            return series;
        }
        let nested = self.nested.iter().find(|(prefix, _)| covers(prefix, path));
        nested.map_or(&self.other, |(_, series)| series)
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

/// A middleware of routes without authentication: limits the number of requests in progress.
pub(in crate::server) async fn limit_open(
    State(admission): State<Arc<Admission>>,
    request: Request,
    next: Next,
) -> Response {
    let connection = ConnectionFacts::required(request.extensions(), request.uri().path());
    match connection.and_then(|connection| admission.begin(connection.address)) {
        Ok(_in_flight) => next.run(request).await,
        Err(rejection) => rejection.into_response(),
    }
}
