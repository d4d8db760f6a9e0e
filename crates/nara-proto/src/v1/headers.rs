use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::{InvalidName, InvalidSignature, NaraName, Signature};
use crate::time::UnixMillis;

/// The header with the name of the signer.
pub const NAME_HEADER: HeaderName = HeaderName::from_static("x-nara-name");
/// The header with the time of signing, in decimal **milliseconds**.
pub const TIMESTAMP_HEADER: HeaderName = HeaderName::from_static("x-nara-timestamp");
/// The header with the signature, base64.
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("x-nara-signature");

/// One of the three authentication headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthHeader {
    /// `X-Nara-Name`.
    Name,
    /// `X-Nara-Signature`.
    Signature,
    /// `X-Nara-Timestamp`.
    Timestamp,
}

impl AuthHeader {
    const fn name(self) -> HeaderName {
        match self {
            Self::Name => NAME_HEADER,
            Self::Signature => SIGNATURE_HEADER,
            Self::Timestamp => TIMESTAMP_HEADER,
        }
    }
}

impl fmt::Display for AuthHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "X-Nara-Name",
            Self::Signature => "X-Nara-Signature",
            Self::Timestamp => "X-Nara-Timestamp",
        })
    }
}

/// The reason why the authentication headers cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// A header is repeated: two readers could use different values.
    #[error("{0} is repeated")]
    Duplicate(AuthHeader),
    /// A header is missing or empty.
    #[error("{0} is missing")]
    Missing(AuthHeader),
    /// The name is invalid.
    #[error("X-Nara-Name is not a valid name: {0}")]
    Name(InvalidName),
    /// The name is not UTF-8.
    #[error("X-Nara-Name is not UTF-8")]
    NameEncoding,
    /// The signature is not canonical base64 of 64 bytes.
    #[error("X-Nara-Signature: {0}")]
    Signature(InvalidSignature),
    /// The time is not canonical decimal milliseconds.
    #[error("X-Nara-Timestamp is not a decimal number of milliseconds without sign and leading zeros")]
    Timestamp,
}

/// The three values, parsed once. They are complete, unique and canonical, so a request or response has one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Headers {
    pub(super) name: NaraName,
    pub(super) timestamp: UnixMillis,
    pub(super) signature: Signature,
}

impl Headers {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, HeaderError> {
        // All three headers must be present before the content of any is checked.
        let name = single(headers, AuthHeader::Name)?;
        let timestamp = single(headers, AuthHeader::Timestamp)?;
        let signature = single(headers, AuthHeader::Signature)?;
        let name = std::str::from_utf8(name.as_bytes()).map_err(|_| HeaderError::NameEncoding)?;
        Ok(Self {
            name: NaraName::new(name).map_err(HeaderError::Name)?,
            timestamp: parse_timestamp(timestamp.as_bytes()).ok_or(HeaderError::Timestamp)?,
            signature: Signature::from_canonical_base64(signature.as_bytes())
                .map_err(HeaderError::Signature)?,
        })
    }

    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        let name =
            HeaderValue::from_bytes(self.name.as_str().as_bytes()).expect("a name has no control characters");
        let signature = HeaderValue::try_from(self.signature.to_base64()).expect("base64 is a header value");
        headers.insert(NAME_HEADER, name);
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(self.timestamp.get()));
        headers.insert(SIGNATURE_HEADER, signature);
    }
}

fn single(headers: &HeaderMap, which: AuthHeader) -> Result<&HeaderValue, HeaderError> {
    let mut values = headers.get_all(which.name()).iter();
    let value = values
        .next()
        .filter(|value| !value.is_empty())
        .ok_or(HeaderError::Missing(which))?;
    if values.next().is_some() {
        Err(HeaderError::Duplicate(which))
    } else {
        Ok(value)
    }
}

/// Parses canonical decimal milliseconds. V1 peers also accept `+5` and `005`, so that one signature could travel as
/// several requests.
fn parse_timestamp(text: &[u8]) -> Option<UnixMillis> {
    let text = std::str::from_utf8(text).ok()?;
    let value: i64 = text.parse().ok()?;
    (value.to_string() == text).then_some(UnixMillis::new(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_header() {
        let error = |names: &[&'static str]| {
            let headers = names
                .iter()
                .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
            let mut all = HeaderMap::new();
            headers.for_each(|(name, value)| {
                all.append(name, value);
            });
            Headers::parse(&all).unwrap_err().to_string()
        };
        let [name, time, signature] = ["x-nara-name", "x-nara-timestamp", "x-nara-signature"];
        assert_eq!(error(&[time, signature]), "X-Nara-Name is missing");
        assert_eq!(error(&[name, signature]), "X-Nara-Timestamp is missing");
        assert_eq!(error(&[name, time]), "X-Nara-Signature is missing");
        assert_eq!(error(&[name, time, signature, name]), "X-Nara-Name is repeated");
        assert_eq!(
            error(&[name, time, time, signature]),
            "X-Nara-Timestamp is repeated"
        );
        assert_eq!(
            error(&[signature, name, time, signature]),
            "X-Nara-Signature is repeated"
        );
    }
}
