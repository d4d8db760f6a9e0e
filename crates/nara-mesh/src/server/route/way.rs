//! The path of a request from the connection to its handler and back. Each kind is one function of plain steps, because
//! a stack of middlewares would copy and box the request and its future for each layer.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use http::request::Parts;
use hyper::body::Incoming;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::confidant::push_to_caller;
use super::guard::guard;
use super::spelling::respell;
use super::state::Shared;
use crate::seldom::error_seldom;
use crate::server::answer::rejection::Rejection;
use crate::server::answer::sign::AnswerSigner;
use crate::server::auth::request_proof::RequestProof;
use crate::server::auth::sender::VerifiedSender;
use crate::server::auth::verified_body::VerifiedBody;
use crate::server::auth::verify::{StreamedRequest, Verification, Verified};
use crate::server::connection::facts::ConnectionFacts;
use crate::server::limits::admission::Admission;
use crate::server::limits::body_bytes::Watched;
use crate::trace;

/// The entry point of all requests.
#[derive(Clone, Debug)]
pub(in crate::server) struct Entrance {
    pub(super) admission: Arc<Admission>,
    /// Our signed endpoints. The router also has them, for other methods; these bypass the router's boxes.
    pub(super) endpoints: Arc<[SignedEndpoint]>,
    pub(super) router: Router,
}

/// A signed endpoint, called with its own method.
pub(super) struct SignedEndpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) way: Arc<SignedWay>,
    pub(super) handle: Handle,
}

/// The handler of an endpoint.
pub(super) type Handle = Box<dyn Fn(Asked) -> BoxFuture<'static, Response> + Send + Sync>;

/// A request for one of our signed endpoints, as its handler receives it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) shared: Arc<Shared>,
    pub(super) sender: VerifiedSender,
    pub(super) proof: RequestProof,
    pub(super) head: Box<Parts>,
    pub(super) body: Bound<Incoming>,
}

/// A body whose bytes are counted, and whose end can be read only if it matches the signature.
type Bound<B> = VerifiedBody<Watched<B>>;

impl SignedEndpoint {
    fn is_asked(&self, head: &Parts) -> bool {
        // Like the router, which treats `HEAD` as `GET`.
        let is_head = head.method == Method::HEAD && self.method == Method::GET;
        head.uri.path() == self.path && (head.method == self.method || is_head)
    }

    async fn answer(&self, head: Box<Parts>, body: Incoming, connection: &ConnectionFacts) -> Response {
        let shared = &self.way.shared;
        let verified = self.way.verify(head, body, connection).await;
        let handle = |known: Known<Incoming>| {
            push_to_caller(shared, &known.sender);
            (self.handle)(Asked {
                shared: shared.clone(),
                sender: known.sender,
                proof: known.proof,
                head: known.head,
                body: known.body,
            })
        };
        self.way.pass(verified, handle).await
    }
}

impl fmt::Debug for SignedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedEndpoint")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Entrance {
    /// Answers any request.
    pub(in crate::server) async fn answer(
        &self,
        request: http::Request<Incoming>,
        connection: &Arc<ConnectionFacts>,
    ) -> Response {
        let (head, body) = request.into_parts();
        // Boxed, because it is moved often.
        let mut head = Box::new(head);
        let series = self.admission.series(head.uri.path());
        let answer = pin!(async {
            if let Some(parent) = trace::take_in(&mut head.headers) {
                let headers = head.headers.clone();
                // At the highest level, so that each line of the log has it.
                let span = tracing::error_span!(
                    "request",
                    trace_id = parent.trace_id(),
                    parent_id = parent.parent_id()
                );
                let answering = Box::pin(self.route(head, body, connection).instrument(span));
                return trace::within(&headers, answering).await;
            }
            self.route(head, body, connection).await
        });
        // Outermost: a flood must cost next to nothing.
        self.admission.watch(series, connection, answer).await
    }

    async fn route(
        &self,
        mut head: Box<Parts>,
        body: Incoming,
        connection: &Arc<ConnectionFacts>,
    ) -> Response {
        // Before a path is routed.
        if let ControlFlow::Break(redirect) = respell(&mut head.uri) {
            return redirect;
        }
        // Around all routes, so that a panic in any of them fails only its request. Signed routes have their own
        // handler of panics, inside their signature.
        let answer = pin!(async {
            if let Some(endpoint) = self.endpoints.iter().find(|endpoint| endpoint.is_asked(&head)) {
                return endpoint.answer(head, body, connection).await;
            }
            head.extensions.insert(connection.clone());
            let request = Request::from_parts(*head, Body::new(body));
            // Boxed: requests for our own endpoints do not need it.
            let Ok(response) = Box::pin(self.router.clone().oneshot(request)).await;
            response
        });
        caught(answer).await
    }
}

/// The steps of signed routes before and after their handler.
#[derive(Debug)]
pub(super) struct SignedWay {
    pub(super) verification: Verification,
    pub(super) signer: AnswerSigner,
    pub(super) admission: Arc<Admission>,
    pub(super) shared: Arc<Shared>,
}

/// A request with an authenticated sender.
struct Known<B> {
    head: Box<Parts>,
    body: Bound<B>,
    sender: VerifiedSender,
    proof: RequestProof,
    is_stream: bool,
}

impl SignedWay {
    /// First: no other part of a request is examined before its sender is authenticated, and a refusal is not signed,
    /// like on v1 peers. The error is that refusal.
    async fn verify<B: HttpBody>(
        &self,
        head: Box<Parts>,
        body: B,
        connection: &ConnectionFacts,
    ) -> Result<Known<B>, Response> {
        let is_empty = body.is_end_stream();
        let verified = self.verification.verify(&head, is_empty, connection).await?;
        let Verified {
            sender,
            proof,
            check,
            is_stream,
        } = verified;
        // A stream is not held in memory, but read as its handler proceeds; an empty body has nothing to count.
        let body = if is_stream || is_empty {
            Watched::uncounted(body)
        } else {
            self.admission.count(&sender, body)
        };
        Ok(Known {
            head,
            body: VerifiedBody::new(body, check),
            sender,
            proof,
            is_stream,
        })
    }

    async fn pass<B, F: Future<Output = Response>>(
        &self,
        verified: Result<Known<B>, Response>,
        handle: impl FnOnce(Known<B>) -> F,
    ) -> Response {
        let known = match verified {
            Ok(known) => known,
            Err(refusal) => return refusal,
        };
        let proof = known.proof.clone();
        // The sender is authenticated, so a signed answer tells it to slow down.
        let answer = match self.admission.admit(&known.sender) {
            // So that the answer to a request whose handler panicked is signed as well.
            Ok(_held) => caught(pin!(async { handle(known).await })).await,
            Err(rejection) => rejection.into_response(),
        };
        // Behind everything that can produce an answer, so that errors are signed too.
        self.signer.sign(answer, &proof).await
    }

    /// The same for a request from the router.
    async fn pass_on<F: Future<Output = Response>>(
        &self,
        request: Request,
        handle: impl FnOnce(Request) -> F,
    ) -> Response {
        let (head, body) = request.into_parts();
        let connection = match ConnectionFacts::required(&head.extensions, head.uri.path()) {
            Ok(connection) => connection.clone(),
            Err(rejection) => return rejection.into_response(),
        };
        let verified = self.verify(Box::new(head), body, &connection).await;
        self.pass(verified, |known: Known<Body>| {
            let Known {
                mut head,
                body,
                sender,
                proof,
                is_stream,
            } = known;
            head.extensions.insert(sender);
            head.extensions.insert(proof);
            if is_stream {
                head.extensions.insert(StreamedRequest);
            }
            handle(Request::from_parts(*head, Body::new(body)))
        })
        .await
    }
}

/// The path to a signed endpoint that was called with another method.
pub(super) async fn to_endpoint(State(way): State<Arc<SignedWay>>, request: Request, next: Next) -> Response {
    way.pass_on(request, |request| next.run(request)).await
}

/// The path to signed routes of the application.
pub(super) async fn to_application(
    State(way): State<Arc<SignedWay>>,
    request: Request,
    next: Next,
) -> Response {
    way.pass_on(request, |request| guard(&way.shared, request, next))
        .await
}

/// The path to open routes of the application, within bounds.
pub(super) async fn to_open_application(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    guard(&shared, request, next).await
}

/// Returns an answer even if the handler panics.
async fn caught(answer: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(answer)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("not a text");
    error_seldom!(panic = message, "a handler panicked");
    Rejection::Panicked.into_response()
}
