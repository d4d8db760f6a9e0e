//! One request and its answer: resolve, introduce, send, verify, learn.
//!
//! [`Exchange`] owns what a call needs; a call passes through it from top to bottom:
//!
//! ```text
//! Resolver         where is the peer, and who is expected there?
//! AnswerVerifier   is it trusted? who is it, if nothing is known?
//! Caller           pauses, breaker, slots, retry, pool, dial, sign, send
//! AnswerVerifier   who answered, and is it proven?
//! PeerClocks       what does the answer teach about the clock of the peer?
//! ```

use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::StatusCode;
use nara_proto::endpoint::{Authentication, Endpoint, PATHS};
use nara_proto::identity::PublicKey;
use nara_proto::v2::SignedCapability;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::caller::{Caller, Limit};
use super::clocks::{Asked, PeerClocks};
use super::deadline::deadline_after;
use super::error::{ClientError, Problem, Stage};
use super::event_check::EventChecker;
use super::own_journeys::OwnJourneys;
use super::replies::PendingReplies;
use super::reply::{OpenReply, Reply};
use super::request::Outgoing;
use super::resolve::{InvalidPeerRef, PeerRef, Resolver, Route};
use super::verified::Verification;
use super::verifier::{AnswerVerifier, Decode};
use crate::clock::with_sleep;
use crate::erased::{Erased, typed};
use crate::identity::LocalNara;
use crate::metrics::{self, Series};
use crate::offload::promptly;
use crate::registry::{KnownKeys, PeerRegistry};
use crate::tls::{SecureChannel, Security};

/// The shared state of the calls of one nara.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) local: LocalNara,
    pub(super) registry: PeerRegistry,
    pub(super) resolver: Resolver,
    pub(super) caller: Arc<Caller>,
    pub(super) verifier: AnswerVerifier,
    pub(super) clocks: Arc<PeerClocks>,
    /// Runtime messages that await their replies.
    pub(super) replies: PendingReplies,
    pub(super) journeys: OwnJourneys,
}

/// The decoded answer of an endpoint, with its verification and arrival.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) verification: Verification,
    pub(super) route: Route,
    pub(super) arrival: Arrival,
}

impl Answer<Erased> {
    fn typed<T: 'static>(self) -> Answer<T> {
        Answer {
            value: typed(self.value),
            verification: self.verification,
            route: self.route,
            arrival: self.arrival,
        }
    }
}

/// What a call takes from its [`Endpoint`].
struct Called {
    path: &'static str,
    signed: bool,
    decode: Decode,
}

impl Called {
    const fn at<E: Endpoint>() -> Self
    where
        E::Response: 'static,
    {
        Self {
            path: E::PATH,
            signed: matches!(E::AUTHENTICATION, Authentication::Signed),
            decode: |body| E::decode(body).map(|response| Box::new(response) as Erased),
        }
    }
}

/// How an answer arrived.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) rtt: Duration,
    pub(super) dial: Option<Duration>,
    /// How the connection was protected.
    pub(super) security: Security,
    /// The key that the other end of the connection has proven to hold.
    pub(super) channel_key: Option<PublicKey>,
    /// The interval, by our clock, in which it was made.
    pub(super) asked: Asked,
    /// When it was complete.
    pub(super) at: std::time::Instant,
    /// The size of the body.
    pub(super) bytes: usize,
    /// The capability that the peer claims, not yet verified; only for unsigned answers.
    pub(super) capability: Option<Box<SignedCapability>>,
}

impl Arrival {
    fn of(reply: &Reply, signed: bool) -> Self {
        // Signed answers carry no capability.
        let capability = || SignedCapability::from_headers(&reply.head.headers).unwrap_or_default();
        Self {
            rtt: reply.rtt,
            dial: reply.dial,
            security: SecureChannel::security(reply.head.channel.as_ref()),
            channel_key: reply.head.channel.as_ref().map(|channel| channel.peer_key),
            asked: reply.head.asked,
            at: with_sleep(reply.at),
            bytes: reply.body.len(),
            capability: if signed { None } else { capability().map(Box::new) },
        }
    }
}

/// The peer of a call, as the caller named it.
#[derive(Clone, Debug)]
pub(super) struct Callee(pub(super) Result<PeerRef, InvalidPeerRef>);

impl std::fmt::Display for Callee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Ok(peer) => peer.fmt(f),
            Err(invalid) => invalid.text.escape_default().fmt(f),
        }
    }
}

/// Traces a call: peer, endpoint, outcome and duration; never signatures, bodies or keys.
pub(super) async fn traced<T>(
    peer: &Callee,
    endpoint: &'static str,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let started = Instant::now();
    let span = tracing::debug_span!("call", %peer, endpoint);
    let outcome = call.instrument(span.clone()).await;
    let name = outcome
        .as_ref()
        .map_or_else(|error| error.kind().as_str(), |_| "ok");
    let took = started.elapsed();
    tracing::debug!(parent: &span, outcome = name, duration_us = took.as_micros());
    let is_written = match SERIES.iter().find(|(known, _)| *known == endpoint) {
        Some((_, series)) => series.write(took, name),
        None => {
            ::metrics::histogram!(metrics::CALL_SECONDS, "endpoint" => endpoint).record(took);
            false
        }
    };
    if !is_written {
        ::metrics::counter!(metrics::CALLS, "endpoint" => endpoint, "outcome" => name).increment(1);
    }
    outcome
}

/// The metrics of successful calls, by endpoint.
static SERIES: LazyLock<[(&str, Series<1>); PATHS.len()]> = LazyLock::new(|| {
    let succeeded = ("outcome", ["ok"]);
    PATHS.map(|path| {
        (
            path,
            Series::new(path, metrics::CALL_SECONDS, metrics::CALLS, succeeded),
        )
    })
});

impl Exchange {
    /// Calls an endpoint, and verifies and decodes an answer with status 200.
    pub(super) async fn call<E: Endpoint>(
        &self,
        peer: &Callee,
        request: &E::Request,
        deadline: Instant,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        self.call_with::<E>(peer, request, deadline, None).await
    }

    /// Like [`Exchange::call`], for answers with many events. `limit` is the time limit until the answer begins and
    /// for each pause in it; while its bytes keep arriving, it may take [`SLOW_ANSWER`](crate::defaults::SLOW_ANSWER)
    /// longer.
    pub(super) async fn call_for_events<E: Endpoint>(
        &self,
        peer: &Callee,
        request: &E::Request,
        limit: Duration,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        self.call_with::<E>(peer, request, deadline_after(limit), Some(limit))
            .await
    }

    async fn call_with<E: Endpoint>(
        &self,
        peer: &Callee,
        request: &E::Request,
        deadline: Instant,
        patience: Option<Duration>,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        let outgoing = || Outgoing::new::<E>(request);
        let answer = self
            .call_erased(peer, &Called::at::<E>(), &outgoing, deadline, patience)
            .await?;
        Ok(answer.typed())
    }

    async fn call_erased(
        &self,
        peer: &Callee,
        called: &Called,
        outgoing: &(dyn Fn() -> Result<Outgoing, Problem> + Sync),
        deadline: Instant,
        patience: Option<Duration>,
    ) -> Result<Answer<Erased>, ClientError> {
        let call = pin!(async {
            let route = self.route(peer)?;
            let mut outgoing = outgoing().map_err(|problem| ClientError::new(&route, problem))?;
            outgoing.patience = patience;
            self.call_on_erased(called, route, &outgoing, deadline).await
        });
        traced(peer, called.path, call).await
    }

    /// Like [`Exchange::call`], for a prepared request.
    pub(super) async fn call_on<E: Endpoint>(
        &self,
        route: Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        let answer = self
            .call_on_erased(&Called::at::<E>(), route, outgoing, deadline)
            .await?;
        Ok(answer.typed())
    }

    async fn call_on_erased(
        &self,
        called: &Called,
        mut route: Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer<Erased>, ClientError> {
        match self.call_route(called, &mut route, outgoing, deadline).await {
            Ok((value, verification, arrival)) => Ok(Answer {
                value,
                verification,
                route,
                arrival,
            }),
            Err(problem) => {
                route.peer.proved_nothing();
                Err(ClientError::new(&route, problem))
            }
        }
    }

    async fn call_route(
        &self,
        &Called { signed, decode, .. }: &Called,
        route: &mut Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<(Erased, Verification, Arrival), Problem> {
        if signed {
            self.verifier.introduce(route, deadline).await?;
        }
        let reply = self.send(route, outgoing, deadline).await?;
        // A slow body leaves as much time to verify it as a fast one.
        let deadline = outgoing
            .patience
            .map_or(deadline, |limit| deadline.max(deadline_after(limit)));
        let called = reply.head.address;
        route.answered_at(called);
        let arrival = Arrival::of(&reply, signed);
        let verified = match (reply.head.status, signed) {
            (StatusCode::OK, true) => {
                let verifying = pin!(self.verifier.verify(route, reply, deadline, decode));
                promptly(verifying, || deadline).await
            }
            (StatusCode::OK, false) => {
                let decoding = pin!(self.verifier.decode_open(reply, decode));
                promptly(decoding, || deadline).await
            }
            (_, true) => return Err(self.verifier.refused(route, reply)),
            (_, false) => return Err(self.verifier.status_problem(route, reply, false)),
        };
        let (value, verification) = verified.map_err(|_| Problem::Timeout(Stage::Verify))??;
        if verification.responder.is_some() && verification.key.is_some() {
            // Only now: an unverified answer on the other port may come from another program.
            self.registry.note_port(&route.peer, route.address.port());
        }
        let Arrival { asked, at, .. } = arrival;
        self.clocks
            .learn(&route.peer, &verification, asked, called.ip(), at);
        Ok((value, verification, arrival))
    }

    /// Returns the route to a peer that may be called.
    pub(super) fn route(&self, peer: &Callee) -> Result<Route, ClientError> {
        let find = || {
            let known = peer
                .0
                .as_ref()
                .map_err(|invalid| Problem::InvalidPeer(invalid.clone()))?;
            let route = self.resolver.route(known).ok_or_else(|| match known {
                PeerRef::Name(name) if name == self.local.name() => Problem::OwnNara,
                PeerRef::Id(id) if id == self.local.id() => Problem::OwnNara,
                _ => Problem::UnknownPeer,
            })?;
            if let Some(name) = &route.expected.name {
                self.verifier.check_trusted(name, &route.peer)?;
            }
            Ok(route)
        };
        find().map_err(|problem: Problem| ClientError::new(peer, problem))
    }

    /// Sends a request, and reports to the registry if the other end holds a key other than the pinned one.
    pub(super) async fn send(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Reply, Problem> {
        if outgoing.authentication == Authentication::Signed {
            self.verifier.ask_for_handshake(route, deadline).await;
        }
        let sent = self.caller.send(route, outgoing, deadline).await;
        sent.map_err(|problem| self.verifier.explain_other_key(route, problem))
    }

    /// Sends a request whose answer has no end; a status other than 200 is an error. The answer is not verified.
    pub(super) async fn open(
        &self,
        route: &mut Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<OpenReply, Problem> {
        self.verifier.introduce(route, deadline).await?;
        let opened = self.caller.open_apart(route, outgoing, deadline).await;
        let open = opened.map_err(|problem| self.verifier.explain_other_key(route, problem))?;
        route.answered_at(open.head.address);
        if open.head.status == StatusCode::OK {
            return Ok(open);
        }
        let reply = self.caller.read(open, Limit::Refusal, deadline).await?;
        Err(self.verifier.refused(route, reply))
    }

    /// Returns the verifier of events.
    pub(super) fn event_checker(&self) -> EventChecker {
        EventChecker {
            keys: self.known_keys(),
            clocks: self.clocks.clone(),
        }
    }

    pub(super) fn known_keys(&self) -> KnownKeys {
        KnownKeys::new(self.local.clone(), self.registry.clone())
    }
}
