use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Serialize, Serializer};

use super::budget;
use crate::encoding;
use crate::time::{UnixMillis, UnixNanos, UnixSeconds};

/// A value into which a JSON value can be merged, as Go's decoder does: `null` changes nothing, an object is merged key
/// by key.
pub trait Merge: Default {
    /// Merges the next JSON value of `deserializer`.
    ///
    /// # Errors
    /// The errors of the deserializer, and a value of the wrong type.
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error>;
}

/// A field of a message: it can be merged, written, and omitted when it is zero.
pub trait Field: Merge + Serialize {
    /// Returns whether the field is omitted from JSON when it is marked `omit`.
    fn is_zero(&self) -> bool;

    /// Returns an upper bound of the length of the value as JSON, without writing it.
    fn most_bytes(&self) -> usize;
}

/// The length of the longest number as JSON: `0.00000`, 17 digits of a float, and a sign.
const NUMBER: usize = 32;

/// The length of the longest spelling of one byte of a string: `\u003c`.
const ESCAPED: usize = 6;

/// Adapts a [`Merge`] value to serde's `DeserializeSeed`.
pub(super) struct Seed<'a, T>(pub(super) &'a mut T);

impl<'de, T: Merge> serde::de::DeserializeSeed<'de> for Seed<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.merge(deserializer)
    }
}

/// Calls `read` for a value; does nothing for `null`.
fn unless_null<'de, D, F>(deserializer: D, read: F) -> Result<(), D::Error>
where
    D: Deserializer<'de>,
    F: NullOr,
{
    struct OptionVisitor<F>(F);

    impl<'de, F: NullOr> Visitor<'de> for OptionVisitor<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value or null")
        }

        fn visit_none<E>(self) -> Result<(), E> {
            self.0.null();
            Ok(())
        }

        fn visit_unit<E>(self) -> Result<(), E> {
            self.0.null();
            Ok(())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            self.0.value(deserializer)
        }
    }

    deserializer.deserialize_option(OptionVisitor(read))
}

/// Handles a JSON value that may be `null`.
trait NullOr: Sized {
    fn null(self) {}
    fn value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error>;
}

/// Replaces lone surrogate escapes with U+FFFD, as Go does. serde_json returns a lone surrogate as its three bytes in
/// generalised UTF-8: ED, A0 to BF, 80 to BF.
fn replace_surrogates(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.to_owned();
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if chunk.invalid().first() == Some(&0xed) {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text
}

impl NullOr for &mut String {
    fn value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct TextVisitor<'a>(&'a mut String);

        impl Visitor<'_> for TextVisitor<'_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<(), E> {
                text.clone_into(self.0);
                Ok(())
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<(), E> {
                *self.0 = replace_surrogates(bytes);
                Ok(())
            }
        }

        // As bytes, because serde_json refuses lone surrogates only for `deserialize_str`.
        deserializer.deserialize_bytes(TextVisitor(self))
    }
}

impl Merge for String {
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        unless_null(deserializer, self)
    }
}

impl Field for String {
    fn is_zero(&self) -> bool {
        self.is_empty()
    }

    fn most_bytes(&self) -> usize {
        // Includes the quotes.
        self.len() * ESCAPED + 2
    }
}

macro_rules! plain_fields {
    ($($ty:ty, $zero:expr;)*) => {$(
        impl Merge for $ty {
            fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
                if let Some(value) = <Option<$ty> as serde::Deserialize>::deserialize(deserializer)? {
                    *self = value;
                }
                Ok(())
            }
        }

        impl Field for $ty {
            fn is_zero(&self) -> bool {
                *self == $zero
            }

            fn most_bytes(&self) -> usize {
                NUMBER
            }
        }
    )*};
}

plain_fields! {
    bool, false;
    i64, 0;
    u64, 0;
    f64, 0.0;
}

macro_rules! time_fields {
    ($($ty:ty),*) => {$(
        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_i64(self.get())
            }
        }

        impl Merge for $ty {
            fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
                let mut value = self.get();
                value.merge(deserializer)?;
                *self = Self::new(value);
                Ok(())
            }
        }

        impl Field for $ty {
            fn is_zero(&self) -> bool {
                self.get() == 0
            }

            fn most_bytes(&self) -> usize {
                NUMBER
            }
        }
    )*};
}

time_fields!(UnixSeconds, UnixMillis, UnixNanos);

/// The maximum number of elements of a list. A body of 16 MiB has room for some 60,000 real events.
pub const MAX_LIST: usize = 100_000;

/// Reads `null` as no list, and an array element by element.
impl<T: Merge> NullOr for &mut Option<Vec<T>> {
    fn null(self) {
        *self = None;
    }

    fn value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        struct ListVisitor<'a, T>(&'a mut Option<Vec<T>>);

        impl<'de, T: Merge> Visitor<'de> for ListVisitor<'_, T> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                let list = self.0.insert(Vec::new());
                loop {
                    let mut item = T::default();
                    if seq.next_element_seed(Seed(&mut item))?.is_none() {
                        return Ok(());
                    }
                    if list.len() == MAX_LIST {
                        return Err(A::Error::custom(format_args!("more than {MAX_LIST} elements")));
                    }
                    budget::spend::<T, _>()?;
                    list.push(item);
                }
            }
        }

        deserializer.deserialize_seq(ListVisitor(self))
    }
}

/// A list that may be absent: Go writes a nil list as `null` and an empty one as `[]`.
impl<T: Merge> Merge for Option<Vec<T>> {
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        unless_null(deserializer, self)
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    fn is_zero(&self) -> bool {
        self.as_ref().is_none_or(Vec::is_empty)
    }

    fn most_bytes(&self) -> usize {
        // Brackets or `null`, and a comma per element.
        self.iter()
            .flatten()
            .map(|item| item.most_bytes() + 1)
            .sum::<usize>()
            + 4
    }
}

/// An optional object: `null` removes it, a repeated object merges into the first.
impl<T: Merge> Merge for Option<Box<T>> {
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        struct Pointer<'a, T>(&'a mut Option<Box<T>>);

        impl<T: Merge> NullOr for Pointer<'_, T> {
            fn null(self) {
                *self.0 = None;
            }

            fn value<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                if self.0.is_none() {
                    budget::spend::<T, _>()?;
                }
                self.0.get_or_insert_default().merge(deserializer)
            }
        }

        unless_null(deserializer, Pointer(self))
    }
}

impl<T: Field> Field for Option<Box<T>> {
    fn is_zero(&self) -> bool {
        self.is_none()
    }

    fn most_bytes(&self) -> usize {
        // `null`
        self.as_ref().map_or(4, |value| value.most_bytes())
    }
}

/// A byte string: base64 in JSON, `null` if absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Option<Vec<u8>>);

impl Bytes {
    /// Returns the bytes; empty if absent.
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Some(bytes))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(bytes) => serializer.serialize_str(&encoding::base64_encode(bytes)),
            None => serializer.serialize_unit(),
        }
    }
}

impl Merge for Bytes {
    fn merge<'de, D: Deserializer<'de>>(&mut self, deserializer: D) -> Result<(), D::Error> {
        let mut text: Option<Box<String>> = Some(Box::default());
        text.merge(deserializer)?;
        self.0 = match text {
            Some(text) => Some(encoding::base64_decode_lenient(text.as_bytes()).map_err(D::Error::custom)?),
            None => None,
        };
        Ok(())
    }
}

impl Field for Bytes {
    fn is_zero(&self) -> bool {
        self.as_slice().is_empty()
    }

    fn most_bytes(&self) -> usize {
        // Four characters per three bytes, and quotes; or `null`.
        self.as_slice().len() * 2 + 6
    }
}

/// The target of [`merge_struct`](super::merge_struct); implemented by the macro.
#[doc(hidden)]
pub trait WireMap {
    /// The JSON keys in declaration order.
    const KEYS: &'static [&'static str];

    /// Merges the value at `deserializer` into the field with the key `KEYS[index]`.
    fn merge_field<'de, D: Deserializer<'de>>(
        &mut self,
        index: usize,
        deserializer: D,
    ) -> Result<(), D::Error>;
}
