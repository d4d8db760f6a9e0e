//! `Signature-Input`: the covered components, the parameters, and the signed bytes that both determine.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use http::HeaderMap;
use sfv::{BareItem, InnerList, Integer, ListEntry};

use super::fields::{LABEL_PREFIX, append_byte_sequence};
use super::members::{Member, joined, members};
use super::{ALGORITHM, LABEL, SignatureError, SignedField, TAG};
use crate::encoding;
use crate::identity::{KeyId, PublicKey};
use crate::time::{UnixMillis, UnixSeconds};

/// A nonce: 16 bytes that a sender never uses twice, so that each signed request is unique.
///
/// The first six bytes are the time of signing in milliseconds, as in a version 7 UUID; `created` has seconds only. So
/// a receiver that has just started can distinguish a request from before its start from a later one
/// ([`RequestSignature::signed_at`](super::RequestSignature::signed_at)). Sixteen random bytes are valid too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Returns the nonce of a request that is signed at `now`, with ten random bytes.
    pub fn new(now: UnixMillis, random: [u8; 10]) -> Self {
        let [_, _, time @ ..] = now.get().to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&time);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// Returns the nonce with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the time in its first bytes; meaningless if the nonce is fully random.
    pub(super) fn time(&self) -> UnixMillis {
        let mut time = [0; 8];
        time[2..].copy_from_slice(&self.0[..6]);
        UnixMillis::new(i64::from_be_bytes(time))
    }

    pub(super) fn append_base64(self, text: &mut String) {
        encoding::base64_append(&self.0, text);
    }

    pub(super) fn from_base64(text: &str) -> Option<Self> {
        encoding::base64_decode_exactly(text.as_bytes()).map(Self)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", encoding::base64_encode(&self.0))
    }
}

/// The parameters of a signature, and their text, which is signed with its spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) created: UnixSeconds,
    pub(super) expires: Option<UnixSeconds>,
    pub(super) nonce: Option<Nonce>,
    pub(super) key_id: KeyId,
    /// The value of the header: the label, `=`, and the inner list with its parameters.
    field: String,
}

impl Params {
    /// Checks that the parameters name this key.
    pub(super) fn check_key(&self, key: &PublicKey) -> Result<(), SignatureError> {
        let known = KeyId::from(key);
        if self.key_id == known {
            Ok(())
        } else {
            Err(SignatureError::KeyId {
                claimed: self.key_id,
                known,
            })
        }
    }

    /// Builds the parameters of a new signature. `covered` is the inner list of components.
    pub(super) fn new(
        covered: &str,
        created: UnixSeconds,
        for_request: Option<(UnixSeconds, Nonce)>,
        key_id: (KeyId, &str),
    ) -> Self {
        let (key_id, key_id_text) = key_id;
        let mut field = String::with_capacity(Self::len(covered, created, for_request, key_id_text));
        field.push_str(LABEL_PREFIX);
        field.push_str(covered);
        let written = (|| {
            write!(field, ";created={created}")?;
            if let Some((expires, nonce)) = for_request {
                write!(field, ";expires={expires};nonce=\"")?;
                nonce.append_base64(&mut field);
                field.push('"');
            }
            fmt::Result::Ok(())
        })();
        written.expect("a String takes every write");
        for text in [
            ";keyid=\"",
            key_id_text,
            "\";alg=\"",
            ALGORITHM,
            "\";tag=\"",
            TAG,
            "\"",
        ] {
            field.push_str(text);
        }
        Self {
            created,
            expires: for_request.map(|(expires, _)| expires),
            nonce: for_request.map(|(_, nonce)| nonce),
            key_id,
            field,
        }
    }

    /// Returns the length of the output of [`Params::new`]: with the exact capacity, a header value takes the buffer
    /// over without a copy.
    fn len(
        covered: &str,
        created: UnixSeconds,
        for_request: Option<(UnixSeconds, Nonce)>,
        key_id: &str,
    ) -> usize {
        let digits = |time: UnixSeconds| time.get().checked_ilog10().unwrap_or_default() as usize + 1;
        let fixed = [
            LABEL_PREFIX,
            covered,
            ";created=",
            ";keyid=\"\"",
            ";alg=\"\"",
            ";tag=\"\"",
            ALGORITHM,
            TAG,
            key_id,
        ];
        let of_request = for_request.map(|(expires, _)| ";expires=;nonce=\"\"".len() + digits(expires) + 24);
        fixed.iter().map(|text| text.len()).sum::<usize>() + digits(created) + of_request.unwrap_or_default()
    }

    /// Returns the whole `Signature-Input`, which may have other members. A message without it has no signature,
    /// whatever else is missing.
    pub(super) fn input(headers: &HeaderMap) -> Result<Cow<'_, str>, SignatureError> {
        const FIELD: SignedField = SignedField::SignatureInput;
        if !headers.contains_key(FIELD.header()) {
            return Err(SignatureError::Missing(FIELD));
        }
        joined(headers, FIELD)
    }

    /// Parses our member of `Signature-Input`, and its label. It must be in the strict spelling of RFC 9651, so that
    /// its text equals the signed one.
    pub(super) fn parse(
        input: &str,
        covered: &'static str,
    ) -> Result<(Self, Cow<'static, str>), SignatureError> {
        if let Some(params) = Self::parse_own(input, covered) {
            return Ok((params, Cow::Borrowed(LABEL)));
        }
        Self::parse_any(input, covered)
    }

    fn parse_any(input: &str, covered: &'static str) -> Result<(Self, Cow<'static, str>), SignatureError> {
        const FIELD: SignedField = SignedField::SignatureInput;
        let members = members(input, FIELD)?;
        let mut ours = members.iter().filter(|member| is_ours(member));
        let member = match (ours.next(), ours.next()) {
            (Some(member), None) => member,
            (None, _) => return Err(SignatureError::Label),
            (Some(_), Some(_)) => return Err(SignatureError::Repeated(FIELD)),
        };
        let ListEntry::InnerList(list) = &member.value else {
            return Err(SignatureError::Label);
        };
        if member.text.len() > FIELD.max_len() {
            return Err(SignatureError::TooLong(FIELD));
        }
        // Labels are not signed: whatever ours was, it is written with our label.
        let text = member.text.get(member.key.len() + 1..).unwrap_or_default();
        let params = Self::read(list, text, covered)?;
        if member.is_strict {
            Ok((params, Cow::Owned(member.key.clone())))
        } else {
            Err(SignatureError::Malformed(FIELD))
        }
    }

    /// Parses only the exact output of [`Params::new`], by comparing it with the parameters written again. Nearly all
    /// peers write this form, and the structured-field parser takes ten times as long.
    fn parse_own(input: &str, covered: &str) -> Option<Self> {
        let mut rest = input.strip_prefix(LABEL_PREFIX)?.strip_prefix(covered)?;
        let mut parameter = |name: &str| {
            let value = rest.strip_prefix(name)?;
            let end = value.find(';').unwrap_or(value.len());
            rest = &value[end..];
            Some(&value[..end])
        };
        let created = seconds_of_text(parameter(";created=")?)?;
        let for_request = match parameter(";expires=") {
            None => None,
            Some(expires) => {
                let nonce = parameter(";nonce=")?;
                let nonce = Nonce::from_base64(unquoted(nonce)?)?;
                Some((seconds_of_text(expires)?, nonce))
            }
        };
        let key_id = unquoted(parameter(";keyid=")?)?;
        let params = Self::new(covered, created, for_request, (key_id.parse().ok()?, key_id));
        (params.field == input).then_some(params)
    }

    fn read(list: &InnerList, text: &str, covered: &'static str) -> Result<Self, SignatureError> {
        // In the strict spelling the list is a prefix; any other spelling is refused later.
        if !text
            .strip_prefix(covered)
            .is_some_and(|rest| rest.starts_with(';'))
        {
            return Err(SignatureError::Components { expected: covered });
        }
        let (mut created, mut expires, mut nonce) = (None, None, None);
        let (mut key_id, mut algorithm, mut tag) = (None, None, None);
        for (name, item) in &list.params {
            match name.as_str() {
                "created" => created = Some(seconds(item, "created")?),
                "expires" => expires = Some(seconds(item, "expires")?),
                "nonce" => {
                    let read = Nonce::from_base64(string(item, "nonce")?);
                    nonce = Some(read.ok_or(SignatureError::Parameter("nonce"))?);
                }
                "keyid" => {
                    let read = string(item, "keyid")?.parse();
                    key_id = Some(read.map_err(|_| SignatureError::Parameter("keyid"))?);
                }
                "alg" => algorithm = Some(is_exactly(item, "alg", ALGORITHM)?),
                "tag" => tag = Some(is_exactly(item, "tag", TAG)?),
                _ => return Err(SignatureError::UnknownParameter),
            }
        }
        let missing = |name| move || SignatureError::MissingParameter(name);
        algorithm.ok_or_else(missing("alg"))?;
        tag.ok_or_else(missing("tag"))?;
        Ok(Self {
            created: created.ok_or_else(missing("created"))?,
            expires,
            nonce,
            key_id: key_id.ok_or_else(missing("keyid"))?,
            field: format!("{LABEL_PREFIX}{text}"),
        })
    }

    /// Returns the value of `@signature-params`.
    pub(super) fn text(&self) -> &str {
        &self.field[LABEL_PREFIX.len()..]
    }

    /// Returns the value of the header.
    pub(super) fn field(&self) -> &str {
        &self.field
    }
}

/// Returns whether a member of `Signature-Input` or `Signature` claims to be of this profile, by its label or its tag.
pub(super) fn is_ours(member: &Member<'_>) -> bool {
    let params = match &member.value {
        ListEntry::InnerList(list) => &list.params,
        ListEntry::Item(item) => &item.params,
    };
    let tag = params.get("tag").and_then(BareItem::as_string);
    member.key == LABEL || tag.is_some_and(|tag| tag.as_str() == TAG)
}

/// Parses a time that the structured-field parser would accept, too.
fn seconds_of_text(text: &str) -> Option<UnixSeconds> {
    let value = Integer::try_from(text.parse::<i64>().ok()?).ok()?;
    Some(UnixSeconds::new(value.into()))
}

fn unquoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

fn seconds(item: &BareItem, name: &'static str) -> Result<UnixSeconds, SignatureError> {
    let value = item.as_integer().ok_or(SignatureError::Parameter(name))?;
    Ok(UnixSeconds::new(value.into()))
}

fn string<'a>(item: &'a BareItem, name: &'static str) -> Result<&'a str, SignatureError> {
    let text = item.as_string().ok_or(SignatureError::Parameter(name))?;
    Ok(text.as_str())
}

fn is_exactly(item: &BareItem, name: &'static str, expected: &str) -> Result<(), SignatureError> {
    if string(item, name)? == expected {
        Ok(())
    } else {
        Err(SignatureError::Parameter(name))
    }
}

/// The bytes that are signed (RFC 9421, section 2.5): one line per component, followed by the parameters.
#[derive(Debug)]
pub(super) struct SignatureBase(String);

impl SignatureBase {
    pub(super) fn new() -> Self {
        // The base of a usual request fits without reallocation.
        Self(String::with_capacity(768))
    }

    /// Adds a component. `id` is its quoted identifier, as in `Signature-Input`.
    pub(super) fn component(&mut self, id: &str, value: &str) -> &mut Self {
        self.line(id, |line| line.push_str(value))
    }

    /// Adds a field that holds one byte sequence.
    pub(super) fn byte_sequence(&mut self, id: &str, prefix: &str, bytes: &[u8]) -> &mut Self {
        self.line(id, |line| append_byte_sequence(prefix, bytes, line))
    }

    /// Adds the query, with the `?` that RFC 9421 (section 2.2.7) puts before every query, even an absent one.
    pub(super) fn query(&mut self, query: &str) -> &mut Self {
        self.line("\"@query\"", |line| {
            line.push('?');
            line.push_str(query);
        })
    }

    /// Returns the base with its last line.
    pub(super) fn finish(mut self, params: &str) -> Vec<u8> {
        self.0.push_str("\"@signature-params\": ");
        self.0.push_str(params);
        self.0.into_bytes()
    }

    fn line(&mut self, id: &str, write_value: impl FnOnce(&mut String)) -> &mut Self {
        self.0.push_str(id);
        self.0.push_str(": ");
        write_value(&mut self.0);
        self.0.push('\n');
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{KeyPair, Soul};

    const COVERED: &str = r#"("@method" "@path")"#;

    fn params(created: i64, for_request: bool, nonce: [u8; 16]) -> Params {
        let key_id = KeyId::from(&KeyPair::from_soul(&Soul::bond([1; 32], "alice")).public_key());
        let created = UnixSeconds::new(created);
        let for_request = for_request.then(|| (UnixSeconds::new(30), Nonce::from_bytes(nonce)));
        Params::new(COVERED, created, for_request, (key_id, &key_id.to_string()))
    }

    #[test]
    fn a_field_fits_into_the_room_that_was_made_for_it() {
        for (created, for_request) in [(1_769_100_000, false), (1_769_100_000, true), (9, true)] {
            let field = params(created, for_request, [7; 16]).field;
            assert_eq!(field.len(), field.capacity());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// The fast path accepts its own output, and never accepts or parses differently what the slow path refuses.
        #[test]
        fn the_fast_path_equals_the_slow_path(
            created in prop_oneof![any::<i64>(), -2_000_000_000_000_000_i64..2_000_000_000_000_000],
            for_request: bool, nonce: [u8; 16],
            change in proptest::option::of((any::<prop::sample::Index>(), prop::sample::select(b"0159+-;:=\"() aAzZ".to_vec()))),
        ) {
            let written = params(created, for_request, nonce);
            let mut input = written.field().to_owned();
            if let Some((at, with)) = change {
                let at = at.index(input.len());
                input.replace_range(at..=at, &char::from(with).to_string());
            }
            let short = Params::parse_own(&input, COVERED);
            let long = Params::parse_any(&input, COVERED).map(|(params, _)| params);
            if let Some(short) = short {
                prop_assert_eq!(Ok(short), long);
            } else if input == written.field() {
                prop_assert_eq!(long, Err(SignatureError::Malformed(SignedField::SignatureInput)));
            }
        }
    }
}
