//! The members of a dictionary field (RFC 9651, section 3.2), with their spelling.
//!
//! Gateways add their own members: a signature with another label (RFC 9421, section 4.3), a digest of another
//! algorithm (RFC 9530). They stand behind ours or on a separate line, and are ignored. Our member keeps its spelling,
//! because that is what was signed.

use std::borrow::Cow;

use http::HeaderMap;
use sfv::{Dictionary, FieldType as _, ListEntry, Parser};

use super::{SignatureError, SignedField};

/// The maximum length of a field with all its members, in bytes.
pub(super) const MAX_LEN: usize = 4_096;

/// One member of a dictionary.
pub(super) struct Member<'a> {
    pub(super) key: String,
    /// Its text, including the key.
    pub(super) text: &'a str,
    pub(super) value: ListEntry,
    /// Whether its text is in the strict spelling.
    pub(super) is_strict: bool,
}

/// Returns the value of a field: its lines form one list (RFC 9110, section 5.3).
pub(super) fn joined(headers: &HeaderMap, field: SignedField) -> Result<Cow<'_, str>, SignatureError> {
    let mut joined = Cow::Borrowed("");
    for line in headers.get_all(field.header()) {
        if joined.len() + line.len() > MAX_LEN {
            return Err(SignatureError::TooLong(field));
        }
        let line = line.to_str().map_err(|_| SignatureError::Malformed(field))?;
        if joined.is_empty() {
            joined = Cow::Borrowed(line);
        } else {
            let joined = joined.to_mut();
            joined.push_str(", ");
            joined.push_str(line);
        }
    }
    Ok(joined)
}

/// Returns all members of a field.
///
/// # Errors
/// [`SignatureError`] if it is not a dictionary, or a key is repeated: two readers could use different members.
pub(super) fn members(text: &str, field: SignedField) -> Result<Vec<Member<'_>>, SignatureError> {
    let malformed = || SignatureError::Malformed(field);
    if text.trim() != text {
        return Err(malformed());
    }
    let mut members: Vec<Member<'_>> = Vec::new();
    for text in split(text) {
        let dictionary: Dictionary = Parser::new(text).parse().map_err(|_| malformed())?;
        let is_strict = dictionary.serialize().as_deref() == Some(text);
        let mut entries = dictionary.into_iter();
        let (Some((key, value)), None) = (entries.next(), entries.next()) else {
            return Err(malformed());
        };
        let key = key.as_str().to_owned();
        if members.iter().any(|other| other.key == key) {
            return Err(SignatureError::Repeated(field));
        }
        members.push(Member {
            key,
            text,
            value,
            is_strict,
        });
    }
    Ok(members)
}

/// Splits at the commas between members. A wrong split yields an invalid part, so the field is refused.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0_usize);
    let parts = text.split(move |character: char| {
        let is_end = character == ',' && !quoted && depth == 0;
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_end
    });
    parts.map(|part| part.trim_matches([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELD: SignedField = SignedField::SignatureInput;

    #[test]
    fn commas_inside_of_members_do_not_part_them() {
        let text = r#"a=("x,y" "z)," "\",\"");p="1,2", b=:AAAA:,	c;q="(", d"#;
        let members = members(text, FIELD).unwrap();
        let keys: Vec<&str> = members.iter().map(|member| member.key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c", "d"]);
        assert_eq!(members[1].text, "b=:AAAA:");
    }

    #[test]
    fn an_invalid_dictionary_is_refused() {
        for text in [
            "", " a", "a ", "a,", ",a", "a,,b", "a=(", "a=\"", "A=1", "a b", "a=1;", "(a)",
        ] {
            assert_eq!(
                members(text, FIELD).err(),
                Some(SignatureError::Malformed(FIELD)),
                "{text}"
            );
        }
        assert_eq!(
            members("a, b, a", FIELD).err(),
            Some(SignatureError::Repeated(FIELD))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Parsing member by member equals parsing the whole field.
        #[test]
        fn the_parts_are_the_whole(text in r#"([a-c](=(\("[,)]" 1\)|"[,(\\"]?"|:AA==:|2|\?1))?(;[pq]=1)?(,|, | ,)?){1,4}"#) {
            let whole = Parser::new(&text).parse::<Dictionary>().ok();
            if let Ok(members) = members(&text, FIELD) {
                let whole = whole.expect("its parts are valid");
                prop_assert_eq!(whole.len(), members.len());
                for (member, (key, value)) in members.iter().zip(&whole) {
                    prop_assert_eq!(&member.key, key.as_str());
                    prop_assert_eq!(&member.value, value);
                }
            }
        }
    }
}
