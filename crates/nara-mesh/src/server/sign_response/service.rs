use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use nara_proto::auth::ResponseAuth;
use tower::Service;

use super::Unbuffered;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::server::rejection::Rejection;

/// Signs every answer of the service inside it, errors too.
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
            let response = inner.call(request).await?.into_response();
            if response.extensions().get::<Unbuffered>().is_some() {
                return Ok(response);
            }
            let (mut parts, body) = response.into_parts();
            let Ok(body) = to_bytes(body, max_body).await else {
                // Handlers cut their answers to this size, so it is a defect of ours.
                tracing::error!(max_body, "an answer is too large to be signed");
                return Ok(Rejection::Panicked.into_response());
            };
            let auth = ResponseAuth::sign(local.keypair(), local.name(), clock.now_millis(), &body);
            auth.write_to(&mut parts.headers);
            Ok(Response::from_parts(parts, Body::from(body)))
        })
    }
}
