//! The text encodings of the wire: base64 in Go's lenient and in our canonical form, and hexadecimal.

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

/// The error for a text that is not valid base64.
///
/// Its message is part of some HTTP bodies, so it is the message of v1 peers (docs/protocol/v1.md, sections 7.6 and
/// 7.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("illegal base64 data at input byte {at}")]
pub struct InvalidBase64 {
    /// The offset of the first invalid byte. For an incomplete last group it is the start of the group.
    pub at: usize,
}

/// Encodes bytes as standard base64 with padding (docs/protocol/v1.md, notation).
pub fn base64_encode(bytes: &[u8]) -> String {
    STRICT.encode(bytes)
}

/// Encodes bytes as lower-case hexadecimal digits.
pub fn hex_encode(bytes: &[u8]) -> String {
    // `hex::encode` appends one character at a time, which is slower.
    let mut digits = vec![0; 2 * bytes.len()];
    hex::encode_to_slice(bytes, &mut digits).expect("there is room for two digits each");
    String::from_utf8(digits).expect("digits are ASCII")
}

/// Appends the standard base64 of bytes, with padding.
pub(crate) fn base64_append(bytes: &[u8], text: &mut String) {
    STRICT.encode_string(bytes, text);
}

/// Decodes exactly `N` bytes, at most 64, like [`base64_decode_canonical`].
pub(crate) fn base64_decode_exactly<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    // The decoder needs room for whole groups.
    let mut decoded = [0; 66];
    const { assert!(N <= 64) }
    let len = STRICT.decode_slice(text, &mut decoded).ok()?;
    decoded.get(..len)?.try_into().ok()
}

/// Decodes standard base64 with padding, accepting exactly one spelling of each byte string.
///
/// For headers: a second spelling of the same signature would be a second identity of the same request (defect G19 of
/// protocol v1).
///
/// # Errors
/// [`InvalidBase64`] for any other text.
pub fn base64_decode_canonical(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    STRICT.decode(text).map_err(|_| fault(text))
}

/// Decodes standard base64 with padding like v1 peers: carriage returns and line feeds are skipped and unused bits in
/// the last character are ignored (docs/protocol/v1.md, section 1.4).
///
/// # Errors
/// [`InvalidBase64`] for missing padding, the URL-safe alphabet, or any other character.
pub fn base64_decode_lenient(text: &[u8]) -> Result<Vec<u8>, InvalidBase64> {
    let decoded = if text.iter().any(|&byte| is_line_break(byte)) {
        let joined: Vec<u8> = text
            .iter()
            .copied()
            .filter(|&byte| !is_line_break(byte))
            .collect();
        LENIENT.decode(joined)
    } else {
        LENIENT.decode(text)
    };
    decoded.map_err(|_| fault(text))
}

const fn is_line_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Finds the byte at which v1 peers stop reading an invalid text. If only a stricter reader refuses the text, its last
/// character is at fault.
fn fault(text: &[u8]) -> InvalidBase64 {
    let mut in_group = 0;
    let mut rest = text
        .iter()
        .copied()
        .enumerate()
        .filter(|&(_, byte)| !is_line_break(byte));
    while let Some((at, byte)) = rest.next() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') {
            in_group = (in_group + 1) % 4;
            continue;
        }
        // Padding may only replace the last one or two characters of a group.
        if byte != b'=' || in_group < 2 {
            return InvalidBase64 { at };
        }
        if in_group == 2 {
            match rest.next() {
                Some((_, b'=')) => {}
                Some((next, _)) => return InvalidBase64 { at: next - 1 },
                None => return InvalidBase64 { at: text.len() },
            }
        }
        let at = rest.next().map_or(at, |(trailing, _)| trailing);
        return InvalidBase64 { at };
    }
    InvalidBase64 {
        at: text.len() - in_group,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_decoding_refuses_a_second_spelling() {
        assert_eq!(base64_decode_canonical(b"/w=="), Ok(vec![0xff]));
        assert_eq!(base64_decode_canonical(b"/x=="), Err(InvalidBase64 { at: 2 }));
        assert_eq!(base64_decode_lenient(b"/x=="), Ok(vec![0xff]));
        assert_eq!(base64_decode_lenient(b"/\r\nw=\n="), Ok(vec![0xff]));
    }

    #[test]
    fn a_refusal_names_the_byte_that_other_naras_name() {
        for (bad, at) in [
            (&b"***"[..], 0),
            (b"_w==", 0),
            (b"AQ\nID/ w==", 6),
            (b"/w", 0),
            (b"AQIDA", 4),
            (b"A===", 1),
            (b"/w=", 3),
            (b"/w=x", 2),
            (b"/w==x", 4),
            (b"/w8=\n=", 5),
        ] {
            assert_eq!(base64_decode_lenient(bad), Err(InvalidBase64 { at }), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn exact_decoding_accepts_the_same_texts_as_canonical_decoding(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            change in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        ) {
            let mut text = base64_encode(&bytes).into_bytes();
            if let Some((at, with)) = change
                && !text.is_empty()
            {
                let at = at.index(text.len());
                text[at] = with;
            }
            let decoded = base64_decode_canonical(&text).ok();
            let of_length = |len: usize| decoded.clone().filter(|decoded| decoded.len() == len);
            prop_assert_eq!(base64_decode_exactly::<16>(&text).map(Vec::from), of_length(16));
            prop_assert_eq!(base64_decode_exactly::<32>(&text).map(Vec::from), of_length(32));
            prop_assert_eq!(base64_decode_exactly::<64>(&text).map(Vec::from), of_length(64));
        }
    }

    #[test]
    fn exact_decoding_accepts_the_same_lengths_as_canonical_decoding() {
        for len in 0..=70 {
            let text = base64_encode(&vec![0xa5; len]);
            assert_eq!(base64_decode_exactly::<64>(text.as_bytes()).is_some(), len == 64);
            assert_eq!(base64_decode_exactly::<32>(text.as_bytes()).is_some(), len == 32);
            assert_eq!(base64_decode_exactly::<16>(text.as_bytes()).is_some(), len == 16);
        }
    }
}
