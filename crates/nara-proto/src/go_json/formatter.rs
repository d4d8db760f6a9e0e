use std::io::{self, Write};

use serde_json::ser::{CompactFormatter, Formatter};

/// Go's spelling of strings and floats, on top of serde_json's compact form.
#[derive(Clone, Copy, Debug)]
pub(super) struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        // Checking all bytes is vectorised, which is faster than finding the first one: there is nearly always none.
        let is_escaped = |found, byte: &u8| found | matches!(byte, b'<' | b'>' | b'&' | 0xe2);
        if !bytes.iter().fold(false, is_escaped) {
            return writer.write_all(bytes);
        }
        let mut written = 0;
        let mut at = 0;
        while at < bytes.len() {
            let (escape, len): (&[u8], usize) = match bytes[at] {
                b'<' => (b"\\u003c", 1),
                b'>' => (b"\\u003e", 1),
                b'&' => (b"\\u0026", 1),
                // U+2028 and U+2029 are E2 80 A8 and E2 80 A9.
                0xe2 if bytes[at..].starts_with(b"\xe2\x80\xa8") => (b"\\u2028", 3),
                0xe2 if bytes[at..].starts_with(b"\xe2\x80\xa9") => (b"\\u2029", 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            writer.write_all(&bytes[written..at])?;
            writer.write_all(escape)?;
            at += len;
            written = at;
        }
        writer.write_all(&bytes[written..])
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value.is_finite() {
            writer.write_all(float(value).as_bytes())
        } else {
            CompactFormatter.write_null(writer)
        }
    }
}

/// Formats a finite float like Go's JSON encoder: the shortest digits that read back as the same value, of those the
/// closest to the exact value, ties to even; plain notation for magnitudes from 1e-6 up to 1e21, otherwise an exponent
/// with its sign.
///
/// ```
/// assert_eq!(nara_proto::go_json::float(1e21), "1e+21");
/// assert_eq!(nara_proto::go_json::float(0.00001), "0.00001");
/// assert_eq!(nara_proto::go_json::float(1e15 + 0.25), "1000000000000000.2");
/// ```
pub fn float(value: f64) -> String {
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let magnitude = value.abs();
    if magnitude == 0.0 {
        return format!("{sign}0");
    }
    let (digits, point) = shortest(magnitude);
    if !(1e-6..1e21).contains(&magnitude) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        return format!("{sign}{first}{dot}{rest}e{:+}", point - 1);
    }
    let Ok(point) = usize::try_from(point) else {
        return format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs() as usize));
    };
    match digits.split_at_checked(point) {
        Some(("", fraction)) => format!("{sign}0.{fraction}"),
        Some((whole, fraction)) if !fraction.is_empty() => format!("{sign}{whole}.{fraction}"),
        _ => format!("{sign}{digits:0<point$}"),
    }
}

/// Returns the shortest digits of a positive float, without zeros at either end, and the position of the decimal point
/// in them: `(12, 1)` is 1.2, `(12, -1)` is 0.012.
///
/// The digits that the standard library prints differ in exact ties, which it rounds up.
fn shortest(magnitude: f64) -> (String, i32) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(magnitude);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = [whole, fraction].concat();
    let digits = all.trim_start_matches('0');
    let leading = all.len() - digits.len();
    let exponent: i32 = exponent.parse().expect("a printed exponent is a small integer");
    let point = exponent + whole.len() as i32 - leading as i32;
    (digits.trim_end_matches('0').to_owned(), point)
}

/// Formats a float with exactly one decimal, correctly rounded from its exact binary value, ties to even: the form of a
/// round-trip time in the content of a ping event (docs/protocol/v1.md, section 8.4).
pub fn one_decimal(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    format!("{value:.1}")
}
