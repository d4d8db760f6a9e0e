//! The parts of a signature that concern the body.

use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::fields::{self, byte_sequence, byte_sequence_text, optional, own_member};
use super::input::SignatureBase;
use super::{SignatureError, SignedField};

/// The digest of a body in `Content-Digest`: SHA-256 (RFC 9530, section 2). An empty body has one, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    const ALGORITHM: &str = "sha-256";
    pub(super) const PREFIX: &str = "sha-256=";

    /// Computes the digest of a whole body.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// Parses the header. It must contain SHA-256 once; digests of other algorithms are ignored.
    ///
    /// # Errors
    /// [`SignatureError`] if it is missing, repeated or malformed.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, SignatureError> {
        Self::with_others(headers).map(|(digest, _)| digest)
    }

    /// Like [`ContentDigest::from_headers`]; also returns the whole field if it has digests of other algorithms.
    pub(super) fn with_others(headers: &HeaderMap) -> Result<(Self, Option<String>), SignatureError> {
        const FIELD: SignedField = SignedField::ContentDigest;
        let member = own_member(headers, FIELD, Self::ALGORITHM)?.ok_or(SignatureError::Malformed(FIELD))?;
        let digest = byte_sequence(&member.own, Self::PREFIX, FIELD).map(Self)?;
        Ok((digest, member.whole))
    }

    /// Returns the value of the header.
    pub fn to_field(&self) -> String {
        byte_sequence_text(Self::PREFIX, &self.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Checks a whole body. For a body that arrives in parts see [`DigestHasher`].
    ///
    /// # Errors
    /// [`SignatureError::Body`] if its digest differs.
    pub fn check(&self, body: &[u8]) -> Result<(), SignatureError> {
        self.check_same(&Self::of(body))
    }

    /// Checks that two digests are equal.
    ///
    /// # Errors
    /// [`SignatureError::Body`] if they are not.
    pub fn check_same(&self, other: &Self) -> Result<(), SignatureError> {
        if self.0.ct_eq(&other.0).into() {
            Ok(())
        } else {
            Err(SignatureError::Body)
        }
    }
}

/// The proof of the body: a signature covers exactly one of the two headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignedBody {
    /// `Content-Digest` is covered: exactly these bytes.
    Digest(ContentDigest),
    /// `X-Nara-Body: stream` is covered: the sender states that the body has no digest. The signature proves the head;
    /// only the connection can prove the body.
    Streamed,
}

impl SignedBody {
    const STREAM: HeaderValue = HeaderValue::from_static("stream");

    /// Parses the header about the body; also returns the whole `Content-Digest` if it has digests of other algorithms.
    /// # Errors
    /// [`SignatureError`] if it is missing, repeated or malformed, or if both headers are there.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<(Self, Option<String>), SignatureError> {
        match optional(headers, SignedField::Body)? {
            None => ContentDigest::with_others(headers).map(|(digest, whole)| (Self::Digest(digest), whole)),
            Some(_) if headers.contains_key(SignedField::ContentDigest.header()) => {
                Err(SignatureError::TwoBodies)
            }
            Some(value) if value == Self::STREAM => Ok((Self::Streamed, None)),
            Some(_) => Err(SignatureError::Malformed(SignedField::Body)),
        }
    }

    /// Writes the header about the body, and removes the other one.
    pub(super) fn write_to(self, headers: &mut HeaderMap) {
        match self {
            Self::Digest(digest) => {
                headers.remove(SignedField::Body.header());
                headers.insert(
                    SignedField::ContentDigest.header(),
                    fields::value(digest.to_field()),
                );
            }
            Self::Streamed => {
                headers.remove(SignedField::ContentDigest.header());
                headers.insert(SignedField::Body.header(), Self::STREAM);
            }
        }
    }

    /// Adds the component about the body: with the digest alone, or with the whole field.
    pub(super) fn append_to(self, base: &mut SignatureBase, whole: Option<&str>) {
        match (self, whole) {
            (Self::Digest(_), Some(whole)) => {
                base.component("\"content-digest\"", whole);
            }
            (Self::Digest(digest), None) => {
                base.byte_sequence("\"content-digest\"", ContentDigest::PREFIX, &digest.0);
            }
            (Self::Streamed, _) => {
                base.component("\"x-nara-body\"", "stream");
            }
        }
    }

    /// Returns the digest, for a receiver that does not accept streams.
    ///
    /// # Errors
    /// [`SignatureError::Streamed`].
    pub fn digest(self) -> Result<ContentDigest, SignatureError> {
        match self {
            Self::Digest(digest) => Ok(digest),
            Self::Streamed => Err(SignatureError::Streamed),
        }
    }
}

/// Computes the digest of a body that arrives in parts.
#[derive(Clone, Debug, Default)]
pub struct DigestHasher(Sha256);

impl DigestHasher {
    /// Adds the next part.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// Returns the digest of all parts.
    pub fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finalize().into())
    }
}
