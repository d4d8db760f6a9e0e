//! The header fields, each at most once and within its length, and what can be wrong with them.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::MAX_LIFETIME;
use super::members::{joined, members};
use crate::encoding;
use crate::identity::{InvalidName, KeyId, NaraName, Signature};
use crate::time::UnixSeconds;
use crate::v1::NAME_HEADER;

/// The header that stands in place of the digest of a body that is streamed.
pub(super) const BODY_HEADER: HeaderName = HeaderName::from_static("x-nara-body");
/// The header that binds a request to its connection; only on secure channels.
pub(super) const CHANNEL_HEADER: HeaderName = HeaderName::from_static("x-nara-channel");
/// The header with the digest of the body (RFC 9530).
pub(super) const CONTENT_DIGEST_HEADER: HeaderName = HeaderName::from_static("content-digest");
/// The header with the signature (RFC 9421, section 4.2).
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("signature");
/// The header that says what is signed (RFC 9421, section 4.1).
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

/// What stands before the value of the one member: [`LABEL`](super::LABEL) and `=`.
pub(super) const LABEL_PREFIX: &str = "nara=";

impl SignedField {
    /// The name of the header.
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

    /// The longest valid value, in bytes. Beside our own member of it, `Signature-Input`, `Signature` and `Content-Digest`
    /// may have others: all together 4,096 bytes.
    pub const fn max_len(self) -> usize {
        match self {
            Self::Body => 16,
            Self::Channel | Self::ContentDigest => 64,
            Self::Name => NaraName::MAX_LEN,
            Self::Signature => 128,
            Self::SignatureInput => 512,
            // Each byte of a name may take three.
            Self::To => 3 * NaraName::MAX_LEN,
        }
    }
}

/// The one value of a field that must be there.
pub(super) fn single(headers: &HeaderMap, field: SignedField) -> Result<&HeaderValue, SignatureError> {
    optional(headers, field)?.ok_or(SignatureError::Missing(field))
}

/// The one value of a field that may be there.
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

/// The name of the signer.
pub(super) fn name(headers: &HeaderMap) -> Result<NaraName, SignatureError> {
    let value = single(headers, SignedField::Name)?;
    let name = std::str::from_utf8(value.as_bytes()).map_err(|_| SignatureError::NameEncoding)?;
    NaraName::new(name).map_err(SignatureError::Name)
}

/// A value of letters, digits and signs of ASCII.
pub(super) fn ascii(value: &HeaderValue, field: SignedField) -> Result<&str, SignatureError> {
    value.to_str().map_err(|_| SignatureError::Malformed(field))
}

/// The bytes of a field with one byte sequence, in its one spelling: `prefix:base64:`. With the prefix `key=` it is a
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

/// The signature with this label in the field [`SignedField::Signature`].
pub(super) fn signature(headers: &HeaderMap, label: &str) -> Result<Signature, SignatureError> {
    const FIELD: SignedField = SignedField::Signature;
    let text = own_member(headers, FIELD, label)?.ok_or(SignatureError::Label)?;
    let value = text.own.as_bytes().strip_prefix(label.as_bytes());
    let bytes = value.and_then(|value| bytes_of(value.strip_prefix(b"=")?));
    bytes
        .map(Signature::from_bytes)
        .ok_or(SignatureError::Malformed(FIELD))
}

/// A member of a field, and the whole field if it has others.
pub(super) struct OwnMember {
    pub(super) own: HeaderValue,
    pub(super) whole: Option<String>,
}

/// The member of a dictionary field with this key, as it is spelled; `None`: it has only others.
pub(super) fn own_member(
    headers: &HeaderMap,
    field: SignedField,
    key: &str,
) -> Result<Option<OwnMember>, SignatureError> {
    let mut lines = headers.get_all(field.header()).iter();
    match (lines.next(), lines.next()) {
        (None, _) => return Err(SignatureError::Missing(field)),
        // Nearly all: one member alone. What a comma hides in a string is not one byte sequence.
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

/// What [`signature`] reads.
pub(super) fn signature_text(signature: &Signature) -> String {
    byte_sequence_text(LABEL_PREFIX, signature.as_bytes())
}

/// What [`byte_sequence`] reads.
pub(super) fn byte_sequence_text(prefix: &str, bytes: &[u8]) -> String {
    // No more and no less: a header takes such a text over as it is.
    let len = prefix.len() + 2 + bytes.len().div_ceil(3) * 4;
    let mut text = String::with_capacity(len);
    append_byte_sequence(prefix, bytes, &mut text);
    debug_assert_eq!((text.len(), text.capacity()), (len, len));
    text
}

/// Appends what [`byte_sequence`] reads.
pub(super) fn append_byte_sequence(prefix: &str, bytes: &[u8], text: &mut String) {
    text.push_str(prefix);
    text.push(':');
    encoding::base64_append(bytes, text);
    text.push(':');
}

/// The value of a header that was made here of printable ASCII, or of a name.
pub(super) fn value(text: impl Into<String>) -> HeaderValue {
    HeaderValue::try_from(text.into()).expect("neither names nor structured fields have control characters")
}

/// Why a message is not signed by profile v2. `Display` is the reason that a peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The signature is not one of the key over this message.
    #[error("signature verification failed")]
    BadSignature,
    /// The body is not the one whose digest is signed.
    #[error("the body does not match the signed Content-Digest")]
    Body,
    /// Signed for another connection, or the connection proves nothing.
    #[error("signed for another connection")]
    Channel,
    /// Something else is covered than what must be.
    #[error("the signature must cover exactly {expected}")]
    Components {
        /// What must be covered.
        expected: &'static str,
    },
    /// The time in `expires` has passed.
    #[error(
        "the signature expired at {expires} s, and the receiver's clock says {now} s: sign again, or check both clocks"
    )]
    Expired {
        /// When it expired, by the sender's clock.
        expires: UnixSeconds,
        /// The time of the receiver.
        now: UnixSeconds,
    },
    /// Another key is known for the name.
    #[error("signed with key {claimed}, but key {known} is pinned for this name")]
    KeyId {
        /// The key that the signature claims.
        claimed: KeyId,
        /// The key that is known.
        known: KeyId,
    },
    /// No signature with the label or the tag of the profile, or an input without its signature.
    #[error("there must be exactly one signature, labelled {:?}", super::LABEL)]
    Label,
    /// `expires` lies before `created`, or too far behind it.
    #[error("the signature must expire within {} s after it was created", MAX_LIFETIME.as_secs())]
    Lifetime,
    /// A field is not in its one spelling.
    #[error("{0} is not in the strict spelling of this profile")]
    Malformed(SignedField),
    /// A field is not there.
    #[error("{0} is missing")]
    Missing(SignedField),
    /// A parameter is not there.
    #[error("the signature has no {0}")]
    MissingParameter(&'static str),
    /// The name is not one.
    #[error("X-Nara-Name is not a valid name: {0}")]
    Name(InvalidName),
    /// The name is not UTF-8.
    #[error("X-Nara-Name is not UTF-8")]
    NameEncoding,
    /// A parameter has another value or type than it must have.
    #[error("the signature has an invalid {0}")]
    Parameter(&'static str),
    /// The message is for another nara.
    #[error("signed for another nara: X-Nara-To names neither the id nor the name of this nara")]
    Recipient,
    /// A field stands there twice: two readers could believe two different ones.
    #[error("{0} is repeated")]
    Repeated(SignedField),
    /// `created` is not within the window.
    #[error("signed at {created} s, {} s {} the receiver's clock ({now} s): one of the two clocks is wrong",
        created.abs_diff(*now).as_secs(), if created > now { "ahead of" } else { "behind" })]
    Stale {
        /// When it was signed, by the sender's clock.
        created: UnixSeconds,
        /// The time of the receiver.
        now: UnixSeconds,
    },
    /// The body is streamed, so the signature does not cover it, and this receiver takes no streams.
    #[error("the body is streamed, so its bytes are not signed: send it with a Content-Digest")]
    Streamed,
    /// A field is longer than anything that it may say.
    #[error("{} is longer than {} bytes", .0, .0.max_len())]
    TooLong(SignedField),
    /// Both headers that can stand for the body are there.
    #[error("there must be either Content-Digest or X-Nara-Body, not both")]
    TwoBodies,
    /// A parameter that the profile does not have.
    #[error("the signature has an unknown parameter")]
    UnknownParameter,
}
