//! What a request claims: its raw headers and request line.

use nara_proto::encoding::{base64_decode_canonical, base64_decode_lenient};
use nara_proto::identity::Signature;
use nara_proto::time::UnixMillis;

/// The claims of a request: its three headers and its request line, as received.
#[derive(Clone, Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) name: &'a str,
    pub(crate) timestamp: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
}

/// A parsed timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimestampText {
    /// The canonical spelling.
    Canonical(UnixMillis),
    /// A number in another spelling: refused here, accepted by v1 peers.
    Sloppy(UnixMillis),
    /// Not a number.
    Invalid,
}

impl TimestampText {
    pub(crate) fn parse(text: &str) -> Self {
        match text.parse::<i64>() {
            Ok(value) if value.to_string() == text => Self::Canonical(UnixMillis::new(value)),
            Ok(value) => Self::Sloppy(UnixMillis::new(value)),
            Err(_) => Self::Invalid,
        }
    }

    /// Returns the time in either spelling.
    pub(crate) fn time(self) -> Option<UnixMillis> {
        match self {
            Self::Canonical(time) | Self::Sloppy(time) => Some(time),
            Self::Invalid => None,
        }
    }
}

/// A parsed signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SignatureText {
    /// The canonical spelling.
    Canonical(Signature),
    /// Another spelling of 64 bytes, and how it differs.
    Sloppy(Signature, &'static str),
    /// Not a spelling of 64 bytes, and why.
    Invalid(String),
}

impl SignatureText {
    pub(crate) fn parse(text: &str) -> Self {
        let of = |bytes: Vec<u8>| bytes.try_into().ok().map(Signature::from_bytes);
        // Hexadecimal first: 128 hexadecimal characters are also valid base64, of other bytes.
        let hex: Option<Vec<u8>> = (text.is_ascii() && text.len() == 128)
            .then(|| {
                (0..64)
                    .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok())
                    .collect()
            })
            .flatten();
        if let Some(signature) = hex.and_then(of) {
            return Self::Sloppy(signature, "hexadecimal; the header must be base64");
        }
        if let Ok(bytes) = base64_decode_canonical(text.as_bytes()) {
            let length = bytes.len();
            return of(bytes).map_or_else(
                || Self::Invalid(format!("{length} bytes after decoding instead of 64")),
                Self::Canonical,
            );
        }
        let lenient = |text: &str| base64_decode_lenient(text.as_bytes()).ok().and_then(of);
        if let Some(signature) = lenient(text) {
            return Self::Sloppy(
                signature,
                "non-canonical base64 (line breaks, or non-zero trailing bits)",
            );
        }
        let standard = text.replace('-', "+").replace('_', "/");
        if let Some(signature) = lenient(&standard) {
            return Self::Sloppy(
                signature,
                "base64url; the header must use the standard alphabet, with + and /",
            );
        }
        let unpadded = standard.trim_end_matches('=');
        let padding = "=".repeat((4 - unpadded.len() % 4) % 4);
        if let Some(signature) = lenient(&format!("{unpadded}{padding}")) {
            return Self::Sloppy(signature, "base64 without its padding (==)");
        }
        if let Some(signature) = lenient(text.trim()) {
            return Self::Sloppy(signature, "base64 with white space around it");
        }
        Self::Invalid("not base64".to_owned())
    }

    pub(crate) fn signature(&self) -> Option<&Signature> {
        match self {
            Self::Canonical(signature) | Self::Sloppy(signature, _) => Some(signature),
            Self::Invalid(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::encoding::base64_encode;

    use super::*;

    #[test]
    fn every_spelling_of_a_signature_is_recognised() {
        let bytes = [0xfb_u8; 64];
        let text = base64_encode(&bytes);
        let signature = Signature::from_bytes(bytes);
        assert_eq!(SignatureText::parse(&text), SignatureText::Canonical(signature));
        let url = text.replace('+', "-").replace('/', "_");
        let hex = super::super::hex(&bytes);
        for (text, word) in [
            (url.as_str(), "base64url"),
            (text.trim_end_matches('='), "padding"),
            (&hex, "hexadecimal"),
            (&text.replace("+w==", "+x=="), "non-canonical"),
        ] {
            let SignatureText::Sloppy(read, why) = SignatureText::parse(text) else {
                panic!("{text} was not read");
            };
            assert_eq!(read, signature);
            assert!(why.contains(word), "{why}");
        }
        assert!(matches!(SignatureText::parse("AAAA"), SignatureText::Invalid(_)));
        assert!(matches!(SignatureText::parse("?"), SignatureText::Invalid(_)));
    }
}
