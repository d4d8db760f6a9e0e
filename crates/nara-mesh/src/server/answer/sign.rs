//! The step that signs answers (docs/protocol/v1.md, section 5; profile v2).

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::HeaderValue;
use http::response::Parts;
use http_body_util::BodyExt as _;
use nara_proto::identity::Signature;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, ResponseAuth, TIMESTAMP_HEADER};
use nara_proto::v2::{ContentDigest, ResponseToSign, SignedBody};

use crate::clock::Clock;
use crate::gathered::Gathered;
use crate::identity::LocalNara;
use crate::seldom::error_seldom;
use crate::server::answer::rejection::Rejection;
use crate::server::answer::streamed::Streamed;
use crate::server::auth::request_proof::RequestProof;

/// An extension of an answer: its body has no end, so it is neither buffered nor signed as a whole. Its content is
/// self-proving.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Unbuffered;

/// Signs the answers of a route, up to a maximum size.
#[derive(Clone, Debug)]
pub(in crate::server) struct AnswerSigner {
    local: LocalNara,
    /// The signer's name as a header value.
    name: HeaderValue,
    clock: Arc<dyn Clock>,
    /// The maximum size of a signed body.
    max_body: usize,
}

impl AnswerSigner {
    pub(in crate::server) fn new(local: LocalNara, clock: Arc<dyn Clock>, max_body: usize) -> Self {
        let name = HeaderValue::from_bytes(local.name().as_str().as_bytes());
        Self {
            name: name.expect("a name has no control characters"),
            local,
            clock,
            max_body,
        }
    }

    /// Signs an answer, including errors, with the profile of its request. It needs the whole body before it can write
    /// the headers, so it buffers, except for unbuffered answers: a [`Streamed`] answer is signed at its head.
    pub(in crate::server) async fn sign(&self, response: Response, proof: &RequestProof) -> Response {
        if response.extensions().get::<Unbuffered>().is_some() {
            return response;
        }
        let now = self.clock.now_millis();
        if proof.wants_nothing() {
            return self.named(response, now);
        }
        let (mut parts, body) = response.into_parts();
        if parts.extensions.remove::<Streamed>().is_some() {
            if let Some(request) = proof.signature() {
                self.sign_v2(&mut parts, SignedBody::Streamed, request, now);
            }
            return Response::from_parts(parts, body);
        }
        let Some(body) = whole(body, self.max_body).await else {
            // Handlers limit their answers to this size, so it is a defect of ours.
            error_seldom!(self.max_body, "an answer is too large to be signed");
            return Rejection::Panicked.into_response();
        };
        if proof.wants_v1() {
            let auth = ResponseAuth::sign(self.local.keypair(), self.local.name(), now, &body);
            auth.write_to(&mut parts.headers);
        }
        if let Some(request) = proof.signature() {
            let digest = SignedBody::Digest(ContentDigest::of(&body));
            self.sign_v2(&mut parts, digest, request, now);
        }
        Response::from_parts(parts, Body::from(body))
    }

    /// Marks an answer that its connection proves with responder and time, for a client that called by address.
    fn named(&self, mut response: Response, now: UnixMillis) -> Response {
        let headers = response.headers_mut();
        headers.insert(NAME_HEADER, self.name.clone());
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(now.get()));
        response
    }

    fn sign_v2(&self, parts: &mut Parts, body: SignedBody, request: &Signature, now: UnixMillis) {
        let response = ResponseToSign {
            status: parts.status,
            body,
            request,
            now,
        };
        let signed = self.local.signer().sign_response(&response);
        signed.write_to(&mut parts.headers);
    }
}

/// Reads a whole body; `None` if it fails or exceeds the limit.
async fn whole(mut body: Body, max: usize) -> Option<Bytes> {
    let mut read = Gathered::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if data.len() > max - read.len() {
                return None;
            }
            read.push(data);
        }
    }
    Some(read.finish())
}
