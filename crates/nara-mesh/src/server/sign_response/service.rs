use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http::HeaderValue;
use nara_proto::identity::NaraName;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, ResponseAuth, TIMESTAMP_HEADER};
use nara_proto::v2::{ContentDigest, ResponseToSign, SignedBody};
use tower::Service;

use super::Unbuffered;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::server::rejection::Rejection;
use crate::server::request_proof::RequestProof;

/// An answer that its connection proves: it says who answers and when, for whoever asked by address.
fn named(mut response: Response, name: &NaraName, now: UnixMillis) -> Response {
    let headers = response.headers_mut();
    let name = HeaderValue::from_bytes(name.as_str().as_bytes());
    headers.insert(NAME_HEADER, name.expect("a name has no control characters"));
    headers.insert(TIMESTAMP_HEADER, HeaderValue::from(now.get()));
    response
}

/// Signs every answer of the service inside it, errors too, the way its request was signed.
#[derive(Clone, Debug)]
pub(in crate::server) struct SignResponse<S> {
    inner: S,
    local: LocalNara,
    clock: Arc<dyn Clock>,
    max_body: usize,
}

impl<S> SignResponse<S> {
    pub(super) fn new(inner: S, local: LocalNara, clock: Arc<dyn Clock>, max_body: usize) -> Self {
        Self {
            inner,
            local,
            clock,
            max_body,
        }
    }
}

impl<S> Service<Request> for SignResponse<S>
where
    S: Service<Request, Response: IntoResponse> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // As in `VerifyRequest`: the service that was polled ready is taken along.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let local = self.local.clone();
        let clock = self.clock.clone();
        let max_body = self.max_body;
        Box::pin(async move {
            let proof = request.extensions().get::<RequestProof>().cloned();
            let response = inner.call(request).await?.into_response();
            if response.extensions().get::<Unbuffered>().is_some() {
                return Ok(response);
            }
            if proof.as_ref().is_some_and(RequestProof::wants_nothing) {
                return Ok(named(response, local.name(), clock.now_millis()));
            }
            let (mut parts, body) = response.into_parts();
            let Ok(body) = to_bytes(body, max_body).await else {
                // Handlers cut their answers to this size, so it is a defect of ours.
                tracing::error!(max_body, "an answer is too large to be signed");
                return Ok(Rejection::Panicked.into_response());
            };
            let now = clock.now_millis();
            let proof = proof.as_ref();
            if proof.is_none_or(RequestProof::wants_v1) {
                let auth = ResponseAuth::sign(local.keypair(), local.name(), now, &body);
                auth.write_to(&mut parts.headers);
            }
            if let Some(request) = proof.and_then(RequestProof::signature) {
                let response = ResponseToSign {
                    status: parts.status,
                    body: SignedBody::Digest(ContentDigest::of(&body)),
                    request,
                    now,
                };
                local
                    .signer()
                    .sign_response(&response)
                    .write_to(&mut parts.headers);
            }
            Ok(Response::from_parts(parts, Body::from(body)))
        })
    }
}
