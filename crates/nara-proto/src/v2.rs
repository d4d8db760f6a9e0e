//! Profile v2: signatures over the whole request, and answers bound to their request, by RFC 9421 (HTTP Message
//! Signatures) and RFC 9530 (digests). Specification: `docs/protocol/v2.md`; vectors: `tests/vectors-v2`.
//!
//! The profile is fixed: nothing is negotiated or optional. A request carries
//!
//! ```text
//! X-Nara-Name: alice
//! X-Nara-To: A7LSDFk4JWxFB1x6TMEYSDkQ1WC9cJzbtvEZUuY5bPu9
//! Content-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:
//! Signature-Input: nara=("@method" "@path" "@query" "content-digest" "x-nara-name" "x-nara-to");created=1769100000;
//!   expires=1769100030;nonce="AZvpcqDQAAECAwQFBgcICQ==";keyid="…";alg="ed25519";tag="nara-mesh"
//! Signature: nara=:…:
//! ```
//!
//! and on a [secure channel](ChannelBinding) also `X-Nara-Channel`, which is covered too. An answer covers its status,
//! its digest, the responder, and the signature of the request (`"signature";req`), so it is valid for one request
//! only.
//!
//! * One signature, labelled `nara`; exactly these components in this order; exactly these parameters, in any order.
//! * Every field has one spelling, the strict one of RFC 9651. A second spelling of a signed request would count as
//!   another request wherever texts are compared.
//! * The recipient is its id, or its name where the id is unknown ([`Recipient`]).
//! * `X-Nara-Name` is covered as the bytes on the wire, which are UTF-8.
//! * `keyid` is the [`KeyId`](crate::identity::KeyId) of the key: it follows from the key, so it cannot lie.
//!
//! A message with a streamed body carries `X-Nara-Body: stream` instead of `Content-Digest`, and covers it in place of
//! the digest: the signature proves the head, and states that it does not prove the body ([`SignedBody`]).
//!
//! Signing and verifying share the functions that make the signed bytes, so they cannot drift apart.
//!
//! ```
//! use nara_proto::identity::{KeyPair, Soul};
//! use nara_proto::v2::{ContentDigest, Nonce, Recipient, RequestLine, RequestSignature, RequestToSign, SignedBody, Signer};
//! use nara_proto::time::UnixMillis;
//!
//! let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
//! let alice = Signer::new(keypair.clone(), "alice".parse()?);
//! let bob = Recipient::Name("bob".parse()?);
//! let line = RequestLine { method: "POST", path: "/dm", query: None };
//! let now = UnixMillis::new(1_769_100_000_250);
//!
//! let signed = alice.sign_request(&RequestToSign {
//!     line,
//!     to: &bob,
//!     body: SignedBody::Digest(ContentDigest::of(b"{}")),
//!     now,
//!     nonce: Nonce::new(now, [7; 10]),
//!     channel: None,
//! });
//! let mut headers = http::HeaderMap::new();
//! signed.write_to(&mut headers);
//!
//! let received = RequestSignature::from_headers(&headers)?;
//! received.check_time(now)?;
//! received.check_key(&keypair.public_key())?;
//! received.verify_signature(&keypair.public_key(), line)?;
//! received.digest()?.check(b"{}")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod body;
mod capability;
mod fields;
mod input;
mod members;
mod request;
mod response;
mod signer;

pub use body::{ContentDigest, DigestHasher, SignedBody};
pub use capability::{CAPABILITY_HEADER, Capability, CapabilityError, SignedCapability};
pub use fields::{SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER, SignatureError, SignedField};
pub use input::Nonce;
pub use request::{ChannelBinding, Recipient, RequestLine, RequestSignature, RequestToSign};
pub use response::{AcceptSignature, ResponseSignature, ResponseToSign};
pub use signer::Signer;

use std::time::Duration;

use http::HeaderMap;

/// The label of the signature.
const LABEL: &str = "nara";

/// The `tag` of the signatures of this profile.
const TAG: &str = "nara-mesh";

/// The `alg` of the signatures of this profile.
const ALGORITHM: &str = "ed25519";

/// The longest time from `created` to `expires`: a request is valid no longer, whatever its sender states.
pub const MAX_LIFETIME: Duration = Duration::from_secs(30);

/// Returns whether a message claims to carry a signature of this profile, even a broken one: it has the label or the
/// tag, or its fields cannot be parsed. The signature of a gateway has neither.
///
/// A receiver that supports v2 must verify such a message by v2 alone: with a fall-back to v1, an attacker could choose
/// the weaker check.
pub fn is_claimed(headers: &HeaderMap) -> bool {
    let claims = |field: SignedField| {
        let Some(first) = headers.get(field.header()) else {
            return false;
        };
        let is_ours = |member: &members::Member<'_>| input::is_ours(member);
        first.as_bytes().starts_with(fields::LABEL_PREFIX.as_bytes())
            || members::joined(headers, field)
                .and_then(|text| Ok(members::members(&text, field)?.iter().any(is_ours)))
                .unwrap_or(true)
    };
    claims(SignedField::SignatureInput) || claims(SignedField::Signature)
}

#[cfg(test)]
mod tests;
