//! Signed requests.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use super::fields::{
    self, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, byte_sequence, byte_sequence_text, optional,
};
use super::input::{Params, SignatureBase};
use super::{ContentDigest, MAX_LIFETIME, Nonce, SignatureError, SignedBody, SignedField, Signer};
use crate::endpoint::query_escape;
use crate::identity::{KeyId, NaraId, NaraName, PublicKey, Signature};
use crate::time::{UnixMillis, UnixSeconds};
use crate::v1::{self, FRESHNESS_WINDOW, NAME_HEADER};

const COVERED: &str = r#"("@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to")"#;
const COVERED_ON_CHANNEL: &str =
    r#"("@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to" "x-nara-channel")"#;
const STREAMED: &str = r#"("@method" "@path" "@query" "x-nara-body" "x-nara-name" "x-nara-to")"#;
const STREAMED_ON_CHANNEL: &str =
    r#"("@method" "@path" "@query" "x-nara-body" "x-nara-name" "x-nara-to" "x-nara-channel")"#;

/// The request line, as far as it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, percent-encoded as on the request line.
    pub path: &'a str,
    /// The query as on the request line, without `?`; `None` if there is no `?`. RFC 9421 does not tell that from an
    /// empty query, and neither does any endpoint.
    pub query: Option<&'a str>,
}

/// The recipient of a request.
///
/// `Display` is the value of `X-Nara-To`: the id, or the name percent-encoded, because RFC 9421 signs fields of ASCII.
/// It has one spelling: every byte but letters, digits and `-._~` is encoded, in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The nara with this id.
    Id(NaraId),
    /// The nara with this name: where its id is not known.
    Name(NaraName),
}

impl Recipient {
    /// Whether this is how `X-Nara-To` spells the nara with this id and name.
    pub(super) fn is_spelled(field: &str, id: &NaraId, name: &NaraName) -> bool {
        field == id.as_str() || field == query_escape(name.as_str())
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Name(name) => f.pad(&query_escape(name.as_str())),
        }
    }
}

/// Keying material that TLS exports (RFC 8446, section 7.5) and that only the two ends of one connection know. A
/// signature that covers it is worthless on any other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// The binding with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the header, if it is there.
    ///
    /// # Errors
    /// [`SignatureError`] if it is repeated or malformed.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, SignatureError> {
        let value = optional(headers, SignedField::Channel)?;
        value
            .map(|value| byte_sequence(value, "", SignedField::Channel).map(Self))
            .transpose()
    }

    /// The header of a request without any signature that says for which connection it was written: it claims that its
    /// connection alone proves it. `None`: it has a signature, or no binding.
    ///
    /// # Errors
    /// [`SignatureError`] if the header is repeated or too long.
    pub fn alone_in(headers: &HeaderMap) -> Result<Option<&HeaderValue>, SignatureError> {
        let claimed = optional(headers, SignedField::Channel);
        let signed = [SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER, v1::SIGNATURE_HEADER];
        // Nearly all have few headers, and looking at those is faster than at the table of their names.
        if claimed == Ok(None) || headers.keys().any(|name| signed.contains(name)) {
            return Ok(None);
        }
        claimed
    }

    /// Checks in constant time that a header names the binding with this [value](Self::to_value). A binding has one
    /// spelling, so nothing has to be decoded.
    ///
    /// # Errors
    /// [`SignatureError`] if it is another one, or malformed.
    pub fn check_value(claimed: &HeaderValue, ours: &HeaderValue) -> Result<(), SignatureError> {
        if verify_slices_are_equal(claimed.as_bytes(), ours.as_bytes()).is_ok() {
            return Ok(());
        }
        byte_sequence::<32>(claimed, "", SignedField::Channel)?;
        Err(SignatureError::Channel)
    }

    /// Writes the header, replacing the one that is there.
    pub fn write_to(self, headers: &mut HeaderMap) {
        headers.insert(SignedField::Channel.header(), self.to_value());
    }

    /// The value of the header.
    pub fn to_value(self) -> HeaderValue {
        fields::value(self.to_field())
    }

    /// The value of the header: one byte sequence.
    fn to_field(self) -> String {
        byte_sequence_text("", &self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether it is the same, in constant time.
    fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// What goes into the signature of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestToSign<'a> {
    /// The request line.
    pub line: RequestLine<'a>,
    /// For whom the request is.
    pub to: &'a Recipient,
    /// The digest of the body, or that it is streamed.
    pub body: SignedBody,
    /// The time of signing.
    pub now: UnixMillis,
    /// A nonce that was never used before.
    pub nonce: Nonce,
    /// The connection on which it will be sent, if it is a secure one.
    pub channel: Option<ChannelBinding>,
}

/// The signature of one request, with all that it covers beside the request line.
///
/// Reading it checks its form. Whether it may be believed say [`check_time`](Self::check_time),
/// [`check_recipient`](Self::check_recipient), [`check_channel`](Self::check_channel), [`check_key`](Self::check_key),
/// [`verify_signature`](Self::verify_signature), the body against its [`digest`](Self::digest), and a memory of the
/// [`nonce`](Self::nonce)s that were used already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    name: NaraName,
    to: String,
    body: SignedBody,
    /// The whole `Content-Digest`, if digests of other algorithms stand beside ours.
    digests: Option<String>,
    channel: Option<ChannelBinding>,
    expires: UnixSeconds,
    nonce: Nonce,
    params: Params,
    signature: Signature,
}

impl Signer {
    /// Signs a request.
    pub fn sign_request(&self, request: &RequestToSign<'_>) -> RequestSignature {
        let created = request.now.to_seconds();
        let expires = created.saturating_add(MAX_LIFETIME);
        let for_request = Some((expires, request.nonce));
        let params = Params::new(
            covered(request.body, request.channel),
            created,
            for_request,
            self.key_id(),
        );
        let mut signed = RequestSignature {
            name: self.name().clone(),
            to: match request.to {
                Recipient::Id(id) => id.as_str().to_owned(),
                Recipient::Name(name) => query_escape(name.as_str()),
            },
            body: request.body,
            digests: None,
            channel: request.channel,
            expires,
            nonce: request.nonce,
            params,
            signature: Signature::from_bytes([0; 64]),
        };
        signed.signature = self.keypair().sign(&signed.base(request.line));
        signed
    }
}

impl RequestSignature {
    /// Reads the headers of a request. What is missing, repeated, too long, in another than the strict spelling, or
    /// not of this profile, is an error. Signatures with another label and tag, and digests of other algorithms than
    /// SHA-256, are ignored.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let input = Params::input(headers)?;
        let channel = ChannelBinding::from_headers(headers)?;
        let (body, digests) = SignedBody::from_headers(headers)?;
        let (params, label) = Params::parse(&input, covered(body, channel))?;
        let missing = |name| move || SignatureError::MissingParameter(name);
        let expires = params.expires.ok_or_else(missing("expires"))?;
        let lifetime = expires.abs_diff(params.created);
        if expires < params.created || lifetime > MAX_LIFETIME {
            return Err(SignatureError::Lifetime);
        }
        let to = fields::single(headers, SignedField::To)?;
        Ok(Self {
            name: fields::name(headers)?,
            to: fields::ascii(to, SignedField::To)?.to_owned(),
            body,
            digests,
            channel,
            expires,
            nonce: params.nonce.ok_or_else(missing("nonce"))?,
            params,
            signature: fields::signature(headers, &label)?,
        })
    }

    /// Writes the headers, replacing any that are there.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(NAME_HEADER, fields::value(self.name.as_str()));
        headers.insert(SignedField::To.header(), fields::value(self.to.as_str()));
        self.body.write_to(headers);
        if let Some(channel) = self.channel {
            channel.write_to(headers);
        }
        headers.insert(
            SignedField::SignatureInput.header(),
            fields::value(self.params.field()),
        );
        headers.insert(
            SignedField::Signature.header(),
            fields::value(fields::signature_text(&self.signature)),
        );
    }

    /// Who claims to send the request.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// For whom it is, as `X-Nara-To` spells it.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// What is signed about its body.
    pub fn body(&self) -> SignedBody {
        self.body
    }

    /// The digest that its body must have.
    ///
    /// # Errors
    /// [`SignatureError::Streamed`] if the body is streamed: a receiver that takes streams asks
    /// [`body`](Self::body) instead.
    pub fn digest(&self) -> Result<ContentDigest, SignatureError> {
        self.body.digest()
    }

    /// When it was signed, by the sender's clock.
    pub fn created(&self) -> UnixSeconds {
        self.params.created
    }

    /// Until when it is good, by the sender's clock: to the end of this second. At most [`MAX_LIFETIME`] behind
    /// [`created`](Self::created).
    pub fn expires(&self) -> UnixSeconds {
        self.expires
    }

    /// When it was signed, in milliseconds: from the [nonce](Nonce) if that fits to `created`, else the beginning of
    /// that second.
    pub fn signed_at(&self) -> UnixMillis {
        let exact = self.nonce.time();
        if exact.to_seconds() == self.created() {
            exact
        } else {
            self.created().to_millis()
        }
    }

    /// What makes it another request than any before.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// The key that it claims to be signed with.
    pub fn key_id(&self) -> KeyId {
        self.params.key_id
    }

    /// The signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks that it was signed within [`FRESHNESS_WINDOW`] of `now` and has not expired: cheap, so done before
    /// anything else.
    ///
    /// # Errors
    /// [`SignatureError::Stale`] or [`SignatureError::Expired`].
    pub fn check_time(&self, now: UnixMillis) -> Result<(), SignatureError> {
        let now = now.to_seconds();
        let created = self.created();
        if created.abs_diff(now) > FRESHNESS_WINDOW {
            return Err(SignatureError::Stale { created, now });
        }
        let expires = self.expires;
        if now > expires {
            return Err(SignatureError::Expired { expires, now });
        }
        Ok(())
    }

    /// Checks that it is for the nara with this id and name.
    ///
    /// # Errors
    /// [`SignatureError::Recipient`].
    pub fn check_recipient(&self, id: &NaraId, name: &NaraName) -> Result<(), SignatureError> {
        if Recipient::is_spelled(&self.to, id, name) {
            Ok(())
        } else {
            Err(SignatureError::Recipient)
        }
    }

    /// Checks that it is for the connection that it arrived on; `None` for plain HTTP.
    ///
    /// # Errors
    /// [`SignatureError::Channel`] if it is for another one, or lacks the binding that a secure channel needs.
    pub fn check_channel(&self, channel: Option<&ChannelBinding>) -> Result<(), SignatureError> {
        let same = match (&self.channel, channel) {
            (None, None) => true,
            (Some(claimed), Some(ours)) => claimed.is_same(ours),
            _ => false,
        };
        if same {
            Ok(())
        } else {
            Err(SignatureError::Channel)
        }
    }

    /// Checks that it claims the key that is known for the name.
    ///
    /// # Errors
    /// [`SignatureError::KeyId`].
    pub fn check_key(&self, key: &PublicKey) -> Result<(), SignatureError> {
        self.params.check_key(key)
    }

    /// Verifies the signature, at any age.
    ///
    /// # Errors
    /// [`SignatureError::BadSignature`].
    pub fn verify_signature(&self, key: &PublicKey, line: RequestLine<'_>) -> Result<(), SignatureError> {
        // Digests of other algorithms were added on the way, or the sender wrote and signed them.
        let verified = key.verify(&self.base(line), &self.signature).or_else(|error| {
            let digests = self.digests.as_deref().ok_or(error)?;
            key.verify(&self.base_with(line, Some(digests)), &self.signature)
        });
        verified.map_err(|_| SignatureError::BadSignature)
    }

    /// The bytes that are signed (RFC 9421, section 2.5).
    pub fn base(&self, line: RequestLine<'_>) -> Vec<u8> {
        self.base_with(line, None)
    }

    fn base_with(&self, line: RequestLine<'_>, digests: Option<&str>) -> Vec<u8> {
        let mut base = SignatureBase::new();
        base.component("\"@method\"", line.method)
            .component("\"@path\"", line.path)
            .query(line.query.unwrap_or_default());
        self.body.append_to(&mut base, digests);
        base.component("\"x-nara-name\"", self.name.as_str())
            .component("\"x-nara-to\"", &self.to);
        if let Some(channel) = &self.channel {
            base.byte_sequence("\"x-nara-channel\"", "", channel.as_bytes());
        }
        base.finish(self.params.text())
    }
}

fn covered(body: SignedBody, channel: Option<ChannelBinding>) -> &'static str {
    match (body, channel) {
        (SignedBody::Digest(_), None) => COVERED,
        (SignedBody::Digest(_), Some(_)) => COVERED_ON_CHANNEL,
        (SignedBody::Streamed, None) => STREAMED,
        (SignedBody::Streamed, Some(_)) => STREAMED_ON_CHANNEL,
    }
}
