use http::HeaderMap;
use http::StatusCode;
use nara_proto::identity::{NaraName, PreparedKeys, Signature};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, ResponseAuth, ResponseAuthError, TIMESTAMP_HEADER};
use nara_proto::v2::{self, ResponseSignature};

use super::Verification;
use super::call::Reply;
use super::error::ErrorKind;
use crate::registry::PinnedKey;

/// The signature of an answer.
#[derive(Clone, Debug)]
pub(super) enum AnswerProof {
    /// None: it came over a secure connection that the request trusted.
    Channel {
        name: NaraName,
        signed_at: Option<UnixMillis>,
    },
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
        if v2::is_claimed(&reply.headers) {
            let signed = ResponseSignature::from_headers(&reply.headers).map_err(ErrorKind::Signature)?;
            return Ok(Self::V2 {
                signed,
                status: reply.status,
                request,
            });
        }
        if reply.sent.trusts_channel
            && let Some(name) = name_in(&reply.headers)
        {
            let signed_at = time_in(&reply.headers);
            return Ok(Self::Channel { name, signed_at });
        }
        // Without an inherited signature it was asked as one who speaks v2.
        if reply.sent.v1.is_none() {
            return Err(ErrorKind::Downgrade);
        }
        inherited()
    }

    /// Whether it belongs to this very request, by its signature or by its connection.
    pub(super) fn is_bound(&self) -> bool {
        !matches!(self, Self::V1(_))
    }

    /// Who claims to respond.
    pub(super) fn name(&self) -> &NaraName {
        match self {
            Self::Channel { name, .. } => name,
            Self::V1(auth) => auth.name(),
            Self::V2 { signed, .. } => signed.name(),
        }
    }

    /// When it claims to have been signed.
    pub(super) fn signed_at(&self) -> Option<UnixMillis> {
        match self {
            Self::Channel { signed_at, .. } => *signed_at,
            Self::V1(auth) => Some(auth.timestamp()),
            Self::V2 { signed, .. } => Some(signed.created().to_millis()),
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
        let signed_at = match self {
            // Whoever asked has compared the key of the connection with the pinned one.
            Self::Channel { signed_at, .. } => *signed_at,
            Self::V1(auth) => {
                let verifier = keys.of(&key);
                let verified = auth.verify(&verifier, body, now);
                if let Err(ResponseAuthError::Stale { .. }) = verified {
                    // Of a time that nobody signed there is nothing to say.
                    auth.verify_signature(&verifier, body)
                        .map_err(ErrorKind::Unauthenticated)?;
                }
                verified.map_err(ErrorKind::Unauthenticated)?;
                Some(auth.timestamp())
            }
            Self::V2 {
                signed,
                status,
                request,
            } => {
                signed
                    .check_key(&key)
                    .and_then(|()| signed.digest())
                    .and_then(|digest| digest.check(body))
                    .and_then(|()| signed.verify_signature(&keys.of(&key), *status, request))
                    // Last: of a time that nobody signed there is nothing to say.
                    .and_then(|()| signed.check_time(now))
                    .map_err(ErrorKind::Signature)?;
                Some(signed.created().to_millis())
            }
        };
        Ok(Verification {
            responder: Some(self.name().clone()),
            key: Some(key),
            key_source: Some(pinned.source.clone()),
            signed_at,
            header: !matches!(self, Self::Channel { .. }),
            bound: self.is_bound(),
            inner: false,
            channel: matches!(self, Self::Channel { .. }),
        })
    }
}

fn name_in(headers: &HeaderMap) -> Option<NaraName> {
    std::str::from_utf8(headers.get(NAME_HEADER)?.as_bytes())
        .ok()?
        .parse()
        .ok()
}

fn time_in(headers: &HeaderMap) -> Option<UnixMillis> {
    let text = headers.get(TIMESTAMP_HEADER)?.to_str().ok()?;
    text.parse().ok().map(UnixMillis::new)
}
