//! Middleware that lets only authenticated requests through.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderName;
use nara_proto::endpoint::Repetition;

use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::{Authenticated, Authenticator};
use crate::server::auth::signed_body::SignedBody;

/// The header in which v1 peers pass on who was verified. What a peer sends under that name is removed, so that
/// nothing behind can mistake it for proof.
const VERIFIED_HEADER: HeaderName = HeaderName::from_static("x-nara-verified");

/// How the requests of a route are verified.
#[derive(Clone, Debug)]
pub(in crate::server) struct Verification {
    pub(in crate::server) authenticator: Arc<Authenticator>,
    pub(in crate::server) repetition: Repetition,
}

/// Answers 401 to a request that is not authenticated, without a signature, and passes on the others with their
/// [`VerifiedSender`](crate::server::auth::sender::VerifiedSender) in the extensions. A body whose digest is signed
/// can be read to its end only if it is the one that was signed.
pub(in crate::server) async fn verify_request(
    State(Verification {
        authenticator,
        repetition,
    }): State<Verification>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    parts.headers.remove(VERIFIED_HEADER);
    let authenticated = match authenticator.authenticate(&parts, repetition).await {
        Ok(authenticated) => authenticated,
        Err(rejection) => return authenticator.refuse(&parts, rejection),
    };
    let Authenticated {
        sender,
        proof,
        digest,
    } = authenticated;
    parts.extensions.insert(sender);
    parts.extensions.insert(proof);
    let body = match digest {
        // Nobody may ever read it, so it is looked at now.
        Some(digest) if body.is_end_stream() => match digest.check(&[]) {
            Ok(()) => body,
            Err(error) => return Rejection::from(error).into_response(),
        },
        Some(digest) => Body::new(SignedBody::new(body, digest)),
        None => body,
    };
    next.run(Request::from_parts(parts, body)).await
}
