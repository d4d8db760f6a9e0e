//! The header fields, each at most once and within its length, and the errors of a signature.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::MAX_LIFETIME;
use super::members::{joined, members};
use crate::encoding;
use crate::identity::{InvalidName, KeyId, NaraName, Signature};
use crate::time::UnixSeconds;
use crate::v1::NAME_HEADER;

/// The header that replaces the digest of a streamed body.
pub(super) const BODY_HEADER: HeaderName = HeaderName::from_static("x-nara-body");
/// The header that binds a request to its connection; on secure channels only.
pub(super) const CHANNEL_HEADER: HeaderName = HeaderName::from_static("x-nara-channel");
/// The header with the digest of the body (RFC 9530).
pub(super) const CONTENT_DIGEST_HEADER: HeaderName = HeaderName::from_static("content-digest");
/// The header with the signature (RFC 9421, section 4.2).
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("signature");
/// The header with the signature's components and parameters (RFC 9421, section 4.1).
pub const SIGNATURE_INPUT_HEADER: HeaderName = HeaderName::from_static("signature-input");
/// The header that names the recipient.
pub(super) const TO_HEADER: HeaderName = HeaderName::from_static("x-nara-to");

/// A header field that the signature depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedField {
    /// `X-Nara-Body`.
    Body,
    /// `X-Nara-Channel`.
    Channel,
    /// `Content-Digest`.
    ContentDigest,
    /// `X-Nara-Name`.
    Name,
    /// `Signature`.
    Signature,
    /// `Signature-Input`.
    SignatureInput,
    /// `X-Nara-To`.
    To,
}

impl fmt::Display for SignedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => "X-Nara-Body",
            Self::Channel => "X-Nara-Channel",
            Self::ContentDigest => "Content-Digest",
            Self::Name => "X-Nara-Name",
            Self::Signature => "Signature",
            Self::SignatureInput => "Signature-Input",
            Self::To => "X-Nara-To",
        })
    }
}

/// The prefix of our member: [`LABEL`](super::LABEL) and `=`.
pub(super) const LABEL_PREFIX: &str = "nara=";

impl SignedField {
    /// Returns the name of the header.
    pub const fn header(self) -> HeaderName {
        match self {
            Self::Body => BODY_HEADER,
            Self::Channel => CHANNEL_HEADER,
            Self::ContentDigest => CONTENT_DIGEST_HEADER,
            Self::Name => NAME_HEADER,
            Self::Signature => SIGNATURE_HEADER,
            Self::SignatureInput => SIGNATURE_INPUT_HEADER,
            Self::To => TO_HEADER,
        }
    }

    /// Returns the maximum length of a value, in bytes. `Signature-Input`, `Signature` and `Content-Digest` may have
    /// members beside ours: together 4,096 bytes.
    pub const fn max_len(self) -> usize {
        match self {
            Self::Body => 16,
            Self::Channel | Self::ContentDigest => 64,
            Self::Name => NaraName::MAX_LEN,
            Self::Signature => 128,
            Self::SignatureInput => 512,
            // Each byte of a name may take three bytes.
            Self::To => 3 * NaraName::MAX_LEN,
        }
    }
}

/// Returns the one value of a required field.
pub(super) fn single(headers: &HeaderMap, field: SignedField) -> Result<&HeaderValue, SignatureError> {
    optional(headers, field)?.ok_or(SignatureError::Missing(field))
}

/// Returns the one value of an optional field.
pub(super) fn optional(
    headers: &HeaderMap,
    field: SignedField,
) -> Result<Option<&HeaderValue>, SignatureError> {
    let mut values = headers.get_all(field.header()).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(SignatureError::Repeated(field));
    }
    if value.len() > field.max_len() {
        return Err(SignatureError::TooLong(field));
    }
    Ok(Some(value))
}

/// Returns the name of the signer.
pub(super) fn name(headers: &HeaderMap) -> Result<NaraName, SignatureError> {
    let value = single(headers, SignedField::Name)?;
    let name = std::str::from_utf8(value.as_bytes()).map_err(|_| SignatureError::NameEncoding)?;
    NaraName::new(name).map_err(SignatureError::Name)
}

/// Returns a value of printable ASCII.
pub(super) fn ascii(value: &HeaderValue, field: SignedField) -> Result<&str, SignatureError> {
    value.to_str().map_err(|_| SignatureError::Malformed(field))
}

/// Parses a field with one byte sequence, in its canonical spelling: `prefix:base64:`. With the prefix `key=` it is a
/// dictionary of one member (RFC 9651, section 3.2).
pub(super) fn byte_sequence<const N: usize>(
    value: &HeaderValue,
    prefix: &str,
    field: SignedField,
) -> Result<[u8; N], SignatureError> {
    let text = value.as_bytes().strip_prefix(prefix.as_bytes());
    text.and_then(bytes_of).ok_or(SignatureError::Malformed(field))
}

fn bytes_of<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    encoding::base64_decode_exactly(text.strip_prefix(b":")?.strip_suffix(b":")?)
}

/// Returns the signature with this label in the field [`SignedField::Signature`].
pub(super) fn signature(headers: &HeaderMap, label: &str) -> Result<Signature, SignatureError> {
    const FIELD: SignedField = SignedField::Signature;
    let text = own_member(headers, FIELD, label)?.ok_or(SignatureError::Label)?;
    let value = text.own.as_bytes().strip_prefix(label.as_bytes());
    let bytes = value.and_then(|value| bytes_of(value.strip_prefix(b"=")?));
    bytes
        .map(Signature::from_bytes)
        .ok_or(SignatureError::Malformed(FIELD))
}

/// Our member of a field, and the whole field if it has others.
pub(super) struct OwnMember {
    pub(super) own: HeaderValue,
    pub(super) whole: Option<String>,
}

/// Returns the member of a dictionary field with this key, with its spelling; `None` if it has only others.
pub(super) fn own_member(
    headers: &HeaderMap,
    field: SignedField,
    key: &str,
) -> Result<Option<OwnMember>, SignatureError> {
    let mut lines = headers.get_all(field.header()).iter();
    match (lines.next(), lines.next()) {
        (None, _) => return Err(SignatureError::Missing(field)),
        // Nearly all fields have one member. A comma within a string would not be a byte sequence.
        (Some(own), None) if own.len() <= field.max_len() && !own.as_bytes().contains(&b',') => {
            let is_own = own.as_bytes().strip_prefix(key.as_bytes());
            if is_own.is_some_and(|rest| rest.first() == Some(&b'=')) {
                let own = own.clone();
                return Ok(Some(OwnMember { own, whole: None }));
            }
        }
        _ => {}
    }
    let whole = joined(headers, field)?;
    let members = members(&whole, field)?;
    let Some(member) = members.iter().find(|member| member.key == key) else {
        return Ok(None);
    };
    if member.text.len() > field.max_len() {
        return Err(SignatureError::TooLong(field));
    }
    let own = value(member.text);
    let whole = (members.len() > 1).then(|| whole.clone().into_owned());
    Ok(Some(OwnMember { own, whole }))
}

/// Formats a signature for [`signature`].
pub(super) fn signature_text(signature: &Signature) -> String {
    byte_sequence_text(LABEL_PREFIX, signature.as_bytes())
}

/// Formats a byte sequence for [`byte_sequence`].
pub(super) fn byte_sequence_text(prefix: &str, bytes: &[u8]) -> String {
    // With the exact capacity, a header value takes the buffer over without a copy.
    let len = prefix.len() + 2 + bytes.len().div_ceil(3) * 4;
    let mut text = String::with_capacity(len);
    append_byte_sequence(prefix, bytes, &mut text);
    debug_assert_eq!((text.len(), text.capacity()), (len, len));
    text
}

/// Appends a byte sequence for [`byte_sequence`].
pub(super) fn append_byte_sequence(prefix: &str, bytes: &[u8], text: &mut String) {
    text.push_str(prefix);
    text.push(':');
    encoding::base64_append(bytes, text);
    text.push(':');
}

/// Makes a header value of printable ASCII, or of a name.
pub(super) fn value(text: impl Into<String>) -> HeaderValue {
    HeaderValue::try_from(text.into()).expect("neither names nor structured fields have control characters")
}

/// The reason why a message has no valid signature of profile v2. `Display` is the text that a peer receives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The signature is not the key's over this message.
    #[error("signature verification failed")]
    BadSignature,
    /// The body does not match the signed digest.
    #[error("the body does not match the signed Content-Digest")]
    Body,
    /// It was signed for another connection, or the connection has no binding.
    #[error("signed for another connection")]
    Channel,
    /// The covered components are not the required ones.
    #[error("the signature must cover exactly {expected}")]
    Components {
        /// The required components.
        expected: &'static str,
    },
    /// The time in `expires` has passed.
    #[error(
        "the signature expired at {expires} s, and the receiver's clock says {now} s: sign again, or check both clocks"
    )]
    Expired {
        /// The expiry time, by the sender's clock.
        expires: UnixSeconds,
        /// The receiver's time.
        now: UnixSeconds,
    },
    /// Another key is pinned for the name.
    #[error("signed with key {claimed}, but key {known} is pinned for this name")]
    KeyId {
        /// The key that the signature claims.
        claimed: KeyId,
        /// The pinned key.
        known: KeyId,
    },
    /// There is no signature with the label or the tag of the profile, or an input without its signature.
    #[error("there must be exactly one signature, labelled {:?}", super::LABEL)]
    Label,
    /// `expires` is before `created`, or too far after it.
    #[error("the signature must expire within {} s after it was created", MAX_LIFETIME.as_secs())]
    Lifetime,
    /// A field is not in its canonical spelling.
    #[error("{0} is not in the strict spelling of this profile")]
    Malformed(SignedField),
    /// A field is missing.
    #[error("{0} is missing")]
    Missing(SignedField),
    /// A parameter is missing.
    #[error("the signature has no {0}")]
    MissingParameter(&'static str),
    /// The name is invalid.
    #[error("X-Nara-Name is not a valid name: {0}")]
    Name(InvalidName),
    /// The name is not UTF-8.
    #[error("X-Nara-Name is not UTF-8")]
    NameEncoding,
    /// A parameter has a wrong value or type.
    #[error("the signature has an invalid {0}")]
    Parameter(&'static str),
    /// The message is for another nara.
    #[error("signed for another nara: X-Nara-To names neither the id nor the name of this nara")]
    Recipient,
    /// A field is repeated: two readers could use different values.
    #[error("{0} is repeated")]
    Repeated(SignedField),
    /// `created` is outside the window.
    #[error("signed at {created} s, {} s {} the receiver's clock ({now} s): one of the two clocks is wrong",
        created.abs_diff(*now).as_secs(), if created > now { "ahead of" } else { "behind" })]
    Stale {
        /// The time of signing, by the sender's clock.
        created: UnixSeconds,
        /// The receiver's time.
        now: UnixSeconds,
    },
    /// The body is streamed, so the signature does not cover it, and this receiver does not accept streams.
    #[error("the body is streamed, so its bytes are not signed: send it with a Content-Digest")]
    Streamed,
    /// A field exceeds its maximum length.
    #[error("{} is longer than {} bytes", .0, .0.max_len())]
    TooLong(SignedField),
    /// Both headers about the body are present.
    #[error("there must be either Content-Digest or X-Nara-Body, not both")]
    TwoBodies,
    /// A parameter is not part of the profile.
    #[error("the signature has an unknown parameter")]
    UnknownParameter,
}
