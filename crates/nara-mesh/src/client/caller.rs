//! Sends a request to a peer and receives the answer, without verifying it.
//!
//! A request passes these stages, outermost first:
//!
//! 1. pauses that the peer asked for: it is not called until they end;
//! 2. circuit breaker: before the in-flight limit, so that a call to a peer that is down fails at once;
//! 3. in-flight limit per peer: a retry keeps its slot;
//! 4. one retry on a new connection, if a pooled one has broken and the request is idempotent;
//! 5. pool, then [`Transport::dial`](crate::transport::Transport::dial);
//! 6. signing: inside the retry and after the dial, so that each attempt has its own signature, bound to its
//!    connection.
//!
//! One deadline covers all stages. The [verifier](super::verifier) decides whether to trust the answer: a wrong
//! signature does not make a peer unreachable.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use nara_proto::breaker::Failure;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::clocks::{Asked, PeerClocks};
use super::deadline::{BodyTime, deadline_after};
use super::error::{Problem, Stage};
use super::pool::{Connection, Pool, Target, TlsTarget, read_body};
use super::refusal::{AskedToWait, Asking};
use super::reply::{OpenReply, Reply, ReplyHead};
use super::request::{Outgoing, RequestBody, StreamedBody};
use super::resolve::Route;
use super::retry_after::asked_to_wait;
use super::sign::{RequestSigner, SentSignatures};
use crate::clock::monotonic_now;
use crate::registry::PeerRegistry;
use crate::tls::{CertificateKind, TlsPolicy};

/// Maximum number of bytes read of an answer with a status other than 200.
const MAX_ERROR_BODY: usize = 4 << 10;

/// A call cancelled sooner than this says more about the caller than about the peer, and does not count for the
/// breaker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends requests to peers. Handles connections, not trust in keys.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) registry: PeerRegistry,
    pub(super) pool: Pool,
    pub(super) signer: RequestSigner,
    pub(super) clocks: Arc<PeerClocks>,
    pub(super) tls: TlsPolicy,
}

/// Source of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    /// The pool, if it has an idle connection.
    Pool,
    Dial,
}

/// A connection about to carry a request.
struct Line {
    connection: Box<Connection>,
    target: Target,
    /// Duration of the dial, if the connection is new.
    dial: Option<Duration>,
    since: Instant,
    asked: Asked,
}

/// How much of an answer to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// All of it; a larger answer is an error.
    Whole(usize),
    /// Only the part of a refusal that is shown.
    Refusal,
}

/// A failed attempt.
struct Attempt {
    problem: Problem,
    /// Whether a pooled connection had broken.
    stale: bool,
}

impl Attempt {
    fn failed(problem: Problem, reused: bool) -> Self {
        Self {
            stale: reused && matches!(problem, Problem::Broken(_)),
            problem,
        }
    }

    fn into_problem(self) -> Problem {
        match self.problem {
            Problem::Broken(error) if self.stale => Problem::Stale(error),
            problem => problem,
        }
    }
}

impl Caller {
    /// Sends a request and reads the whole answer. If the peer asks for a pause that ends before the deadline,
    /// and the request is idempotent, sends it again after the pause.
    ///
    /// Boxed, so that the code below is compiled here and not again in each crate that awaits a call.
    pub(super) fn send<'a>(
        &'a self,
        route: &'a Route,
        outgoing: &'a Outgoing,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Problem>> {
        Box::pin(self.send_patiently(route, outgoing, deadline))
    }

    async fn send_patiently(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Reply, Problem> {
        let reply = self.send_now(route, outgoing, deadline).await?;
        let is_unsigned = note_unsigned(route, &reply.head);
        if is_unsigned || reply.head.retry_after.is_some() {
            return Box::pin(self.send_again(route, outgoing, deadline, reply, is_unsigned)).await;
        }
        Ok(reply)
    }

    /// Continues [`Caller::send`] after an answer that asks for a signature or a pause.
    async fn send_again(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
        mut reply: Reply,
        is_unsigned: bool,
    ) -> Result<Reply, Problem> {
        if is_unsigned {
            reply = self.send_now(route, outgoing, deadline).await?;
        }
        match reply.head.retry_after {
            Some(pause) if outgoing.idempotent && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                self.send_now(route, outgoing, deadline).await
            }
            _ => Ok(reply),
        }
    }

    async fn send_now(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
    ) -> Result<Reply, Problem> {
        let sending = pin!(self.retried(route, outgoing, |via| {
            self.send_once(route, outgoing, deadline, via)
        }));
        self.admitted(route, deadline, sending).await
    }

    /// Makes one attempt, up to the end of the answer.
    async fn send_once(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
        via: Via,
    ) -> Result<Reply, Attempt> {
        let open = self.open_once(route, outgoing, deadline, via).await?;
        let limit = match open.head.status {
            StatusCode::OK => Limit::Whole(outgoing.max_answer),
            _ if outgoing.any_status && open.head.claims_proof() => Limit::Whole(outgoing.max_answer),
            _ => Limit::Refusal,
        };
        let reused = open.reused;
        let time = BodyTime {
            deadline,
            patience: outgoing.patience,
        };
        let read = self.read(open, limit, time).await;
        read.map_err(|problem| Attempt::failed(problem, reused))
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) fn open<'a>(
        &'a self,
        route: &'a Route,
        outgoing: &'a Outgoing,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenReply, Problem>> {
        let open_now = move || {
            self.admitted(
                route,
                deadline,
                self.retried(route, outgoing, move |via| {
                    self.open_once(route, outgoing, deadline, via)
                }),
            )
        };
        Box::pin(async move {
            let open = open_now().await?;
            if !note_unsigned(route, &open.head) {
                return Ok(open);
            }
            open_now().await
        })
    }

    /// Like [`Caller::open`], on a dedicated connection: for answers without end.
    pub(super) fn open_apart<'a>(
        &'a self,
        route: &'a Route,
        outgoing: &'a Outgoing,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenReply, Problem>> {
        let opening = async move {
            let opened = self.open_once(route, outgoing, deadline, Via::Dial).await;
            opened.map_err(Attempt::into_problem)
        };
        Box::pin(self.admitted(route, deadline, opening))
    }

    /// Sends a request with a streamed body, on a dedicated connection that authenticates every byte. The limit
    /// restarts with each chunk of the body.
    pub(super) fn open_streamed<'a>(
        &'a self,
        route: &'a Route,
        outgoing: &'a Outgoing,
        body: StreamedBody,
        limit: Duration,
    ) -> BoxFuture<'a, Result<OpenReply, Problem>> {
        let deadline = deadline_after(limit);
        let opening = async move {
            let mut line = self.line(route, deadline, Via::Dial).await?;
            let channel = line.connection.channel();
            let (Some(key), true) = (
                channel.map(|channel| channel.peer_key),
                self.signer.trusts(route, channel),
            ) else {
                return Err(Problem::NotStreamable);
            };
            let name = route.peer.info().name.ok_or(Problem::NotStreamable)?;
            let lease = || self.registry.lease(&name, &key);
            let (request, signatures) = self.signer.sign(route, outgoing, true, &line.connection);
            let (progress, moved) = watch::channel(line.since);
            let request = request.map(|()| RequestBody::Streamed {
                body,
                progress,
                key_end: lease().into(),
            });
            let answer = {
                let mut sending = pin!(line.connection.send(request));
                loop {
                    let last = *moved.borrow();
                    tokio::select! {
                        answer = &mut sending => match answer {
                            Ok(answer) => break answer,
                            Err(_) if !lease().is_valid() => return Err(Problem::KeyReplaced),
                            Err(problem) => return Err(problem),
                        },
                        () = sleep_until(last + limit) => if *moved.borrow() == last {
                            return Err(Problem::Timeout(Stage::Answer));
                        },
                    }
                }
            };
            Ok(self.opened(route, outgoing, line, signatures, answer))
        };
        Box::pin(self.admitted(route, deadline, opening))
    }

    /// Reads the body of an answer.
    pub(super) fn read(
        &self,
        open: OpenReply,
        limit: Limit,
        time: impl Into<BodyTime>,
    ) -> impl Future<Output = Result<Reply, Problem>> {
        let OpenReply {
            head,
            body,
            lease,
            address,
            since,
            dial,
            ..
        } = open;
        let time = time.into();
        async move {
            let bytes = match limit {
                Limit::Whole(bytes) if body.size_hint().lower() > bytes as u64 => {
                    return Err(Problem::TooLarge(bytes));
                }
                Limit::Whole(bytes) => bytes,
                Limit::Refusal => MAX_ERROR_BODY,
            };
            let read = read_body(body, bytes, time).await;
            if let Err(Problem::Timeout(_)) = read {
                // The connection of this request closes when the request is dropped.
                self.pool.evict(address, since);
            }
            let (body, complete) = read?;
            let at = Instant::now();
            if complete {
                lease.give_back(at);
            } else if limit != Limit::Refusal {
                return Err(Problem::TooLarge(bytes));
            }
            Ok(Reply {
                head,
                body,
                complete,
                at,
                rtt: at - since,
                dial,
            })
        }
    }

    /// Makes a call subject to pauses, circuit breaker and in-flight limit, and reports the outcome to the
    /// breaker.
    async fn admitted<T>(
        &self,
        route: &Route,
        deadline: Instant,
        call: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        check_pause(route)?;
        let admission = self.registry.admit(&route.peer).map_err(Problem::CircuitOpen)?;
        let _slot = match route.peer.free_slot() {
            Some(slot) => slot,
            None => Box::pin(timeout_at(deadline, route.peer.slot()))
                .await
                .map_err(|_| Problem::Timeout(Stage::Queue))?,
        };
        // An earlier call may have been told to wait while this one was queued.
        check_pause(route)?;
        let called = call.await;
        match &called {
            Ok(_) | Err(Problem::TooLarge(_)) => admission.succeeded(),
            Err(Problem::Dial(_) | Problem::DialTimeout(_)) => admission.failed(Failure::Unreachable),
            Err(Problem::Timeout(_)) if monotonic_now() - admission.began() < PATIENCE => drop(admission),
            // It answered, and the line may be slow; but a peer that drips proves nothing.
            Err(Problem::Timeout(Stage::Slow)) => drop(admission),
            // Not the peer's fault: another nara answered, or an unauthenticated refusal asked us to wait.
            Err(Problem::OtherKey(_) | Problem::AskedToWait(_) | Problem::KeyReplaced) => drop(admission),
            // A broken pooled connection tells the past state of the peer, not the current one.
            Err(Problem::Stale(_)) => drop(admission),
            Err(_) => admission.failed(Failure::NoAnswer),
        }
        called.map_err(|problem| self.explain_handshake(route, problem))
    }

    /// Tries a pooled connection and, where safe, retries once on a new one.
    async fn retried<T, F>(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        attempt: impl Fn(Via) -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Attempt>>,
    {
        match attempt(Via::Pool).await {
            Err(failed) if self.may_retry(route, outgoing, &failed) => attempt(Via::Dial).await,
            tried => tried,
        }
        .map_err(Attempt::into_problem)
    }

    /// Returns whether a request is retried on a new connection: it is idempotent, and a pooled connection had
    /// broken. The other connections to this address have probably broken as well, and are closed.
    fn may_retry(&self, route: &Route, outgoing: &Outgoing, failed: &Attempt) -> bool {
        if failed.stale {
            self.pool.evict(route.address, Instant::now());
            if let Some(alternative) = route.alternative {
                self.pool.evict(alternative, Instant::now());
            }
        }
        failed.stale && outgoing.idempotent
    }

    /// Makes one attempt, up to the head of the answer.
    async fn open_once(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        deadline: Instant,
        via: Via,
    ) -> Result<OpenReply, Attempt> {
        let line = self.line(route, deadline, via).await;
        let mut line = line.map_err(|problem| Attempt::failed(problem, false))?;
        let reused = line.connection.is_reused();
        let (sending, signatures) = self.sending(route, outgoing, &mut line.connection);
        let sending = pin!(sending);
        match timeout_at(deadline, sending).await {
            Ok(Ok(answer)) => Ok(self.opened(route, outgoing, line, signatures, answer)),
            Ok(Err(problem)) => Err(Attempt::failed(problem, reused)),
            Err(_) => {
                self.pool.evict(line.target.address, line.since);
                Err(Attempt::failed(Problem::Timeout(Stage::Answer), reused))
            }
        }
    }

    /// Signs and sends a request. The returned future waits for the head of the answer.
    fn sending(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        connection: &mut Connection,
    ) -> (
        impl Future<Output = Result<Response<Incoming>, Problem>> + Send + use<>,
        SentSignatures,
    ) {
        let (request, signatures) = self.signer.sign(route, outgoing, false, connection);
        let body = outgoing.body.clone().map(Full::new).unwrap_or_default();
        let sending = connection.send(request.map(|()| RequestBody::Whole(body)));
        (sending, signatures)
    }

    /// Returns a connection for a call.
    async fn line(&self, route: &Route, deadline: Instant, via: Via) -> Result<Line, Problem> {
        let target = self.target(route);
        let alternative = route.alternative.map(|address| Target { address, ..target });
        let now = Instant::now();
        let idle = |target| {
            let taken = self.pool.take(target, now);
            taken.map(|connection| (connection, target))
        };
        let pooled = match via {
            Via::Pool => idle(target).or_else(|| alternative.and_then(idle)),
            Via::Dial => None,
        };
        let (connection, target, dial, since) = match pooled {
            Some((connection, target)) => (connection, target, None, now),
            // Boxed: the state of dialling and TLS is large and would become part of every call.
            None => Box::pin(self.dialled(route, target, alternative, deadline)).await?,
        };
        Ok(Line {
            connection,
            target,
            dial,
            since,
            asked: Asked::now(self.clocks.clock()),
        })
    }

    /// Dials a new connection. Returns it with its target, the duration of the dial, and its end.
    async fn dialled(
        &self,
        route: &Route,
        target: Target,
        alternative: Option<Target>,
        deadline: Instant,
    ) -> Result<(Box<Connection>, Target, Option<Duration>, Instant), Problem> {
        let started = Instant::now();
        let (mut connection, target) = match alternative {
            None => (self.pool.dial(target, deadline).await?, target),
            Some(alternative) => self.pool.dial_either([target, alternative], deadline).await?,
        };
        let now = Instant::now();
        let known = route.peer.info();
        let known = known.name.zip(known.key);
        connection.open_on(known.map(|(name, pinned)| self.registry.lease(&name, &pinned.key)));
        Ok((connection, target, Some(now - started), now))
    }

    fn opened(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        line: Line,
        signatures: SentSignatures,
        answer: Response<Incoming>,
    ) -> OpenReply {
        let (parts, body) = answer.into_parts();
        let address = line.target.address;
        let mut head = Box::new(ReplyHead {
            address,
            status: parts.status,
            headers: parts.headers,
            asked: line.asked.answered(self.clocks.clock()),
            retry_after: None,
            sent: signatures,
            channel: line.connection.channel().cloned(),
        });
        if !(outgoing.any_status && head.claims_proof()) {
            head.retry_after = self.note_pause(route, &head);
        }
        OpenReply {
            head,
            body,
            reused: line.connection.is_reused(),
            lease: self.pool.lease(line.target, line.connection),
            address,
            since: line.since,
            dial: line.dial,
        }
    }

    /// Returns address and protection of the connections for a call.
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

    /// Returns the TLS policy for a call.
    fn tls_policy(&self, route: &Route) -> TlsPolicy {
        route.peer.tls().unwrap_or(self.tls)
    }

    /// Returns a failed handshake with a peer that has proven TLS: there is no fallback to plain connections.
    fn explain_handshake(&self, route: &Route, problem: Problem) -> Problem {
        match problem {
            Problem::Handshake(error)
                if route.peer.protocol().tls && self.tls_policy(route) == TlsPolicy::Prefer =>
            {
                Problem::TlsGone(error)
            }
            problem => problem,
        }
    }

    /// Returns whether a request body can be streamed to a peer: the connection must authenticate every byte.
    pub(super) fn may_stream(&self, route: &Route) -> bool {
        self.target(route).tls.is_some() && self.signer.will_trust(route)
    }

    /// Returns whether this nara may omit signatures in requests to a peer, if the peer agrees.
    pub(super) fn may_leave_out_signatures(&self, route: &Route) -> bool {
        self.signer.prefers_handshake() && self.may_stream(route)
    }

    /// Records that a peer asks for a pause, if it does.
    fn note_pause(&self, route: &Route, head: &ReplyHead) -> Option<Duration> {
        let now = || self.clocks.clock().now_millis();
        let pause = asked_to_wait(head.status, &head.headers, now)?;
        tracing::info!(peer = %route, ?pause, status = head.status.as_u16(), "the peer asked us to wait");
        route.peer.defer(pause);
        Some(pause)
    }
}

/// Records that a peer refused a request because it has no signature, so that further requests are signed.
/// Returns whether it did.
///
/// Such a peer no longer accepts the handshake as proof, or does not know our key. It did not process the
/// request, so the request is sent again. The 401 of a handler is recognizable: it claims proof, as all answers
/// of handlers do.
fn note_unsigned(route: &Route, head: &ReplyHead) -> bool {
    let refused = head.status == StatusCode::UNAUTHORIZED
        && head.sent.are_replaced_by_the_handshake()
        && !head.claims_proof();
    if refused {
        route.peer.note_handshake(false);
    }
    refused
}

/// Fails if a peer has asked for a pause that is not over.
fn check_pause(route: &Route) -> Result<(), Problem> {
    route.peer.retry_after().map_or(Ok(()), |retry_after| {
        Err(Problem::AskedToWait(AskedToWait {
            retry_after,
            how: Asking::Before,
        }))
    })
}
