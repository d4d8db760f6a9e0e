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

/// The signed parts of the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, percent-encoded as on the request line.
    pub path: &'a str,
    /// The query as on the request line, without `?`; `None` if there is no `?`. RFC 9421 does not distinguish that
    /// from an empty query, and neither does any endpoint.
    pub query: Option<&'a str>,
}

/// The recipient of a request.
///
/// `Display` is the value of `X-Nara-To`: the id, or the name percent-encoded, because RFC 9421 signs ASCII fields. It
/// has one spelling: every byte except letters, digits and `-._~` is encoded, in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The nara with this id.
    Id(NaraId),
    /// The nara with this name, for a nara whose id is unknown.
    Name(NaraName),
}

impl Recipient {
    /// Returns whether `field` is the value of `X-Nara-To` for this id or name.
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
/// signature that covers it is invalid on any other connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// Returns the binding with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses the header, if present.
    ///
    /// # Errors
    /// [`SignatureError`] if it is repeated or malformed.
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, SignatureError> {
        let value = optional(headers, SignedField::Channel)?;
        value
            .map(|value| byte_sequence(value, "", SignedField::Channel).map(Self))
            .transpose()
    }

    /// Returns the binding header of a request without any signature, which claims that its connection alone proves it.
    /// `None` if the request has a signature, or no binding.
    ///
    /// # Errors
    /// [`SignatureError`] if the header is repeated or too long.
    pub fn alone_in(headers: &HeaderMap) -> Result<Option<&HeaderValue>, SignatureError> {
        let claimed = optional(headers, SignedField::Channel);
        let signed = [SIGNATURE_INPUT_HEADER, SIGNATURE_HEADER, v1::SIGNATURE_HEADER];
        // Requests have few headers, and scanning them is faster than looking each name up.
        if claimed == Ok(None) || headers.keys().any(|name| signed.contains(name)) {
            return Ok(None);
        }
        claimed
    }

    /// Checks in constant time that a header equals the binding with this [value](Self::to_value). A binding has one
    /// spelling, so it need not be decoded.
    ///
    /// # Errors
    /// [`SignatureError`] if it differs, or is malformed.
    pub fn check_value(claimed: &HeaderValue, ours: &HeaderValue) -> Result<(), SignatureError> {
        if verify_slices_are_equal(claimed.as_bytes(), ours.as_bytes()).is_ok() {
            return Ok(());
        }
        byte_sequence::<32>(claimed, "", SignedField::Channel)?;
        Err(SignatureError::Channel)
    }

    /// Writes the header, replacing an existing one.
    pub fn write_to(self, headers: &mut HeaderMap) {
        headers.insert(SignedField::Channel.header(), self.to_value());
    }

    /// Returns the value of the header.
    pub fn to_value(self) -> HeaderValue {
        fields::value(self.to_field())
    }

    /// Returns the value of the header: one byte sequence.
    fn to_field(self) -> String {
        byte_sequence_text("", &self.0)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares two bindings in constant time.
    fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// The input of a request signature.
#[derive(Clone, Copy, Debug)]
pub struct RequestToSign<'a> {
    /// The request line.
    pub line: RequestLine<'a>,
    /// The recipient.
    pub to: &'a Recipient,
    /// The digest of the body, or the marker of a streamed body.
    pub body: SignedBody,
    /// The time of signing.
    pub now: UnixMillis,
    /// A nonce that was never used before.
    pub nonce: Nonce,
    /// The connection on which the request will be sent, if it is secure.
    pub channel: Option<ChannelBinding>,
}

/// The signature of one request, with everything that it covers besides the request line.
///
/// Parsing it checks its form only. It is valid if [`check_time`](Self::check_time),
/// [`check_recipient`](Self::check_recipient), [`check_channel`](Self::check_channel), [`check_key`](Self::check_key)
/// and [`verify_signature`](Self::verify_signature) succeed, the body matches its [`digest`](Self::digest), and its
/// [`nonce`](Self::nonce) was not used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSignature {
    name: NaraName,
    to: String,
    body: SignedBody,
    /// The whole `Content-Digest`, if it has digests of other algorithms.
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
    /// Parses the headers of a request. Missing, repeated, overlong or non-canonical fields and fields of another
    /// profile are errors. Signatures with another label and tag, and digests of other algorithms than SHA-256, are
    /// ignored.
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

    /// Writes the headers, replacing existing ones.
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

    /// Returns the claimed sender.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// Returns the recipient, as in `X-Nara-To`.
    pub fn to(&self) -> &str {
        &self.to
    }

    /// Returns the signed statement about the body.
    pub fn body(&self) -> SignedBody {
        self.body
    }

    /// Returns the digest that the body must have.
    ///
    /// # Errors
    /// [`SignatureError::Streamed`] if the body is streamed: a receiver that accepts streams calls [`body`](Self::body)
    /// instead.
    pub fn digest(&self) -> Result<ContentDigest, SignatureError> {
        self.body.digest()
    }

    /// Returns the time of signing, by the sender's clock.
    pub fn created(&self) -> UnixSeconds {
        self.params.created
    }

    /// Returns the expiry time, by the sender's clock; the request is valid to the end of this second. At most
    /// [`MAX_LIFETIME`] after [`created`](Self::created).
    pub fn expires(&self) -> UnixSeconds {
        self.expires
    }

    /// Returns the time of signing in milliseconds: from the [nonce](Nonce) if that matches `created`, otherwise the
    /// beginning of that second.
    pub fn signed_at(&self) -> UnixMillis {
        let exact = self.nonce.time();
        if exact.to_seconds() == self.created() {
            exact
        } else {
            self.created().to_millis()
        }
    }

    /// Returns the nonce.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// Returns the claimed key.
    pub fn key_id(&self) -> KeyId {
        self.params.key_id
    }

    /// Returns the signature.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Checks that it was signed within [`FRESHNESS_WINDOW`] of `now` and has not expired. It is cheap, so it comes
    /// first.
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

    /// Checks that it is addressed to the nara with this id and name.
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

    /// Checks that it is bound to the connection on which it arrived; `None` for plain HTTP.
    ///
    /// # Errors
    /// [`SignatureError::Channel`] if it is bound to another one, or lacks the binding that a secure channel requires.
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

    /// Checks that it claims the key that is pinned for the name.
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

    /// Returns the bytes that are signed (RFC 9421, section 2.5).
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
