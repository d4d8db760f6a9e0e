//! Signed answers.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::fields::{self, LABEL_PREFIX};
use super::input::{Params, SignatureBase};
use super::{ContentDigest, SignatureError, SignedBody, SignedField, Signer};
use crate::identity::{KeyId, NaraName, PublicKey, Signature};
use crate::time::{UnixMillis, UnixSeconds};
use crate::v1::{FRESHNESS_WINDOW, NAME_HEADER};

const ACCEPT_SIGNATURE_HEADER: HeaderName = HeaderName::from_static("accept-signature");

/// The signature that a request asks of its answer, in the header `Accept-Signature` (RFC 9421, section 5.1).
///
/// This header is not signed. If a man in the middle removes it, the answer is unsigned and the client refuses it; if
/// he sets it to [`Streamed`](Self::Streamed), a client that did not ask for a stream refuses the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptSignature {
    /// A signature that covers the digest of the body.
    Digest,
    /// A signature of the head alone is accepted, too: the body may be a stream.
    Streamed,
}

const ACCEPT_DIGEST: &str = r#"nara=("@status" "content-digest" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#;
const ACCEPT_STREAMED: &str =
    r#"nara=("@status" "x-nara-body" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#;

impl AcceptSignature {
    /// Returns the requested signature; `None` if the request does not ask for one. An unknown value asks for a digest,
    /// as every value did before streamed bodies existed.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(ACCEPT_SIGNATURE_HEADER)?;
        Some(if value == ACCEPT_STREAMED {
            Self::Streamed
        } else {
            Self::Digest
        })
    }

    /// Writes the header, replacing an existing one.
    pub fn write_to(self, headers: &mut HeaderMap) {
        let value = HeaderValue::from_static(match self {
            Self::Digest => ACCEPT_DIGEST,
            Self::Streamed => ACCEPT_STREAMED,
        });
        headers.insert(ACCEPT_SIGNATURE_HEADER, value);
    }
}

const COVERED: &str = r#"("@status" "content-digest" "x-nara-name" "signature";req)"#;
const STREAMED: &str = r#"("@status" "x-nara-body" "x-nara-name" "signature";req)"#;

/// The input of an answer's signature.
#[derive(Clone, Copy, Debug)]
pub struct ResponseToSign<'a> {
    /// The status.
    pub status: StatusCode,
    /// The digest of the body, or the marker of a streamed body.
    pub body: SignedBody,
    /// The signature of the request.
    pub request: &'a Signature,
    /// The time of signing.
    pub now: UnixMillis,
}

/// The signature of one answer, with everything that it covers besides status and request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseSignature {
    name: NaraName,
    body: SignedBody,
    /// The whole `Content-Digest`, if it has digests of other algorithms.
    digests: Option<String>,
    params: Params,
    signature: Signature,
}

impl Signer {
    /// Signs an answer.
    pub fn sign_response(&self, response: &ResponseToSign<'_>) -> ResponseSignature {
        let mut signed = ResponseSignature {
            name: self.name().clone(),
            body: response.body,
            digests: None,
            params: Params::new(
                covered(response.body),
                response.now.to_seconds(),
                None,
                self.key_id(),
            ),
            signature: Signature::from_bytes([0; 64]),
        };
        let base = signed.base(response.status, response.request);
        signed.signature = self.keypair().sign(&base);
        signed
    }
}

impl ResponseSignature {
    /// Parses the headers of an answer; as strict as
    /// [`RequestSignature::from_headers`](super::RequestSignature::from_headers).
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let input = Params::input(headers)?;
        let (body, digests) = SignedBody::from_headers(headers)?;
        let (params, label) = Params::parse(&input, covered(body))?;
        if params.expires.is_some() || params.nonce.is_some() {
            return Err(SignatureError::UnknownParameter);
        }
        Ok(Self {
            name: fields::name(headers)?,
            body,
            digests,
            params,
            signature: fields::signature(headers, &label)?,
        })
    }

    /// Writes the headers, replacing existing ones.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(NAME_HEADER, fields::value(self.name.as_str()));
        self.body.write_to(headers);
        headers.insert(
            SignedField::SignatureInput.header(),
            fields::value(self.params.field()),
        );
        headers.insert(
            SignedField::Signature.header(),
            fields::value(fields::signature_text(&self.signature)),
        );
    }

    /// Returns the claimed responder.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// Returns the signed statement about the body.
    pub fn body(&self) -> SignedBody {
        self.body
    }

    /// Returns the digest that the body must have.
    ///
    /// # Errors
    /// [`SignatureError::Streamed`] if the body is streamed: a receiver that accepts streams calls [`body`](Self::body)
    /// instead.
    pub fn digest(&self) -> Result<ContentDigest, SignatureError> {
        self.body.digest()
    }

    /// Returns the time of signing, by the responder's clock.
    pub fn created(&self) -> UnixSeconds {
        self.params.created
    }

    /// Returns the claimed key.
    pub fn key_id(&self) -> KeyId {
        self.params.key_id
    }

    /// Checks that it was signed within [`FRESHNESS_WINDOW`] of `now`. It is valid for one request only at any age, so
    /// this only detects wrong clocks.
    ///
    /// # Errors
    /// [`SignatureError::Stale`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), SignatureError> {
        let now = now.to_seconds();
        let created = self.created();
        if created.abs_diff(now) > FRESHNESS_WINDOW {
            return Err(SignatureError::Stale { created, now });
        }
        Ok(())
    }

    /// Checks that it claims the key that is pinned for the name.
    ///
    /// # Errors
    /// [`SignatureError::KeyId`].
    pub fn check_key(&self, key: &PublicKey) -> Result<(), SignatureError> {
        self.params.check_key(key)
    }

    /// Verifies that the responder signed this status and the statement about the body as the answer to the request
    /// with this signature.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`].
    pub fn verify_signature(
        &self,
        key: &PublicKey,
        status: StatusCode,
        request: &Signature,
    ) -> Result<(), SignatureError> {
        // As for requests.
        let verified = key
            .verify(&self.base(status, request), &self.signature)
            .or_else(|error| {
                let digests = self.digests.as_deref().ok_or(error)?;
                key.verify(&self.base_with(status, request, Some(digests)), &self.signature)
            });
        verified.map_err(|_| SignatureError::BadSignature)
    }

    /// Returns the bytes that are signed (RFC 9421, section 2.5).
    pub fn base(&self, status: StatusCode, request: &Signature) -> Vec<u8> {
        self.base_with(status, request, None)
    }

    fn base_with(&self, status: StatusCode, request: &Signature, digests: Option<&str>) -> Vec<u8> {
        let mut base = SignatureBase::new();
        base.component("\"@status\"", status.as_str());
        self.body.append_to(&mut base, digests);
        base.component("\"x-nara-name\"", self.name.as_str())
            .byte_sequence("\"signature\";req", LABEL_PREFIX, request.as_bytes());
        base.finish(self.params.text())
    }
}

fn covered(body: SignedBody) -> &'static str {
    match body {
        SignedBody::Digest(_) => COVERED,
        SignedBody::Streamed => STREAMED,
    }
}
