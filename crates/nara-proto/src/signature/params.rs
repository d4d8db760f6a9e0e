//! `Signature-Input`: what is covered, and the parameters.

use http::HeaderValue;
use sfv::{BareItem, Dictionary, FieldType as _, InnerList, ListEntry, Parser};

use super::fields::ascii;
use super::{ALGORITHM, LABEL, Nonce, SignatureError, SignedField, TAG};
use crate::identity::KeyId;
use crate::time::UnixSeconds;

/// The parameters of a signature, and their text, which is signed as it is spelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Params {
    pub(super) created: UnixSeconds,
    pub(super) expires: Option<UnixSeconds>,
    pub(super) nonce: Option<Nonce>,
    pub(super) key_id: KeyId,
    /// The inner list with its parameters: the value of `@signature-params`.
    text: String,
}

impl Params {
    /// The parameters of a signature that is being made. `covered` is the inner list of components.
    pub(super) fn new(
        covered: &str,
        created: UnixSeconds,
        for_request: Option<(UnixSeconds, Nonce)>,
        key_id: (KeyId, &str),
    ) -> Self {
        let (key_id, key_id_text) = key_id;
        let mut text = format!("{covered};created={created}");
        if let Some((expires, nonce)) = for_request {
            text.push_str(&format!(";expires={expires};nonce=\"{}\"", nonce.to_base64()));
        }
        text.push_str(&format!(
            ";keyid=\"{key_id_text}\";alg=\"{ALGORITHM}\";tag=\"{TAG}\""
        ));
        Self {
            created,
            expires: for_request.map(|(expires, _)| expires),
            nonce: for_request.map(|(_, nonce)| nonce),
            key_id,
            text,
        }
    }

    /// Reads `Signature-Input`. It must be in the strict spelling of RFC 9651, so that its text is what was signed.
    pub(super) fn parse(value: &HeaderValue, covered: &'static str) -> Result<Self, SignatureError> {
        const FIELD: SignedField = SignedField::SignatureInput;
        let input = ascii(value, FIELD)?;
        let malformed = |_| SignatureError::Malformed(FIELD);
        let dictionary: Dictionary = Parser::new(input).parse().map_err(malformed)?;
        // A repeated label or parameter overwrites the first, so the text is not what comes out again.
        if dictionary.len() != 1 {
            return Err(SignatureError::Label);
        }
        let Some(ListEntry::InnerList(list)) = dictionary.get(LABEL) else {
            return Err(SignatureError::Label);
        };
        let params = Self::read(list, input, covered)?;
        if dictionary.serialize().as_deref() == Some(input) {
            Ok(params)
        } else {
            Err(SignatureError::Malformed(FIELD))
        }
    }

    fn read(list: &InnerList, input: &str, covered: &'static str) -> Result<Self, SignatureError> {
        let text = input.get(LABEL.len() + 1..).unwrap_or_default();
        // In the strict spelling the list is a prefix; what is not, is refused later.
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
            text: text.to_owned(),
        })
    }

    /// The value of `@signature-params`.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The value of the header.
    pub(super) fn to_field(&self) -> String {
        format!("{LABEL}={}", self.text)
    }
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
