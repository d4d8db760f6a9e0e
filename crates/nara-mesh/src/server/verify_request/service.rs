use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http::HeaderName;
use nara_proto::endpoint::Repetition;
use tower::Service;

use crate::server::authenticator::{Authenticated, Authenticator};
use crate::server::rejection::Rejection;
use crate::server::signed_body::SignedBody;

/// The header in which v1 peers pass on who was verified.
const VERIFIED_HEADER: HeaderName = HeaderName::from_static("x-nara-verified");

/// Answers 401 to a request that is not authenticated, without a signature, and passes on the others with
/// their [`VerifiedSender`](crate::server::VerifiedSender). A body whose digest is signed can be read to its end only if
/// it is the one that was signed.
#[derive(Clone, Debug)]
pub(in crate::server) struct VerifyRequest<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
    repetition: Repetition,
}

impl<S> VerifyRequest<S> {
    pub(super) fn new(inner: S, authenticator: Arc<Authenticator>, repetition: Repetition) -> Self {
        Self {
            inner,
            authenticator,
            repetition,
        }
    }
}

impl<S> Service<Request> for VerifyRequest<S>
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
        // The clone is not ready; the service that was polled ready is taken along. See
        // <https://docs.rs/tower/latest/tower/trait.Service.html#be-careful-when-cloning-inner-services>.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let authenticator = self.authenticator.clone();
        let repetition = self.repetition;
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts.headers.remove(VERIFIED_HEADER);
            match authenticator.authenticate(&parts, repetition).await {
                Ok(Authenticated {
                    sender,
                    proof,
                    digest,
                }) => {
                    parts.extensions.insert(sender);
                    parts.extensions.insert(proof);
                    let body = match digest {
                        // Nobody may ever read it, so it is looked at now.
                        Some(digest) if body.is_end_stream() => match digest.check(&[]) {
                            Ok(()) => body,
                            Err(error) => return Ok(Rejection::from(error).into_response()),
                        },
                        Some(digest) => Body::new(SignedBody::new(body, digest)),
                        None => body,
                    };
                    let response = inner.call(Request::from_parts(parts, body)).await?;
                    Ok(response.into_response())
                }
                Err(rejection) => Ok(authenticator.refuse(&parts, rejection)),
            }
        })
    }
}
