//! JSON exactly as v1 peers write and read it (docs/protocol/v1.md, section 2).
//!
//! V1 JSON is signed (world hops, runtime messages) or hashed (response bodies), so its spelling matters: [`to_vec`]
//! escapes `<`, `>`, `&`, U+2028 and U+2029 inside strings, prints floats in Go's form, and keeps the declared key
//! order. Go's reader is lenient, and [`from_slice`] follows it: keys match regardless of letter case, unknown keys are
//! skipped, the last of repeated keys wins, repeated objects merge, `null` leaves the zero value, invalid UTF-8 becomes
//! U+FFFD. Integers stay strict.
//!
//! A message is declared once, with the [`wire_struct!`](crate::wire_struct) macro, which generates both directions.
//! Stricter than v1 peers, this reader refuses nesting deeper than 128 levels (no message nests deeper than five),
//! lists of more than [`MAX_LIST`] elements, texts that would take many times their length in memory, and `-0` as an
//! integer.

mod budget;
mod field;
mod formatter;
mod record;
mod timestamp;

#[doc(hidden)]
pub use field::WireMap;
pub use field::{Bytes, Field, MAX_LIST, Merge};
pub use formatter::{float, one_decimal};
#[doc(hidden)]
pub use record::{FieldName, merge_struct};
pub use timestamp::{InvalidTimestamp, Timestamp};

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize as _, Serialize};

/// The error for a text that is not valid JSON for its type. Its message may quote the start of the input.
#[derive(Debug, thiserror::Error)]
#[error("invalid JSON: {}", cut(&self.0))]
pub struct JsonError(serde_json::Error);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(error)
    }
}

/// The maximum length of an error message, in characters: serde_json may quote a string of megabytes.
const MAX_SHOWN: usize = 300;

/// Returns the message of an error, with bounded length.
fn cut(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => {
            let (line, column) = (error.line(), error.column());
            format!("{}… at line {line} column {column}", &text[..end])
        }
        None => text,
    }
}

/// Writes a value as JSON in Go's spelling, without white space and without a final newline.
///
/// ```
/// assert_eq!(nara_proto::go_json::to_vec(&"a<b>&"), br#""a\u003cb\u003e\u0026""#);
/// ```
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter::GoFormatter);
    value
        .serialize(&mut serializer)
        .expect("wire types have string keys and a Vec takes every write");
    out
}

/// Writes a value as JSON in Go's spelling, as text.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> String {
    String::from_utf8(to_vec(value)).expect("JSON of valid strings is UTF-8")
}

/// Writes a value as the body of an HTTP answer: JSON and a newline, which the response signature covers.
pub fn to_body<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut body = to_vec(value);
    body.push(b'\n');
    body
}

/// Reads the first JSON value of `json` and ignores what follows it, as mesh endpoints do.
///
/// # Errors
/// [`JsonError`] if there is no complete JSON value, or it has a value of the wrong type.
pub fn from_slice<T: Merge>(json: &[u8]) -> Result<T, JsonError> {
    read(json, false)
}

/// Reads `json` as exactly one JSON value: trailing bytes other than white space are an error (`/mesh/message`).
///
/// # Errors
/// As [`from_slice`], and for trailing bytes.
pub fn from_slice_exact<T: Merge>(json: &[u8]) -> Result<T, JsonError> {
    read(json, true)
}

fn read<T: Merge>(json: &[u8], exact: bool) -> Result<T, JsonError> {
    let json = repair_utf8(json);
    // Finding the smallest byte is vectorised, finding the first small byte is not, and there is nearly always none.
    let least = json.trim_ascii_end().bytes().fold(u8::MAX, u8::min);
    if least < b' ' {
        // Control characters inside strings are an error. serde_json checks this where it skips a string, but not where
        // it reads one as bytes, as we do.
        IgnoredAny::deserialize(&mut serde_json::Deserializer::from_str(&json))?;
    }
    let _budget = budget::Budget::of(json.len());
    let mut deserializer = serde_json::Deserializer::from_str(&json);
    let mut value = T::default();
    value.merge(&mut deserializer)?;
    if exact {
        deserializer.end()?;
    }
    Ok(value)
}

/// Replaces each invalid UTF-8 byte with U+FFFD. Invalid bytes outside of strings stay errors.
fn repair_utf8(json: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(json) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(json.len() + 16);
    for chunk in json.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests;
