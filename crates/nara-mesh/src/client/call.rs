//! The way of a request out and of its answer back.
//!
//! Every call passes these positions, outermost first:
//!
//! 1. trace ([`traced`]): also sees calls that were not made;
//! 2. deadline: one point in time that every later position waits for at most, so that whoever hits it
//!    knows what it was doing;
//! 3. pauses that the peer asked for: until they are over, it is not called;
//! 4. circuit breaker: outside the limit of calls in flight, so that a peer that is down fails at once;
//! 5. limit of calls in flight to one peer: what is retried keeps its place;
//! 6. one more try, if a pooled connection turned out closed before anything was sent;
//! 7. signing: inside the retry, so that each try has a signature of its own;
//! 8. pool, then [`Transport::dial`](crate::transport::Transport::dial);
//! 9. on the way back, outside of all that: verification. A wrong signature does not make a peer unreachable.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use hyper::body::{Body as _, Incoming};
use nara_proto::breaker::Failure;
use nara_proto::endpoint::{Authentication, Endpoint, Ping};
use nara_proto::identity::PublicKey;
use nara_proto::v2::SignedCapability;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use super::address::Route;
use super::clocks::Asked;
use super::error::{ErrorKind, Stage};
use super::outgoing::Outgoing;
use super::pool::{Connection, SendError, Target, TlsTarget, read_body};
use super::retry_after::{AskedToWait, asked_to_wait};
use super::sign::SentSignatures;
use super::status_answer::StatusAnswer;
use super::{CallOptions, ClientError, MeshClient, PeerRef, Verification};
use crate::Signatures;
use crate::metrics;
use crate::tls::{CertificateKind, SecureChannel, Security, TlsFailure, TlsPolicy};

/// The name of the caller, unsigned, on pings (docs/protocol/v1.md, section 4.2).
pub(super) const FROM_HEADER: HeaderName = HeaderName::from_static("x-nara-from");

/// The most bytes that are read of an answer with another status than 200.
const MAX_ERROR_BODY: usize = 4 << 10;

/// A call that was given up sooner than this tells more about the caller than about the peer, and does not
/// count for its breaker.
const PATIENCE: Duration = Duration::from_secs(1);

/// A value that an endpoint answered, with what is known about the way it came.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) verification: Verification,
    pub(super) route: Route,
    pub(super) rtt: Duration,
    pub(super) dial: Option<Duration>,
    /// How the connection was protected.
    pub(super) security: Security,
    /// The key that the other end of the connection has proven to hold.
    pub(super) channel_key: Option<PublicKey>,
    /// Between which readings of our clock it was made.
    pub(super) asked: Asked,
    /// The size of the body.
    pub(super) bytes: usize,
    /// What the peer says that it can do, not yet verified.
    pub(super) capability: Option<SignedCapability>,
}

/// An answer with any status, not verified and not decoded.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Between which readings of our clock it was made.
    asked: Asked,
    /// How long the peer asks not to be called.
    retry_after: Option<Duration>,
    /// The signatures of the request that it answers.
    pub(super) sent: SentSignatures,
    /// Whether `body` is the whole body.
    complete: bool,
    rtt: Duration,
    dial: Option<Duration>,
    /// What the connection has proven about whoever answered.
    pub(super) channel: Option<SecureChannel>,
}

/// An answer with status 200 whose body is still to come. Dropping it closes its connection.
#[derive(Debug)]
pub(super) struct OpenAnswer {
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    /// The signatures of the request that it answers.
    pub(super) sent: SentSignatures,
    pub(super) connection: Connection,
}

/// Traces a call: peer, endpoint, outcome and duration; never signatures, bodies or keys.
pub(super) async fn traced<T>(
    peer: &PeerRef,
    endpoint: &'static str,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let started = Instant::now();
    let span = tracing::debug_span!("call", %peer, endpoint);
    let outcome = call.instrument(span.clone()).await;
    let name = outcome.as_ref().map_or_else(ClientError::outcome, |_| "ok");
    let took = started.elapsed();
    tracing::debug!(parent: &span, outcome = name, duration_us = took.as_micros());
    ::metrics::counter!(metrics::CALLS, "endpoint" => endpoint, "outcome" => name).increment(1);
    ::metrics::histogram!(metrics::CALL_SECONDS, "endpoint" => endpoint).record(took);
    outcome
}

impl MeshClient {
    pub(super) fn deadline(&self, options: CallOptions) -> Instant {
        let limit = options.timeout.unwrap_or(self.call_timeout);
        let now = Instant::now();
        // A limit beyond the range of the clock is no limit.
        now.checked_add(limit)
            .unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
    }

    pub(super) fn route(&self, peer: &PeerRef) -> Result<Route, ClientError> {
        let route = self.shared.resolver.route(peer);
        let route = route.ok_or_else(|| ClientError::new(peer, ErrorKind::UnknownPeer))?;
        if let Some(name) = &route.expected.name {
            self.check_trusted(name)
                .map_err(|kind| ClientError::new(peer, kind))?;
        }
        Ok(route)
    }

    /// Calls an endpoint, and verifies and decodes what it answers with status 200.
    pub(super) async fn exchange<E: Endpoint>(
        &self,
        peer: &PeerRef,
        request: &E::Request,
        deadline: Instant,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        traced(peer, E::PATH, async {
            let route = self.route(peer)?;
            let fail = |kind| ClientError::new(&route, kind);
            let outgoing = Outgoing::new::<E>(request).map_err(fail)?;
            self.exchange_outgoing::<E>(route, &outgoing, deadline).await
        })
        .await
    }

    pub(super) async fn exchange_outgoing<E: Endpoint>(
        &self,
        route: Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        let route = self.introduced(route, outgoing, deadline).await?;
        let fail = |kind| ClientError::new(&route, kind);
        let reply = self.send(&route, outgoing, deadline).await.map_err(fail)?;
        let security = SecureChannel::security(reply.channel.as_ref());
        let channel_key = reply.channel.as_ref().map(|channel| channel.peer_key);
        let capability = SignedCapability::from_headers(&reply.headers).unwrap_or_default();
        let (rtt, dial, bytes, asked) = (reply.rtt, reply.dial, reply.body.len(), reply.asked);
        let verifying = self.accept::<E>(&route, reply, deadline);
        let (value, verification) = timeout_at(deadline, verifying)
            .await
            .map_err(|_| fail(ErrorKind::Timeout(Stage::Verify)))?
            .map_err(fail)?;
        self.learn_clock(&route, &verification, asked);
        Ok(Answer {
            value,
            verification,
            route,
            rtt,
            dial,
            security,
            channel_key,
            asked,
            bytes,
            capability,
        })
    }

    /// Finds out who is at an address of which nothing is known, so that a request can say for whom it is. Without a
    /// usable answer the request goes out without, as v1 peers send theirs.
    pub(super) async fn introduced(
        &self,
        mut route: Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Route, ClientError> {
        let shared = &self.shared;
        if outgoing.authentication != Authentication::Signed
            || shared.signatures == Signatures::V1Only
            || shared.accept_unverified
            || route.recipient().is_some()
        {
            return Ok(route);
        }
        let fail = |kind| ClientError::new(&route, kind);
        let ping = Outgoing::new::<Ping>(&()).map_err(fail)?;
        let reply = self.send(&route, &ping, deadline).await.map_err(fail)?;
        if reply.status == StatusCode::OK
            && let Ok(introduction) = self.read_introduction(&reply, None)
        {
            if !shared.registry.trust().asks_strangers()
                && self.known_key(&route, &introduction.name).is_none()
            {
                return Err(fail(ErrorKind::UnknownKey {
                    responder: introduction.name,
                    discovery: None,
                }));
            }
            route.introduction = Some(introduction);
        }
        Ok(route)
    }

    /// Sends a request. If the peer asks for a pause that ends before the deadline, and it does no harm, sends it once
    /// more behind it.
    pub(super) async fn send(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Reply, ErrorKind> {
        let reply = self.send_now(route, outgoing, deadline).await?;
        match reply.retry_after {
            Some(pause) if outgoing.idempotent && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                self.send_now(route, outgoing, deadline).await
            }
            _ => Ok(reply),
        }
    }

    /// Sends a request through breaker, limit, retry and pool.
    async fn send_now(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Reply, ErrorKind> {
        let started = Instant::now();
        check_pause(route)?;
        let admission = self
            .shared
            .registry
            .admit(&route.peer)
            .map_err(ErrorKind::CircuitOpen)?;
        let slot = timeout_at(deadline, route.peer.slot()).await;
        let _slot = slot.map_err(|_| ErrorKind::Timeout(Stage::Queue))?;
        // One of those that were before this one may have been told to wait.
        check_pause(route)?;

        let sent = match self.try_send(route, outgoing, deadline, true).await {
            Err(Attempt::Unsent(_)) if outgoing.idempotent => {
                self.try_send(route, outgoing, deadline, false).await
            }
            sent => sent,
        };
        let sent = sent.map_err(|attempt| match attempt {
            Attempt::Unsent(error) => ErrorKind::Broken(error),
            Attempt::Failed(kind) => kind,
        });
        match &sent {
            Ok(_) | Err(ErrorKind::TooLarge(_)) => admission.succeeded(),
            Err(ErrorKind::Dial(_) | ErrorKind::DialTimeout(_)) => admission.failed(Failure::Unreachable),
            Err(ErrorKind::Timeout(_)) if started.elapsed() < PATIENCE => drop(admission),
            // Whoever answered there, it was not the peer.
            Err(ErrorKind::Tls(TlsFailure::OtherKey(_))) => drop(admission),
            Err(_) => admission.failed(Failure::NoAnswer),
        }
        sent.map_err(|kind| self.explain_tls(route, kind))
    }

    /// Where the connections for a call lead, and how they are protected.
    fn target(&self, route: &Route) -> Target {
        let protocol = route.peer.protocol();
        let tls = match self.tls_policy(route) {
            TlsPolicy::Plain => false,
            TlsPolicy::Prefer => protocol.tls,
            TlsPolicy::Require => true,
        };
        let kind = if protocol.raw_public_key {
            CertificateKind::RawPublicKey
        } else {
            CertificateKind::X509
        };
        Target {
            address: route.address,
            tls: tls.then(|| TlsTarget {
                key: route.peer.key(),
                kind,
            }),
        }
    }

    /// What it means that no secure connection came about: a conflict, if it was the key; and the end of all calls, if
    /// it is a peer that could do better.
    fn explain_tls(&self, route: &Route, kind: ErrorKind) -> ErrorKind {
        match kind {
            ErrorKind::Tls(TlsFailure::Handshake(error))
                if route.peer.protocol().tls && self.tls_policy(route) == TlsPolicy::Prefer =>
            {
                ErrorKind::TlsGone(error)
            }
            kind => self.as_conflict(route, kind),
        }
    }

    /// How connections for a call are to be protected.
    fn tls_policy(&self, route: &Route) -> TlsPolicy {
        route.peer.tls().unwrap_or(self.shared.tls)
    }

    /// One try, on a connection of the pool if `pooled` and there is one.
    async fn try_send(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
        pooled: bool,
    ) -> Result<Reply, Attempt> {
        let pool = &self.shared.pool;
        let target = self.target(route);
        let started = Instant::now();
        let (mut connection, dial) = match pool.take(target).filter(|_| pooled) {
            Some(connection) => (connection, None),
            None => {
                let connection = pool.dial(target, deadline).await?;
                (connection, Some(started.elapsed()))
            }
        };
        let sent = Instant::now();
        let asked = Asked::now(&*self.shared.clock);
        let (request, signatures) = self.sign(route, outgoing, connection.channel());
        let exchange = async {
            let answer = connection.send(request).await?;
            let (head, body) = answer.into_parts();
            let limit = if head.status == StatusCode::OK {
                outgoing.max_answer
            } else {
                MAX_ERROR_BODY
            };
            if head.status == StatusCode::OK && body.size_hint().lower() > limit as u64 {
                return Err(Attempt::Failed(ErrorKind::TooLarge(limit)));
            }
            let (body, complete) = read_body(body, limit).await.map_err(ErrorKind::Broken)?;
            if head.status == StatusCode::OK && !complete {
                return Err(ErrorKind::TooLarge(limit).into());
            }
            Ok(Reply {
                asked: asked.answered(&*self.shared.clock),
                retry_after: self.note_pause(route, head.status, &head.headers),
                status: head.status,
                headers: head.headers,
                body,
                sent: signatures,
                complete,
                rtt: sent.elapsed(),
                dial,
                channel: connection.channel().cloned(),
            })
        };
        match timeout_at(deadline, exchange).await {
            Ok(reply) => {
                let reply = reply?;
                if reply.complete {
                    pool.give_back(target, connection);
                }
                Ok(reply)
            }
            Err(_) => {
                // The connection of this request closes because it is dropped with the request on it.
                pool.evict(route.address, sent);
                Err(ErrorKind::Timeout(Stage::Answer).into())
            }
        }
    }

    /// Sends a request whose answer has no end, on a connection of its own: the deadline is for its head.
    pub(super) async fn open(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<OpenAnswer, ErrorKind> {
        let registry = &self.shared.registry;
        check_pause(route)?;
        let admission = registry.admit(&route.peer).map_err(ErrorKind::CircuitOpen)?;
        let opening = async {
            let mut connection = self.shared.pool.dial(self.target(route), deadline).await?;
            let (request, signatures) = self.sign(route, outgoing, connection.channel());
            let sending = timeout_at(deadline, connection.send(request)).await;
            let answer = sending.map_err(|_| ErrorKind::Timeout(Stage::Answer))?;
            let (head, body) = answer.map_err(SendError::into_inner)?.into_parts();
            Ok((connection, signatures, head, body))
        };
        let opened = opening.await;
        match &opened {
            Ok(_) => admission.succeeded(),
            Err(ErrorKind::Dial(_) | ErrorKind::DialTimeout(_)) => admission.failed(Failure::Unreachable),
            Err(ErrorKind::Tls(TlsFailure::OtherKey(_))) => drop(admission),
            Err(_) => admission.failed(Failure::NoAnswer),
        }
        let (connection, sent, head, body) = opened.map_err(|kind| self.explain_tls(route, kind))?;
        if head.status != StatusCode::OK {
            let reading = timeout_at(deadline, read_body(body, MAX_ERROR_BODY)).await;
            let read = reading.map_err(|_| ErrorKind::Timeout(Stage::Answer))?;
            let (body, complete) = read.map_err(ErrorKind::Broken)?;
            let reply = Reply {
                asked: Asked::now(&*self.shared.clock),
                retry_after: self.note_pause(route, head.status, &head.headers),
                status: head.status,
                headers: head.headers,
                body,
                sent,
                complete,
                rtt: Duration::ZERO,
                dial: None,
                channel: connection.channel().cloned(),
            };
            return Err(self.refused(route, reply));
        }
        Ok(OpenAnswer {
            headers: head.headers,
            body,
            sent,
            connection,
        })
    }

    /// An answer to a call as an error, because its status is not 200.
    pub(super) fn status_error(&self, route: &Route, reply: Reply, verified: bool) -> ErrorKind {
        let (headers, asked) = (reply.headers.clone(), reply.asked);
        self.explain_clocks(route, reply.into_status_error(verified), &headers, asked)
    }

    /// Notes that a peer asks for a pause, if it does.
    fn note_pause(&self, route: &Route, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let pause = asked_to_wait(status, headers, self.shared.clock.now_millis())?;
        tracing::info!(peer = %route, ?pause, status = status.as_u16(), "the peer asked us to wait");
        route.peer.defer(pause);
        Some(pause)
    }
}

/// Why a try failed.
enum Attempt {
    Failed(ErrorKind),
    Unsent(hyper::Error),
}

impl From<ErrorKind> for Attempt {
    fn from(kind: ErrorKind) -> Self {
        Self::Failed(kind)
    }
}

impl From<SendError> for Attempt {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Broken(error) => Self::Failed(ErrorKind::Broken(error)),
            SendError::Unsent(error) => Self::Unsent(error),
        }
    }
}

impl Reply {
    /// This answer as an error, because its status is not 200.
    pub(super) fn into_status_error(self, verified: bool) -> ErrorKind {
        let answer = StatusAnswer {
            status: self.status,
            text: String::from_utf8_lossy(&self.body).into_owned(),
            verified: verified && self.complete,
        };
        match self.retry_after {
            Some(retry_after) => ErrorKind::AskedToWait(AskedToWait {
                retry_after,
                answer: Some(answer),
            }),
            None => ErrorKind::Status(answer),
        }
    }
}

/// Whether a peer may be called, or has asked for a pause.
fn check_pause(route: &Route) -> Result<(), ErrorKind> {
    route.peer.retry_after().map_or(Ok(()), |retry_after| {
        Err(ErrorKind::AskedToWait(AskedToWait {
            retry_after,
            answer: None,
        }))
    })
}
