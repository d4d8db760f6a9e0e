//! The proof of origin that an answer carries.

use http::HeaderMap;
use http::StatusCode;
use nara_proto::identity::{NaraName, Signature};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, ResponseAuth, ResponseAuthError, TIMESTAMP_HEADER};
use nara_proto::v2::{self, ContentDigest, ResponseSignature, SignedBody};

use super::error::Problem;
use super::reply::ReplyHead;
use super::verified::{BodyProof, Verification};
use crate::Coverage;
use crate::registry::PinnedKey;

/// The proof of an answer.
#[derive(Clone, Debug)]
pub(super) enum AnswerProof {
    /// No signature: a secure connection that the request trusted.
    Channel {
        name: NaraName,
        signed_at: Option<UnixMillis>,
    },
    /// A v1 signature: not bound to the request.
    V1(ResponseAuth),
    /// A v2 signature: bound to status and request.
    V2 {
        signed: Box<ResponseSignature>,
        status: StatusCode,
        request: Signature,
    },
}

impl AnswerProof {
    /// Reads the proof; the peer that was called is expected to answer. If a request was signed with v2, an
    /// answer that claims v2 must verify as v2: there is no fallback to v1.
    pub(super) fn read(reply: &ReplyHead, expected: Option<&NaraName>) -> Result<Self, Problem> {
        let inherited = || {
            let auth = ResponseAuth::from_headers(&reply.headers);
            auth.map(Self::V1).map_err(Problem::Unauthenticated)
        };
        let by_channel = || {
            let name = name_in(&reply.headers, expected).filter(|_| reply.sent.trusts_channel)?;
            let signed_at = time_in(&reply.headers);
            Some(Self::Channel { name, signed_at })
        };
        let Some(request) = reply.sent.v2 else {
            return by_channel().map_or_else(inherited, Ok);
        };
        if v2::is_claimed(&reply.headers) {
            let signed = ResponseSignature::from_headers(&reply.headers).map_err(Problem::Signature)?;
            return Ok(Self::V2 {
                signed: Box::new(signed),
                status: reply.status,
                request,
            });
        }
        if let Some(proof) = by_channel() {
            return Ok(proof);
        }
        // A request without a v1 signature goes only to peers that have proven v2.
        if reply.sent.v1.is_none() {
            return Err(Problem::Downgrade);
        }
        inherited()
    }

    /// Returns whether it is bound to this request, by its signature or by its connection.
    pub(super) fn is_bound(&self) -> bool {
        !matches!(self, Self::V1(_))
    }

    /// Returns the claimed responder.
    pub(super) fn name(&self) -> &NaraName {
        match self {
            Self::Channel { name, .. } => name,
            Self::V1(auth) => auth.name(),
            Self::V2 { signed, .. } => signed.name(),
        }
    }

    /// Returns the claimed time of the signature.
    pub(super) fn signed_at(&self) -> Option<UnixMillis> {
        match self {
            Self::Channel { signed_at, .. } => *signed_at,
            Self::V1(auth) => Some(auth.timestamp()),
            Self::V2 { signed, .. } => Some(signed.created().to_millis()),
        }
    }

    /// Verifies it for a complete answer.
    pub(super) fn verify(
        &self,
        pinned: &PinnedKey,
        body: &[u8],
        now: UnixMillis,
    ) -> Result<Verification, Problem> {
        match self {
            Self::Channel { .. } => Ok(self.verification(pinned, BodyProof::Channel)),
            Self::V1(auth) => {
                let verified = auth.verify(&pinned.key, body, now);
                if let Err(ResponseAuthError::Stale { .. }) = verified {
                    // An unsigned timestamp proves nothing.
                    auth.verify_signature(&pinned.key, body)
                        .map_err(Problem::Unauthenticated)?;
                }
                verified.map_err(Problem::Unauthenticated)?;
                Ok(self.verification(pinned, BodyProof::Whole))
            }
            Self::V2 { signed, .. } => {
                let digest = signed.digest().map_err(Problem::Signature)?;
                digest.check(body).map_err(Problem::Signature)?;
                self.verify_v2(pinned, now)?;
                Ok(self.verification(pinned, BodyProof::Whole))
            }
        }
    }

    /// Verifies it for the head of an answer, and returns the digest that the body must have, if any. `None`: one
    /// signature covers head and body, so it can only be verified for both.
    pub(super) fn verify_head(
        &self,
        pinned: &PinnedKey,
        now: UnixMillis,
    ) -> Option<Result<(Verification, Option<ContentDigest>), Problem>> {
        match self {
            Self::Channel { .. } => Some(Ok((self.verification(pinned, BodyProof::Channel), None))),
            Self::V1(_) => None,
            Self::V2 { signed, .. } => Some(self.verify_v2(pinned, now).map(|()| match signed.body() {
                SignedBody::Digest(digest) => (self.verification(pinned, BodyProof::AtEnd), Some(digest)),
                SignedBody::Streamed => (self.verification(pinned, BodyProof::HeadOnly), None),
            })),
        }
    }

    fn verify_v2(&self, pinned: &PinnedKey, now: UnixMillis) -> Result<(), Problem> {
        let Self::V2 {
            signed,
            status,
            request,
        } = self
        else {
            return Ok(());
        };
        signed
            .check_key(&pinned.key)
            .and_then(|()| signed.verify_signature(&pinned.key, *status, request))
            // Time last: an unsigned timestamp proves nothing.
            .and_then(|()| signed.check_time(now))
            .map_err(Problem::Signature)
    }

    fn verification(&self, pinned: &PinnedKey, body: BodyProof) -> Verification {
        Verification {
            responder: Some(self.name().clone()),
            key: Some(pinned.key),
            key_source: Some(pinned.source.clone()),
            signed_at: self.signed_at(),
            header: matches!(body, BodyProof::Whole | BodyProof::AtEnd),
            bound: self.is_bound(),
            inner: false,
            channel: matches!(self, Self::Channel { .. }),
            body,
            request: Some(match self {
                Self::Channel { .. } => Coverage::Channel,
                Self::V1(_) => Coverage::MethodAndPath,
                Self::V2 { .. } => Coverage::Whole,
            }),
        }
    }
}

fn name_in(headers: &HeaderMap, expected: Option<&NaraName>) -> Option<NaraName> {
    let said = headers.get(NAME_HEADER)?.as_bytes();
    match expected.filter(|expected| expected.as_str().as_bytes() == said) {
        Some(expected) => Some(expected.clone()),
        None => std::str::from_utf8(said).ok()?.parse().ok(),
    }
}

fn time_in(headers: &HeaderMap) -> Option<UnixMillis> {
    let text = headers.get(TIMESTAMP_HEADER)?.to_str().ok()?;
    text.parse().ok().map(UnixMillis::new)
}
