//! Arbitrary requests to custom services, and the verification of their answers.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use tokio::time::timeout_at;

use super::answer_body::AnswerBody;
use super::caller::Limit;
use super::deadline::deadline_after;
use super::error::{ClientError, Problem, Stage};
use super::exchange::{Callee, Exchange, traced};
use super::handle::PeerHandle;
use super::open_request::{BodyLimits, OpenRequest, strip_reserved};
use super::reply::OpenReply;
use super::request::Outgoing;
use super::resolve::Route;
use super::verified::{BodyProof, Verification, Verified};
use crate::clock::{monotonic_now, with_sleep};
use crate::erased::typed;

/// A body known to be at most this large is buffered instead of streamed, which saves a dedicated connection.
const SMALL_BODY: u64 = 64 << 10;

impl PeerHandle {
    /// Sends an arbitrary signed request to the peer and returns its verified answer. A status such as 404 is an
    /// answer, not an error.
    ///
    /// The URI begins with the path. Method, path, query and body are signed; other header fields are protected
    /// only on a TLS connection: see [`Verification::request`] for what the peer could verify. A v1 peer verifies
    /// method and path only. Request and answer are buffered in memory, up to
    /// [limits](PeerHandle::with_body_limits). A request with an idempotent method (RFC 9110, section 9.2.2) may
    /// be retried.
    ///
    /// ```no_run
    /// use nara_mesh::client::MeshClient;
    /// use nara_mesh::http::Request;
    ///
    /// # async fn example(client: MeshClient) -> Result<(), Box<dyn std::error::Error>> {
    /// let request = Request::post("/notes?tag=today").body("Buy milk.".to_owned())?;
    /// let answer = client.peer("bob").request(request).await?;
    /// println!("{} {:?}", answer.status(), answer.body());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`], in particular for a request that sets header fields of the connection or the protocol, an
    /// answer whose body is not authenticated, an endpoint whose answers are never signed, such as `/ping`, and
    /// an unsigned refusal, such as the 401 of a peer that does not know us.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Verified<Response<Bytes>>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let deadline = self.deadline();
        let request = OpenRequest::new(request).map_err(|problem| self.fail(problem))?;
        traced(&self.peer, "request", async {
            let mut route = self.exchange.route(&self.peer)?;
            if !self.exchange.verifier.accept_unverified {
                let checked = request.check_provable();
                checked.map_err(|problem| ClientError::new(&route, Problem::from(problem)))?;
            }
            let requesting = async {
                let limits = self.body_limits;
                let buffering = request.buffered(limits.request, limits.answer);
                let buffered = timeout_at(deadline, buffering).await;
                let outgoing = buffered.map_err(|_| Problem::Timeout(Stage::Body))??;
                self.exchange.request(&mut route, &outgoing, deadline).await
            };
            let requested = requesting.await;
            requested.map_err(|problem| ClientError::new(&route, problem))
        })
        .await
    }
}

impl Exchange {
    async fn request(
        &self,
        route: &mut Route,
        outgoing: &Outgoing,
        deadline: tokio::time::Instant,
    ) -> Result<Verified<Response<Bytes>>, Problem> {
        self.verifier.introduce(route, deadline).await?;
        let reply = self.send(route, outgoing, deadline).await?;
        let called = reply.head.address;
        route.answered_at(called);
        if !reply.head.claims_proof() && !reply.head.status.is_success() {
            return Err(self.verifier.refused(route, reply));
        }
        let mut answer = Response::new(());
        *answer.status_mut() = reply.head.status;
        answer.headers_mut().clone_from(&reply.head.headers);
        strip_reserved(answer.headers_mut());
        let (asked, at) = (reply.head.asked, with_sleep(reply.at));
        let verifying = self
            .verifier
            // Copied, because the buffer of the connection may be larger.
            .verify(route, reply, deadline, |body| {
                Ok(Box::new(Bytes::copy_from_slice(body)))
            });
        let verified = timeout_at(deadline, verifying).await;
        let (body, verification) = verified.map_err(|_| Problem::Timeout(Stage::Verify))??;
        self.clocks
            .learn(&route.peer, &verification, asked, called.ip(), at);
        Ok(Verified::new(answer.map(|()| typed(body)), verification))
    }

    /// Sends an arbitrary request; both bodies may be streamed.
    pub(super) async fn serve<B>(
        self: Arc<Self>,
        peer: Callee,
        request: OpenRequest<B>,
        limits: BodyLimits,
        limit: Duration,
    ) -> Result<Response<AnswerBody>, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        traced(&peer, "service", async {
            let mut route = self.route(&peer)?;
            let served = self.serve_on(&mut route, request, limits, limit).await;
            served.map_err(|problem| ClientError::new(&route, problem))
        })
        .await
    }

    async fn serve_on<B>(
        &self,
        route: &mut Route,
        request: OpenRequest<B>,
        limits: BodyLimits,
        limit: Duration,
    ) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if !self.verifier.accept_unverified {
            request.check_provable()?;
        }
        let mut deadline = deadline_after(limit);
        self.verifier.introduce(route, deadline).await?;
        let is_small = request.body_length().is_some_and(|length| length <= SMALL_BODY);
        let opened = if !is_small && self.may_stream(route, deadline).await {
            let (mut outgoing, body) = request.streamed(limits.answer);
            outgoing.accepts_stream = true;
            let opened = self.caller.open_streamed(route, &outgoing, body, limit).await;
            // The peer may have used up the limit while the body was sent.
            deadline = deadline_after(limit);
            opened
        } else {
            let buffering = request.buffered(limits.request, limits.answer);
            let buffered = timeout_at(deadline, buffering).await;
            let mut outgoing = buffered.map_err(|_| Problem::Timeout(Stage::Body))??;
            outgoing.accepts_stream = true;
            self.verifier.ask_for_handshake(route, deadline).await;
            self.caller.open(route, &outgoing, deadline).await
        };
        let open = opened.map_err(|problem| self.verifier.explain_other_key(route, problem))?;
        route.answered_at(open.head.address);
        self.accept_open(route, open, limits.answer, deadline).await
    }

    /// Verifies an answer whose body is still arriving.
    async fn accept_open(
        &self,
        route: &Route,
        open: OpenReply,
        max_answer: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Response<AnswerBody>, Problem> {
        if !open.head.claims_proof() && !open.head.status.is_success() {
            let reply = self.caller.read(open, Limit::Refusal, deadline).await?;
            return Err(self.verifier.refused(route, reply));
        }
        let mut answer = Response::new(());
        *answer.status_mut() = open.head.status;
        answer.headers_mut().clone_from(&open.head.headers);
        strip_reserved(answer.headers_mut());
        let (asked, called, at) = (open.head.asked, open.head.address, monotonic_now());
        let peer = route.to_string();
        let verifying = timeout_at(deadline, self.verifier.verify_head(route, &open.head, deadline)).await;
        let head = verifying.map_err(|_| Problem::Timeout(Stage::Verify))??;
        let (body, verification) = match head {
            Some((digest, verification)) => {
                let OpenReply { body, lease, .. } = open;
                let known = verification.responder.clone().zip(verification.key);
                let opened_on = known.map(|(name, key)| self.registry.lease(&name, &key));
                let body = AnswerBody::arriving(body, lease, digest, verification.body, peer, opened_on);
                (body, verification)
            }
            None => {
                let reply = self.caller.read(open, Limit::Whole(max_answer), deadline).await?;
                let verifying = self
                    .verifier
                    .verify(route, reply, deadline, |body| Ok(Box::new(body.clone())));
                let verified = timeout_at(deadline, verifying).await;
                let (body, verification) = verified.map_err(|_| Problem::Timeout(Stage::Verify))??;
                (
                    AnswerBody::whole(typed(body), BodyProof::Whole, peer),
                    verification,
                )
            }
        };
        self.clocks
            .learn(&route.peer, &verification, asked, called.ip(), at);
        answer.extensions_mut().insert::<Verification>(verification);
        Ok(answer.map(|()| body))
    }

    /// Returns whether the body of a request may be streamed. Asks the peer if that is not known yet.
    async fn may_stream(&self, route: &Route, deadline: tokio::time::Instant) -> bool {
        let may = || route.peer.takes_streams() && self.caller.may_stream(route);
        if !may() {
            self.verifier.ask_for_capability(route, deadline).await;
        }
        may()
    }
}
