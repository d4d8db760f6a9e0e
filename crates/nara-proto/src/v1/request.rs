use std::borrow::Cow;
use std::time::Duration;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::FRESHNESS_WINDOW;
use super::headers::{HeaderError, Headers};
use crate::identity::{InvalidName, InvalidSignature, KeyPair, NaraName, PublicKey, Signature};
use crate::time::{UnixMillis, go_duration};

/// The authentication of one request: the claimed sender, the time, and the signature.
///
/// `Debug` does not show the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAuth(Headers);

/// The reason why a request is not authenticated. `Display` is the text that the peer receives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestAuthError {
    /// The signature is not the sender's over this request.
    #[error("signature verification failed")]
    BadSignature,
    /// The headers are missing, repeated or malformed.
    #[error("{}", header_reason(.0))]
    Header(HeaderError),
    /// The same signed request was received before.
    #[error("replayed request")]
    Replayed,
    /// The time of the request is outside the window.
    #[error("timestamp too old or in future: {}", go_duration(*.by, *.ahead))]
    Stale {
        /// The difference between the two clocks.
        by: Duration,
        /// Whether the request is from the receiver's future.
        ahead: bool,
    },
    /// No key is known for the name.
    #[error("unknown sender: {0}")]
    UnknownSender(NaraName),
}

/// Returns the reason that v1 peers give (docs/protocol/v1.md, section 4.3), where there is one.
fn header_reason(error: &HeaderError) -> String {
    match error {
        HeaderError::Missing(_) => "missing auth headers".to_owned(),
        HeaderError::Timestamp => "invalid timestamp".to_owned(),
        HeaderError::Signature(InvalidSignature::Encoding) => "invalid signature encoding".to_owned(),
        HeaderError::Signature(_) => "signature verification failed".to_owned(),
        HeaderError::Name(InvalidName::Empty) => "missing auth headers".to_owned(),
        other => other.to_string(),
    }
}

impl RequestAuth {
    /// Signs a request. `path` is the path of the request line, percent-encoded and without query.
    ///
    /// A client must never use the same `now` twice; see [`Stamp`](super::Stamp).
    pub fn sign(keypair: &KeyPair, name: &NaraName, now: UnixMillis, method: &str, path: &str) -> Self {
        let base = request_signature_base(name.as_str(), now, method, &signed_path(path));
        Self(Headers {
            name: name.clone(),
            timestamp: now,
            signature: keypair.sign(&base),
        })
    }

    /// Parses the headers of a request. Repeated headers and non-canonical spellings are errors.
    ///
    /// # Errors
    /// [`RequestAuthError::Header`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, RequestAuthError> {
        Headers::parse(headers)
            .map(Self)
            .map_err(RequestAuthError::Header)
    }

    /// Writes the three headers, replacing existing ones.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        self.0.write_to(headers);
    }

    /// Returns the claimed sender.
    pub fn name(&self) -> &NaraName {
        &self.0.name
    }

    /// Returns the time of signing.
    pub fn timestamp(&self) -> UnixMillis {
        self.0.timestamp
    }

    /// Returns the signature.
    pub fn signature(&self) -> &Signature {
        &self.0.signature
    }

    /// Checks that the time of the request is within [`FRESHNESS_WINDOW`] of `now`. It is cheap, so it comes first.
    ///
    /// # Errors
    /// [`RequestAuthError::Stale`].
    pub fn check_fresh(&self, now: UnixMillis) -> Result<(), RequestAuthError> {
        let by = now.abs_diff(self.0.timestamp);
        if by > FRESHNESS_WINDOW {
            return Err(RequestAuthError::Stale {
                by,
                ahead: self.0.timestamp > now,
            });
        }
        Ok(())
    }

    /// Verifies the signature, at any age. `path` is the path of the request line, percent-encoded and without query.
    ///
    /// # Errors
    /// [`RequestAuthError::BadSignature`].
    pub fn verify_signature(
        &self,
        key: &PublicKey,
        method: &str,
        path: &str,
    ) -> Result<(), RequestAuthError> {
        let base = request_signature_base(self.0.name.as_str(), self.0.timestamp, method, &signed_path(path));
        key.verify(&base, &self.0.signature)
            .map_err(|_| RequestAuthError::BadSignature)
    }

    /// Verifies freshness and signature. `path` is the path of the request line, percent-encoded and without query.
    ///
    /// # Errors
    /// [`RequestAuthError::Stale`] or [`RequestAuthError::BadSignature`].
    pub fn verify(
        &self,
        key: &PublicKey,
        method: &str,
        path: &str,
        now: UnixMillis,
    ) -> Result<(), RequestAuthError> {
        self.check_fresh(now)?;
        self.verify_signature(key, method, path)
    }
}

/// Returns the bytes that are signed for a request: name, time, method and decoded path, without separators
/// (docs/protocol/v1.md, section 4.1).
pub fn request_signature_base(name: &str, timestamp: UnixMillis, method: &str, path: &[u8]) -> Vec<u8> {
    let mut base = format!("{name}{timestamp}{method}").into_bytes();
    base.extend_from_slice(path);
    base
}

/// Returns the signed form of a path: percent-decoded to raw bytes.
///
/// ```
/// assert_eq!(&*nara_proto::v1::signed_path("/caf%C3%A9"), "/café".as_bytes());
/// ```
pub fn signed_path(path: &str) -> Cow<'_, [u8]> {
    percent_decode_str(path).into()
}
