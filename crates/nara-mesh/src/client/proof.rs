use http::StatusCode;
use nara_proto::auth::ResponseAuth;
use nara_proto::identity::{NaraName, PreparedKeys, Signature};
use nara_proto::signature::{self, ResponseSignature};
use nara_proto::time::UnixMillis;

use super::Verification;
use super::call::Reply;
use super::error::ErrorKind;
use crate::registry::PinnedKey;

/// The signature of an answer.
#[derive(Clone, Debug)]
pub(super) enum AnswerProof {
    /// The inherited one: for whatever request.
    V1(ResponseAuth),
    /// Profile v2: for this status and this request.
    V2 {
        signed: ResponseSignature,
        status: StatusCode,
        request: Signature,
    },
}

impl AnswerProof {
    /// What answers a request that went out with v2 is v2 if it claims to be; a bad one is not another chance for the
    /// inherited one.
    pub(super) fn read(reply: &Reply) -> Result<Self, ErrorKind> {
        let inherited = || {
            let auth = ResponseAuth::from_headers(&reply.headers);
            auth.map(Self::V1).map_err(ErrorKind::Unauthenticated)
        };
        let Some(request) = reply.sent.v2 else {
            return inherited();
        };
        if signature::is_claimed(&reply.headers) {
            let signed = ResponseSignature::from_headers(&reply.headers).map_err(ErrorKind::Signature)?;
            return Ok(Self::V2 {
                signed,
                status: reply.status,
                request,
            });
        }
        // Without an inherited signature it was asked as one who speaks v2.
        if reply.sent.v1.is_none() {
            return Err(ErrorKind::Downgrade);
        }
        inherited()
    }

    pub(super) fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// Who claims to respond.
    pub(super) fn name(&self) -> &NaraName {
        match self {
            Self::V1(auth) => auth.name(),
            Self::V2 { signed, .. } => signed.name(),
        }
    }

    pub(super) fn verify(
        &self,
        keys: &PreparedKeys,
        pinned: &PinnedKey,
        body: &[u8],
        now: UnixMillis,
    ) -> Result<Verification, ErrorKind> {
        let key = pinned.key;
        let verifier = keys.of(&key);
        let signed_at = match self {
            Self::V1(auth) => {
                auth.verify(&verifier, body, now)
                    .map_err(ErrorKind::Unauthenticated)?;
                auth.timestamp()
            }
            Self::V2 {
                signed,
                status,
                request,
            } => {
                signed
                    .check_time(now)
                    .and_then(|()| signed.check_key(&key))
                    .and_then(|()| signed.digest().check(body))
                    .and_then(|()| signed.verify_signature(&verifier, *status, request))
                    .map_err(ErrorKind::Signature)?;
                signed.created().to_millis()
            }
        };
        Ok(Verification {
            responder: Some(self.name().clone()),
            key: Some(key),
            key_source: Some(pinned.source.clone()),
            signed_at: Some(signed_at),
            header: true,
            bound: self.is_v2(),
            channel: false,
            inner: false,
        })
    }
}
