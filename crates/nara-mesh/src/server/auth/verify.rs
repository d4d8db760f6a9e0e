//! The step that admits only authenticated requests.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use nara_proto::endpoint::Repetition;
use nara_proto::v2::SignatureError;

use crate::Coverage;
use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::{Authenticated, Authenticator, BodyProof};
use crate::server::auth::request_proof::RequestProof;
use crate::server::auth::sender::VerifiedSender;
use crate::server::auth::verified_body::BodyCheck;
use crate::server::connection::facts::ConnectionFacts;

/// How the requests of a route are verified.
#[derive(Clone, Debug)]
pub(in crate::server) struct Verification {
    pub(in crate::server) authenticator: Arc<Authenticator>,
    pub(in crate::server) repetition: Repetition,
    /// Whether a body may be streamed. Otherwise it is read to its end within the limits of the endpoint.
    pub(in crate::server) takes_streams: bool,
}

/// An extension of a request: its body is streamed, and no signature covers it.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct StreamedRequest;

/// A request with an authenticated sender.
#[derive(Debug)]
pub(in crate::server) struct Verified {
    pub(in crate::server) sender: VerifiedSender,
    pub(in crate::server) proof: RequestProof,
    /// The check of the body, which completes at its end.
    pub(in crate::server) check: Option<BodyCheck>,
    /// Whether its body is streamed, and no signature covers it.
    pub(in crate::server) is_stream: bool,
}

impl Verification {
    /// Verifies the head of a request. The error is the answer: 401 without a signature.
    pub(in crate::server) async fn verify(
        &self,
        head: &Parts,
        body_is_empty: bool,
        connection: &ConnectionFacts,
    ) -> Result<Verified, Response> {
        let authenticator = &self.authenticator;
        let authenticated = authenticator
            .authenticate(head, connection, self.repetition)
            .await;
        let authenticated = match authenticated {
            Ok(authenticated) => authenticated,
            Err(rejection) => return Err(authenticator.refuse(head, rejection)),
        };
        let Authenticated {
            sender,
            proof,
            body: proven,
        } = authenticated;
        let on_channel = sender.coverage() == Coverage::Channel;
        let is_stream = matches!(proven, BodyProof::Streamed) && self.takes_streams;
        let check = match proven {
            BodyProof::None => None,
            // The handler may never read it, so an empty body is checked now.
            BodyProof::Digest(digest) if body_is_empty => match digest.check(&[]) {
                Ok(()) => None,
                Err(error) => return Err(Rejection::from(error).into_response()),
            },
            BodyProof::Digest(digest) => Some(BodyCheck::Signed(digest)),
            BodyProof::Streamed if is_stream || on_channel => None,
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
            sender,
            proof,
            check,
            is_stream,
        })
    }
}
