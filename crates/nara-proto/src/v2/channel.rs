use http::HeaderMap;
use subtle::ConstantTimeEq as _;

use super::fields::{byte_sequence, byte_sequence_text, optional};
use super::{SignatureError, SignedField};

/// Keying material that TLS exports (RFC 8446, section 7.5) and that only the two ends of one connection know. A
/// signature that covers it is worthless on any other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// The binding with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the header, if it is there.
    ///
    /// # Errors
    /// [`SignatureError`] if it is repeated or malformed.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, SignatureError> {
        let value = optional(headers, SignedField::Channel)?;
        value
            .map(|value| byte_sequence(value, "", SignedField::Channel).map(Self))
            .transpose()
    }

    /// The value of the header: one byte sequence.
    pub(super) fn to_field(self) -> String {
        byte_sequence_text("", &self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}
