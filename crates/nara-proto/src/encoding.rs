//! The text encodings of the wire: base64 as Go reads it, base64 as we insist on it, and hexadecimal.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const STRICT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// A text that is not the base64 it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not standard base64 with padding")]
pub struct InvalidBase64;

/// Encodes bytes as standard base64 with padding (wire facts, notation).
pub fn base64_encode(bytes: &[u8]) -> String {
    STRICT.encode(bytes)
}

/// Decodes standard base64 with padding, accepting exactly one spelling of each byte string.
///
/// For headers: a second spelling of the same signature would be a second identity of the same request
/// (defect G19 of the inherited protocol).
///
/// # Errors
/// [`InvalidBase64`] for any other text.
pub fn base64_decode_canonical(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    STRICT.decode(text).map_err(|_| InvalidBase64)
}

/// Decodes standard base64 with padding as the naras already out there do: carriage returns and line feeds
/// are skipped and unused bits in the last character are ignored (wire facts, section 1.4).
///
/// # Errors
/// [`InvalidBase64`] for missing padding, the URL-safe alphabet, or any other character.
pub fn base64_decode_lenient(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    if text.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        let text: Vec<u8> = text
            .iter()
            .copied()
            .filter(|byte| !matches!(byte, b'\r' | b'\n'))
            .collect();
        return LENIENT.decode(text).map_err(|_| InvalidBase64);
    }
    LENIENT.decode(text).map_err(|_| InvalidBase64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_decoding_refuses_a_second_spelling() {
        assert_eq!(base64_decode_canonical(b"/w=="), Ok(vec![0xff]));
        assert_eq!(base64_decode_canonical(b"/x=="), Err(InvalidBase64));
        assert_eq!(base64_decode_lenient(b"/x=="), Ok(vec![0xff]));
        assert_eq!(base64_decode_lenient(b"/\r\nw=\n="), Ok(vec![0xff]));
        for bad in [&b"/w"[..], b"_w==", b"/w==x", b"/ w=="] {
            assert_eq!(base64_decode_lenient(bad), Err(InvalidBase64));
        }
    }
}
