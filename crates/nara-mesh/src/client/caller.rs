//! Gets a request to a peer and its answer back, whoever it is that answers.
//!
//! A request passes these positions, outermost first:
//!
//! 1. pauses that the peer asked for: until they are over, it is not called;
//! 2. circuit breaker: outside the limit of calls in flight, so that a call to a peer that is down fails at once;
//! 3. limit of calls in flight to one peer: what is retried keeps its place;
//! 4. one more try on a new connection, if one of the pool has broken and the request may be repeated;
//! 5. pool, then [`Transport::dial`](crate::transport::Transport::dial);
//! 6. signing: inside the retry and behind the dial, so that each try has a signature of its own, for its connection.
//!
//! All of them wait until one deadline at most. Whether the answer is believed is up to the
//! [verifier](super::verifier): a wrong signature does not make a peer unreachable.

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
use super::deadline::deadline_after;
use super::error::{Problem, Stage};
use super::pool::{Connection, Pool, Target, TlsTarget, read_body};
use super::refusal::{AskedToWait, Asking};
use super::reply::{OpenReply, Reply, ReplyHead};
use super::request::{Outgoing, RequestBody, StreamedBody};
use super::resolve::Route;
use super::retry_after::asked_to_wait;
use super::sign::{RequestSigner, SentSignatures};
use crate::clock::monotonic_now;
use crate::offload::promptly;
use crate::registry::PeerRegistry;
use crate::tls::{CertificateKind, TlsPolicy};

/// The most bytes that are read of an answer with another status than 200.
const MAX_ERROR_BODY: usize = 4 << 10;

/// A call that was given up sooner than this tells more about the caller than about the peer, and does not
/// count for its breaker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends requests to peers. It knows connections, and nothing of keys that are believed.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) registry: PeerRegistry,
    pub(super) pool: Pool,
    pub(super) signer: RequestSigner,
    pub(super) clocks: Arc<PeerClocks>,
    pub(super) tls: TlsPolicy,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    /// The pool, if it has one.
    Pool,
    Dial,
}

/// A connection on which a request is about to go out.
struct Line {
    connection: Box<Connection>,
    target: Target,
    /// How long it took to dial.
    dial: Option<Duration>,
    since: Instant,
    asked: Asked,
}

/// How much of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// All of it; an answer with more bytes is an error.
    Whole(usize),
    /// What is shown of a refusal.
    Refusal,
}

/// A try that failed.
struct Attempt {
    problem: Problem,
    /// Whether it failed because a connection of the pool had broken.
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
    /// Sends a request and reads the whole answer. If the peer asks for a pause that ends before the deadline, and it
    /// does no harm, sends it once more behind it.
    ///
    /// Boxed, so that all below it is compiled here and not again in each crate that awaits a call.
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

    /// As [`Caller::send`], after an answer that asks for a signature or for a pause.
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

    /// One try, to the end of the answer.
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
        let read = self.read(open, limit, deadline).await;
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

    /// As [`Caller::open`], on a connection of its own: for an answer that may have no end.
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

    /// Sends a request while its body is made, on a connection of its own that proves every byte. The limit begins anew
    /// with each piece of the body.
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

    /// Reads an answer.
    pub(super) fn read(
        &self,
        open: OpenReply,
        limit: Limit,
        deadline: Instant,
    ) -> impl Future<Output = Result<Reply, Problem>> {
        let OpenReply {
            mut head,
            body,
            lease,
            address,
            since,
            dial,
            ..
        } = open;
        async move {
            let bytes = match limit {
                Limit::Whole(bytes) if body.size_hint().lower() > bytes as u64 => {
                    return Err(Problem::TooLarge(bytes));
                }
                Limit::Whole(bytes) => bytes,
                Limit::Refusal => MAX_ERROR_BODY,
            };
            let reading = pin!(read_body(body, bytes));
            let Ok(read) = promptly(reading, || deadline).await else {
                // The connection of this request closes because it is dropped with the request on it.
                self.pool.evict(address, since);
                return Err(Problem::Timeout(Stage::Answer));
            };
            let (body, complete) = read?;
            let at = Instant::now();
            if complete {
                lease.give_back(at);
            } else if limit != Limit::Refusal {
                return Err(Problem::TooLarge(bytes));
            }
            head.asked = head.asked.answered(self.clocks.clock());
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

    /// Makes a call within pauses, circuit breaker and the limit of calls in flight, and tells the breaker how it went.
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
        // One of the calls before this one may have been told to wait.
        check_pause(route)?;
        let called = call.await;
        match &called {
            Ok(_) | Err(Problem::TooLarge(_)) => admission.succeeded(),
            Err(Problem::Dial(_) | Problem::DialTimeout(_)) => admission.failed(Failure::Unreachable),
            Err(Problem::Timeout(_)) if monotonic_now() - admission.began() < PATIENCE => drop(admission),
            // Whoever answered there, it was not the peer; and nothing proves who has no place for us.
            Err(Problem::OtherKey(_) | Problem::AskedToWait(_) | Problem::KeyReplaced) => drop(admission),
            // A connection of the pool says how the peer was, not how it is.
            Err(Problem::Stale(_)) => drop(admission),
            Err(_) => admission.failed(Failure::NoAnswer),
        }
        called.map_err(|problem| self.explain_handshake(route, problem))
    }

    /// Tries on a connection of the pool and, where that is safe, once more on a new one.
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

    /// Whether a request gets one more try, on a new connection: it is idempotent, and failed because a connection of
    /// the pool had broken. The others to this address have probably broken, too, and are closed.
    fn may_retry(&self, route: &Route, outgoing: &Outgoing, failed: &Attempt) -> bool {
        if failed.stale {
            self.pool.evict(route.address, Instant::now());
            if let Some(alternative) = route.alternative {
                self.pool.evict(alternative, Instant::now());
            }
        }
        failed.stale && outgoing.idempotent
    }

    /// One try, to the head of the answer.
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

    /// Sends a request that is signed now. What is returned waits for the head of the answer.
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

    /// A connection for a call.
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
            // On the heap: what dialling and TLS keep is large, and would be a part of every call.
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

    /// A new connection, where it leads, how long dialling took, and when it was done.
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
            asked: line.asked,
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

    /// How connections for a call are to be protected.
    fn tls_policy(&self, route: &Route) -> TlsPolicy {
        route.peer.tls().unwrap_or(self.tls)
    }

    /// Without a handshake, a peer that has proven TLS is not called at all.
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

    /// Whether the whole body of a request could be streamed to a peer: every byte is proven by the connection.
    pub(super) fn may_stream(&self, route: &Route) -> bool {
        self.target(route).tls.is_some() && self.signer.will_trust(route)
    }

    /// Whether requests to a peer need no signature of their own, if it says so, too.
    pub(super) fn may_leave_out_signatures(&self, route: &Route) -> bool {
        self.signer.prefers_handshake() && self.may_stream(route)
    }

    /// Notes that a peer asks for a pause, if it does.
    fn note_pause(&self, route: &Route, head: &ReplyHead) -> Option<Duration> {
        let now = || self.clocks.clock().now_millis();
        let pause = asked_to_wait(head.status, &head.headers, now)?;
        tracing::info!(peer = %route, ?pause, status = head.status.as_u16(), "the peer asked us to wait");
        route.peer.defer(pause);
        Some(pause)
    }
}

/// Notes whether a peer refused a request because it has no signature: requests to it are signed from then on. Returns
/// whether it did.
///
/// Such a peer does not count the handshake as proof any more, or does not know our key. It did nothing with the request, so
/// the request is sent once more. A 401 of a handler claims to be proven, as all its answers do.
fn note_unsigned(route: &Route, head: &ReplyHead) -> bool {
    let refused = head.status == StatusCode::UNAUTHORIZED
        && head.sent.are_replaced_by_the_handshake()
        && !head.claims_proof();
    if refused {
        route.peer.note_handshake(false);
    }
    refused
}

/// Whether a peer may be called, or has asked for a pause.
fn check_pause(route: &Route) -> Result<(), Problem> {
    route.peer.retry_after().map_or(Ok(()), |retry_after| {
        Err(Problem::AskedToWait(AskedToWait {
            retry_after,
            how: Asking::Before,
        }))
    })
}
