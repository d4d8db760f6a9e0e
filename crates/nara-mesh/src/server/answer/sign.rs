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

/// In the extensions of an answer: its body has no end, so it is not signed as a whole and not held back. What it
/// says proves itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Unbuffered;

/// Who signs the answers of a route, and how large they may be.
#[derive(Clone, Debug)]
pub(in crate::server) struct AnswerSigner {
    local: LocalNara,
    /// Its name, as a header has it.
    name: HeaderValue,
    clock: Arc<dyn Clock>,
    /// Bytes of a body that is signed.
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

    /// Signs an answer, an error too, the way its request was signed. It needs the whole body before it can write the
    /// headers, so it buffers, except what says that it must not: an answer that arrives here as [`Streamed`] is signed at
    /// its head.
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
            // Handlers cut their answers to this size, so it is a defect of ours.
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

    /// An answer that its connection proves: it says who answers and when, for a client that asked by address.
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

/// All bytes of a body; `None`: it fails, or has too many.
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
