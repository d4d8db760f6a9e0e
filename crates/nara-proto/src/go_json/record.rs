use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::field::WireMap;

/// Declares a message: a struct with public fields and a JSON key for each. `omit` leaves the key out when the value is
/// zero. The struct implements `Serialize` (keys in declaration order) and [`Merge`](crate::go_json::Merge).
///
/// ```
/// nara_proto::wire_struct! {
///     /// A greeting.
///     pub struct Greeting {
///         /// Who greets.
///         pub from: String = "from",
///         /// What is said, if anything.
///         pub text: String = "text", omit,
///     }
/// }
///
/// let greeting: Greeting = nara_proto::go_json::from_slice(br#"{"FROM":"alice"}"#)?;
/// assert_eq!(nara_proto::go_json::to_string(&greeting), r#"{"from":"alice"}"#);
/// # Ok::<(), nara_proto::go_json::JsonError>(())
/// ```
#[macro_export]
macro_rules! wire_struct {
    (
        $(#[$attr:meta])*
        pub struct $name:ident {
            $($fields:tt)*
        }
    ) => {
        $crate::wire_struct! { @parse [$(#[$attr])*] $name [] $($fields)* }
    };

    // Parses each field, with or without `omit`.
    (@parse [$($attr:tt)*] $name:ident [$($done:tt)*]
        $(#[$field_attr:meta])* pub $field:ident : $ty:ty = $key:literal, omit, $($rest:tt)*
    ) => {
        $crate::wire_struct! { @parse [$($attr)*] $name
            [$($done)* { [$(#[$field_attr])*] $field [$ty] $key true }] $($rest)* }
    };
    (@parse [$($attr:tt)*] $name:ident [$($done:tt)*]
        $(#[$field_attr:meta])* pub $field:ident : $ty:ty = $key:literal, $($rest:tt)*
    ) => {
        $crate::wire_struct! { @parse [$($attr)*] $name
            [$($done)* { [$(#[$field_attr])*] $field [$ty] $key false }] $($rest)* }
    };

    (@parse [$($attr:tt)*] $name:ident
        [$({ [$($field_attr:tt)*] $field:ident [$ty:ty] $key:literal $omit:literal })*]
    ) => {
        $($attr)*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $($field_attr)* pub $field: $ty, )*
        }

        impl $crate::go_json::WireMap for $name {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn merge_field<'de, D: ::serde::Deserializer<'de>>(
                &mut self,
                index: usize,
                deserializer: D,
            ) -> ::core::result::Result<(), D::Error> {
                let mut at = 0;
                $(
                    if index == at {
                        return $crate::go_json::Merge::merge(&mut self.$field, deserializer);
                    }
                    at += 1;
                )*
                let _ = at;
                ::core::unreachable!("a key index comes from KEYS")
            }
        }

        impl $crate::go_json::Merge for $name {
            fn merge<'de, D: ::serde::Deserializer<'de>>(
                &mut self,
                deserializer: D,
            ) -> ::core::result::Result<(), D::Error> {
                $crate::go_json::merge_struct(self, deserializer)
            }
        }

        impl $crate::go_json::Field for $name {
            // Go never omits a struct value.
            fn is_zero(&self) -> bool {
                false
            }

            fn most_bytes(&self) -> usize {
                // Braces; for each field, the quotes of its key, the colon and the comma.
                let mut most = 2;
                $(
                    most += $key.len() + 4 + $crate::go_json::Field::most_bytes(&self.$field);
                )*
                most
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                use ::serde::ser::SerializeStruct as _;
                let fields = <Self as $crate::go_json::WireMap>::KEYS.len();
                let mut object = serializer.serialize_struct(stringify!($name), fields)?;
                $(
                    if !($omit && $crate::go_json::Field::is_zero(&self.$field)) {
                        object.serialize_field($key, &self.$field)?;
                    }
                )*
                object.end()
            }
        }
    };
}

/// Merges a JSON object into a message; `null` changes nothing.
#[doc(hidden)]
pub fn merge_struct<'de, T: WireMap, D: Deserializer<'de>>(
    target: &mut T,
    deserializer: D,
) -> Result<(), D::Error> {
    struct ObjectVisitor<'a, T>(&'a mut T);

    impl<'de, T: WireMap> Visitor<'de> for ObjectVisitor<'_, T> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_unit<E>(self) -> Result<(), E> {
            Ok(())
        }

        fn visit_none<E>(self) -> Result<(), E> {
            Ok(())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_map(self)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(index) = map.next_key_seed(FieldName(T::KEYS))? {
                match index {
                    Some(index) => map.next_value_seed(FieldSeed(self.0, index))?,
                    None => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(())
        }
    }

    struct FieldSeed<'a, T>(&'a mut T, usize);

    impl<'de, T: WireMap> DeserializeSeed<'de> for FieldSeed<'_, T> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            self.0.merge_field(self.1, deserializer)
        }
    }

    deserializer.deserialize_option(ObjectVisitor(target))
}

/// Finds the index of a JSON key: an exact match first, then a match regardless of letter case.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct FieldName(pub &'static [&'static str]);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // As bytes, because serde_json refuses lone surrogates only for `deserialize_str`.
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        self.visit_bytes(key.as_bytes())
    }

    fn visit_bytes<E>(self, key: &[u8]) -> Result<Self::Value, E> {
        let exact = self.0.iter().position(|name| name.as_bytes() == key);
        Ok(exact.or_else(|| self.0.iter().position(|name| same_folded(name, key))))
    }
}

/// Returns whether `key` equals `name` (which is ASCII) under Unicode simple case folding. Besides the ASCII letters,
/// two characters fold to ASCII: U+017F (long s) to `s` and U+212A (kelvin sign) to `k`.
fn same_folded(name: &str, key: &[u8]) -> bool {
    let mut rest = key;
    for expected in name.bytes() {
        let (folded, len) = match rest {
            [0xc5, 0xbf, ..] => (b's', 2),
            [0xe2, 0x84, 0xaa, ..] => (b'k', 3),
            [byte, ..] => (byte.to_ascii_lowercase(), 1),
            [] => return false,
        };
        if folded != expected.to_ascii_lowercase() {
            return false;
        }
        rest = &rest[len..];
    }
    rest.is_empty()
}
