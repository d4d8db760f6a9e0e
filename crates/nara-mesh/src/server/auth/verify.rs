//! The step that lets only authenticated requests through.

use std::sync::Arc;

use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::HeaderName;
use nara_proto::endpoint::Repetition;
use nara_proto::v2::SignatureError;

use crate::Coverage;
use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::{Authenticated, Authenticator, BodyProof};
use crate::server::auth::request_proof::RequestProof;
use crate::server::auth::sender::VerifiedSender;
use crate::server::auth::verified_body::BodyCheck;

/// The header in which v1 peers pass on who was verified. The header is removed from requests, so that no handler
/// can mistake it for proof.
const VERIFIED_HEADER: HeaderName = HeaderName::from_static("x-nara-verified");

/// How the requests of a route are verified.
#[derive(Clone, Debug)]
pub(in crate::server) struct Verification {
    pub(in crate::server) authenticator: Arc<Authenticator>,
    pub(in crate::server) repetition: Repetition,
    /// Whether a body may be a stream. Elsewhere it is read to its end within the limits of the endpoint.
    pub(in crate::server) takes_streams: bool,
}

/// In the extensions of a request: its sender says that its body is a stream, which no signature covers.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct StreamedRequest;

/// A request whose sender is known.
#[derive(Debug)]
pub(in crate::server) struct Verified {
    /// With sender and proof in its extensions.
    pub(in crate::server) request: Request,
    pub(in crate::server) sender: VerifiedSender,
    pub(in crate::server) proof: RequestProof,
    /// What the body must be, which shows at its end.
    pub(in crate::server) check: Option<BodyCheck>,
}

impl Verification {
    /// Verifies a request. The error is the answer: 401 without a signature.
    pub(in crate::server) async fn verify(&self, request: Request) -> Result<Verified, Response> {
        let authenticator = &self.authenticator;
        let (mut parts, body) = request.into_parts();
        parts.headers.remove(VERIFIED_HEADER);
        let authenticated = match authenticator.authenticate(&parts, self.repetition).await {
            Ok(authenticated) => authenticated,
            Err(rejection) => return Err(authenticator.refuse(&parts, rejection)),
        };
        let Authenticated {
            sender,
            proof,
            body: proven,
        } = authenticated;
        let on_channel = sender.coverage() == Coverage::Channel;
        parts.extensions.insert(sender.clone());
        parts.extensions.insert(proof.clone());
        let check = match proven {
            BodyProof::None => None,
            // Nobody may ever read it, so it is looked at now.
            BodyProof::Digest(digest) if body.is_end_stream() => match digest.check(&[]) {
                Ok(()) => None,
                Err(error) => return Err(Rejection::from(error).into_response()),
            },
            BodyProof::Digest(digest) => Some(BodyCheck::Signed(digest)),
            BodyProof::Streamed if self.takes_streams => {
                parts.extensions.insert(StreamedRequest);
                None
            }
            BodyProof::Streamed if on_channel => None,
            BodyProof::Streamed => {
                return Err(Rejection::from(SignatureError::Streamed).into_response());
            }
            BodyProof::Repeatable(auth) => Some(BodyCheck::New {
                authenticator: authenticator.clone(),
                auth,
                address: sender.address(),
            }),
        };
        Ok(Verified {
            request: Request::from_parts(parts, body),
            sender,
            proof,
            check,
        })
    }
}
