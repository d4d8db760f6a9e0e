use http::HeaderMap;
use sha2::{Digest as _, Sha256};

use super::FRESHNESS_WINDOW;
use super::headers::{HeaderError, Headers};
use crate::encoding;
use crate::identity::{KeyPair, NaraName, PublicKey};
use crate::time::UnixMillis;

/// The authentication of one response. It covers the responder, the time and the body, but neither the status nor the
/// request.
///
/// `Debug` does not show the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseAuth(Headers);

/// The reason why a response is not authenticated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseAuthError {
    /// The signature is not the responder's over this body.
    #[error("the response signature does not verify")]
    BadSignature,
    /// The headers are missing, repeated or malformed.
    #[error("{0}")]
    Header(HeaderError),
    /// It was signed too long ago, or in the future.
    #[error("the response was signed {} ms off our clock, and the limit is {} s", .by.as_millis(), FRESHNESS_WINDOW.as_secs())]
    Stale {
        /// The difference between the two clocks.
        by: std::time::Duration,
    },
    /// Another nara than the requested one answered.
    #[error("{got} answered instead of {expected}")]
    WrongResponder {
        /// The requested nara.
        expected: NaraName,
        /// The responder.
        got: NaraName,
    },
}

impl ResponseAuth {
    /// Signs a response with this body.
    pub fn sign(keypair: &KeyPair, name: &NaraName, now: UnixMillis, body: &[u8]) -> Self {
        let base = response_signature_base(name.as_str(), now, &body_hash(body));
        Self(Headers {
            name: name.clone(),
            timestamp: now,
            signature: keypair.sign(base.as_bytes()),
        })
    }

    /// Parses the headers of a response.
    ///
    /// # Errors
    /// [`ResponseAuthError::Header`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, ResponseAuthError> {
        Headers::parse(headers)
            .map(Self)
            .map_err(ResponseAuthError::Header)
    }

    /// Writes the three headers, replacing existing ones.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        self.0.write_to(headers);
    }

    /// Returns the claimed responder.
    pub fn name(&self) -> &NaraName {
        &self.0.name
    }

    /// Returns the time of signing.
    pub fn timestamp(&self) -> UnixMillis {
        self.0.timestamp
    }

    /// Verifies the signature over the body, at any age.
    ///
    /// # Errors
    /// [`ResponseAuthError::BadSignature`].
    pub fn verify_signature(&self, key: &PublicKey, body: &[u8]) -> Result<(), ResponseAuthError> {
        let base = response_signature_base(self.0.name.as_str(), self.0.timestamp, &body_hash(body));
        key.verify(base.as_bytes(), &self.0.signature)
            .map_err(|_| ResponseAuthError::BadSignature)
    }

    /// Verifies that the response was signed within [`FRESHNESS_WINDOW`] of `now`, and the signature over the body. V1
    /// peers do not check the time, so an old answer of theirs would verify for ever.
    ///
    /// # Errors
    /// [`ResponseAuthError::Stale`] or [`ResponseAuthError::BadSignature`].
    pub fn verify(&self, key: &PublicKey, body: &[u8], now: UnixMillis) -> Result<(), ResponseAuthError> {
        let by = now.abs_diff(self.0.timestamp);
        if by > FRESHNESS_WINDOW {
            return Err(ResponseAuthError::Stale { by });
        }
        self.verify_signature(key, body)
    }
}

/// Returns the text that is signed for a response: name, time and body hash, without separators (docs/protocol/v1.md,
/// section 5).
pub fn response_signature_base(name: &str, timestamp: UnixMillis, body_hash: &str) -> String {
    format!("{name}{timestamp}{body_hash}")
}

/// Returns the hash of a body in its signed form: base64 of the SHA-256.
pub fn body_hash(body: &[u8]) -> String {
    encoding::base64_encode(&Sha256::digest(body))
}
