//! The header fields, each at most once and within its length.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{SignatureError, SignedField};
use crate::encoding;
use crate::identity::{NaraName, Signature};
use crate::v1::NAME_HEADER;

/// The header that stands in place of the digest of a body that is streamed.
pub const BODY_HEADER: HeaderName = HeaderName::from_static("x-nara-body");
/// The header that binds a request to its connection; only on secure channels.
pub const CHANNEL_HEADER: HeaderName = HeaderName::from_static("x-nara-channel");
/// The header with the digest of the body (RFC 9530).
pub const CONTENT_DIGEST_HEADER: HeaderName = HeaderName::from_static("content-digest");
/// The header with the signature (RFC 9421, section 4.2).
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("signature");
/// The header that says what is signed (RFC 9421, section 4.1).
pub const SIGNATURE_INPUT_HEADER: HeaderName = HeaderName::from_static("signature-input");
/// The header that names the recipient.
pub const TO_HEADER: HeaderName = HeaderName::from_static("x-nara-to");

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

    /// The longest valid value, in bytes.
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
    let base64 = text.and_then(|text| text.strip_prefix(b":")?.strip_suffix(b":"));
    base64
        .and_then(encoding::base64_decode_exactly)
        .ok_or(SignatureError::Malformed(field))
}

/// The signature in the field [`SignedField::Signature`].
pub(super) fn signature(value: &HeaderValue) -> Result<Signature, SignatureError> {
    byte_sequence(value, LABEL_PREFIX, SignedField::Signature).map(Signature::from_bytes)
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
