use std::fmt;

use crate::identity::{InvalidName, KeyId};
use crate::time::UnixSeconds;

use super::MAX_LIFETIME;

/// A header field that the signature depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedField {
    /// `X-Nara-Body`.
    Body,
    /// `X-Nara-Channel`.
    Channel,
    /// `Content-Digest`.
    ContentDigest,
    /// `X-Nara-Name`.
    Name,
    /// `Signature`.
    Signature,
    /// `Signature-Input`.
    SignatureInput,
    /// `X-Nara-To`.
    To,
}

impl fmt::Display for SignedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Body => "X-Nara-Body",
            Self::Channel => "X-Nara-Channel",
            Self::ContentDigest => "Content-Digest",
            Self::Name => "X-Nara-Name",
            Self::Signature => "Signature",
            Self::SignatureInput => "Signature-Input",
            Self::To => "X-Nara-To",
        })
    }
}

/// Why a message is not signed by profile v2. `Display` is the reason that a peer is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The signature is not one of the key over this message.
    #[error("signature verification failed")]
    BadSignature,
    /// The body is not the one whose digest is signed.
    #[error("the body does not match the signed Content-Digest")]
    Body,
    /// Signed for another connection, or the connection proves nothing.
    #[error("signed for another connection")]
    Channel,
    /// Something else is covered than what must be.
    #[error("the signature must cover exactly {expected}")]
    Components {
        /// What must be covered.
        expected: &'static str,
    },
    /// The time in `expires` has passed.
    #[error(
        "the signature expired at {expires} s, and the receiver's clock says {now} s: sign again, or check both clocks"
    )]
    Expired {
        /// When it expired, by the sender's clock.
        expires: UnixSeconds,
        /// The time of the receiver.
        now: UnixSeconds,
    },
    /// Another key is known for the name.
    #[error("signed with key {claimed}, but key {known} is pinned for this name")]
    KeyId {
        /// The key that the signature claims.
        claimed: KeyId,
        /// The key that is known.
        known: KeyId,
    },
    /// Not exactly one signature with the label of the profile.
    #[error("there must be exactly one signature, labelled {:?}", super::LABEL)]
    Label,
    /// `expires` lies before `created`, or too far behind it.
    #[error("the signature must expire within {} s after it was created", MAX_LIFETIME.as_secs())]
    Lifetime,
    /// A field is not in its one spelling.
    #[error("{0} is not in the strict spelling of this profile")]
    Malformed(SignedField),
    /// A field is not there.
    #[error("{0} is missing")]
    Missing(SignedField),
    /// A parameter is not there.
    #[error("the signature has no {0}")]
    MissingParameter(&'static str),
    /// The name is not one.
    #[error("X-Nara-Name is not a valid name: {0}")]
    Name(InvalidName),
    /// The name is not UTF-8.
    #[error("X-Nara-Name is not UTF-8")]
    NameEncoding,
    /// A parameter has another value or type than it must have.
    #[error("the signature has an invalid {0}")]
    Parameter(&'static str),
    /// The message is for another nara.
    #[error("signed for another nara: X-Nara-To names neither the id nor the name of this nara")]
    Recipient,
    /// A field stands there twice: two readers could believe two different ones.
    #[error("{0} is repeated")]
    Repeated(SignedField),
    /// `created` is not within the window.
    #[error("signed at {created} s, {} s {} the receiver's clock ({now} s): one of the two clocks is wrong",
        created.abs_diff(*now).as_secs(), if created > now { "ahead of" } else { "behind" })]
    Stale {
        /// When it was signed, by the sender's clock.
        created: UnixSeconds,
        /// The time of the receiver.
        now: UnixSeconds,
    },
    /// The body is streamed, so the signature does not cover it, and this receiver takes no streams.
    #[error("the body is streamed, so its bytes are not signed: send it with a Content-Digest")]
    Streamed,
    /// A field is longer than anything that it may say.
    #[error("{} is longer than {} bytes", .0, .0.max_len())]
    TooLong(SignedField),
    /// Both headers that can stand for the body are there.
    #[error("there must be either Content-Digest or X-Nara-Body, not both")]
    TwoBodies,
    /// A parameter that the profile does not have.
    #[error("the signature has an unknown parameter")]
    UnknownParameter,
}
