//! The ways of a request from the connection to its handler and back. Each is one function of plain steps, because a
//! stack of middlewares would copy and box the request and its future once for each of them.

use std::any::Any;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use tower::ServiceExt as _;
use tracing::Instrument as _;

use super::confidant::greet_owner;
use super::guard::guard;
use super::spelling::respelled;
use super::state::Shared;
use crate::seldom::error_seldom;
use crate::server::answer::rejection::Rejection;
use crate::server::answer::sign::AnswerSigner;
use crate::server::auth::sender::VerifiedSender;
use crate::server::auth::verified_body::{BodyCheck, VerifiedBody};
use crate::server::auth::verify::{StreamedRequest, Verification, Verified};
use crate::server::limits::admission::Admission;
use crate::trace;

/// Where every request comes in.
#[derive(Clone, Debug)]
pub(in crate::server) struct Entrance {
    pub(super) admission: Arc<Admission>,
    /// Our signed endpoints. The router has them, too, for other methods; these go past its boxes.
    pub(super) endpoints: Arc<[SignedEndpoint]>,
    pub(super) router: Router,
}

/// A signed endpoint, asked with its own method.
pub(super) struct SignedEndpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) way: Arc<SignedWay>,
    pub(super) handle: Handle,
}

/// The handler of an endpoint.
pub(super) type Handle = Box<dyn Fn(Request, Arc<Shared>) -> BoxFuture<'static, Response> + Send + Sync>;

impl SignedEndpoint {
    async fn answer(&self, request: Request) -> Response {
        self.way
            .pass(request, async |request, sender| {
                greet_owner(&self.way.shared, sender);
                (self.handle)(request, self.way.shared.clone()).await
            })
            .await
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
    /// Answers a request, whatever it asks for.
    pub(in crate::server) async fn answer(&self, request: Request) -> Response {
        // Outermost: a flood must cost next to nothing.
        self.admission
            .watch(request, async |mut request| {
                if let Some(parent) = trace::take_in(request.headers_mut()) {
                    let headers = request.headers().clone();
                    // Of all levels, so that each line of the log has it.
                    let span = tracing::error_span!(
                        "request",
                        trace_id = parent.trace_id(),
                        parent_id = parent.parent_id()
                    );
                    let answering = Box::pin(self.route(request).instrument(span));
                    return trace::within(&headers, answering).await;
                }
                self.route(request).await
            })
            .await
    }

    async fn route(&self, request: Request) -> Response {
        // Before a path is routed.
        let request = match respelled(request) {
            ControlFlow::Continue(request) => request,
            ControlFlow::Break(redirect) => return redirect,
        };
        // Around all routes, so that a panic in any of them costs its request only. The signed ones have one of
        // their own, inside of their signature.
        let answer = pin!(async {
            let (method, path) = (request.method(), request.uri().path());
            let is_asked = |endpoint: &&SignedEndpoint| endpoint.path == path && endpoint.method == *method;
            if let Some(endpoint) = self.endpoints.iter().find(is_asked) {
                return endpoint.answer(request).await;
            }
            // On the heap: it is no part of the requests for our own endpoints.
            let Ok(response) = Box::pin(self.router.clone().oneshot(request)).await;
            response
        });
        caught(answer).await
    }
}

/// What signed routes pass before their handler, and behind it.
#[derive(Debug)]
pub(super) struct SignedWay {
    pub(super) verification: Verification,
    pub(super) signer: AnswerSigner,
    pub(super) admission: Arc<Admission>,
    pub(super) shared: Arc<Shared>,
}

impl SignedWay {
    async fn pass(
        &self,
        request: Request,
        handle: impl AsyncFnOnce(Request, &VerifiedSender) -> Response,
    ) -> Response {
        // First: nothing of a request is looked at before its sender is known, and a refusal is not signed, as elsewhere.
        let Verified {
            request,
            sender,
            proof,
            check,
        } = match self.verification.verify(request).await {
            Ok(verified) => verified,
            Err(refusal) => return refusal,
        };
        // The sender is known, and learns from a signed answer that it is to slow down.
        let answer = match self.admission.admit(&sender) {
            // So that the answer to a request whose handler panicked is signed like others.
            Ok(_held) => {
                let answer = pin!(handle(self.bound(request, &sender, check), &sender));
                caught(answer).await
            }
            Err(rejection) => rejection.into_response(),
        };
        // Behind everything that can make an answer, so that errors are signed too.
        self.signer.sign(answer, &proof).await
    }

    /// The request with a body that is counted, and that can be read to its end only if it is what was signed.
    fn bound(&self, request: Request, sender: &VerifiedSender, check: Option<BodyCheck>) -> Request {
        // A stream is not held, but read as its handler goes along; of no bytes there is nothing to count.
        let is_stream = request.extensions().get::<StreamedRequest>().is_some();
        let is_counted = !is_stream && !request.body().is_end_stream();
        request.map(|body| match (check, is_counted) {
            (None, false) => body,
            (None, true) => Body::new(self.admission.count(sender, body)),
            (Some(check), false) => Body::new(VerifiedBody::new(body, check)),
            (Some(check), true) => Body::new(VerifiedBody::new(self.admission.count(sender, body), check)),
        })
    }
}

/// The way to a signed endpoint.
pub(super) async fn to_endpoint(State(way): State<Arc<SignedWay>>, request: Request, next: Next) -> Response {
    way.pass(request, async |request, sender| {
        greet_owner(&way.shared, sender);
        next.run(request).await
    })
    .await
}

/// The way to signed routes of the application.
pub(super) async fn to_application(
    State(way): State<Arc<SignedWay>>,
    request: Request,
    next: Next,
) -> Response {
    way.pass(request, async |request, _| {
        guard(&way.shared, request, next).await
    })
    .await
}

/// The way to routes of the application that anybody may call, within bounds.
pub(super) async fn to_open_application(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    guard(&shared, request, next).await
}

/// An answer, also where making it panics.
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
