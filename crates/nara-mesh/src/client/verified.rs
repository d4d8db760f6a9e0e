//! Answers, and what their verification proves.

use std::ops::Deref;
use std::time::Duration;

use nara_proto::clock_offset::ClockOffset;
use nara_proto::event::CheckedEvents;
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PingResponse;
use nara_proto::sync::Cursor;
use nara_proto::time::{UnixMillis, UnixSeconds};
use nara_proto::v2::Capability;

use crate::Coverage;
use crate::registry::KeySource;
use crate::tls::Security;

/// A value from a peer, and what its verification proves. It dereferences to the value.
///
/// From a signed endpoint, a value that does not verify is an error, unless the client was built with
/// [`danger_accept_unverified_responses`](super::MeshClientBuilder::danger_accept_unverified_responses). Answers of
/// open endpoints are never verified: see [`Verified::is_verified`].
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T> {
    value: T,
    verification: Verification,
}

/// What the verification of an answer proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The signer of the answer.
    pub responder: Option<NaraName>,
    /// The key with which the signature verified.
    pub key: Option<PublicKey>,
    /// How that key was learned; the answer is worth no more than that.
    pub key_source: Option<KeySource>,
    /// When the answer was signed, by the responder's clock, in milliseconds.
    pub signed_at: Option<UnixMillis>,
    /// Whether the signature in the header, which covers the whole body, verified. Other header fields of an answer are
    /// covered by a secure connection alone.
    pub header: bool,
    /// Whether that signature also covers the status and the request, so that the answer belongs to this request
    /// (profile v2).
    pub bound: bool,
    /// Whether the signature inside the body verified, which covers the ids of events. A [bound](Self::bound)
    /// answer may have none, because the v2 signature covers the whole body.
    pub inner: bool,
    /// Whether the answer is unsigned and proven by a TLS connection to the holder of the key.
    pub channel: bool,
    /// How the body is proven.
    pub body: BodyProof,
    /// What of the request the responder could verify; `None`: nothing, as far as is known. Where it is less than
    /// [`Coverage::Whole`], somebody on the path may have changed the rest of it.
    pub request: Option<Coverage>,
}

/// How the body of an answer is proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyProof {
    /// Not at all.
    #[default]
    None,
    /// The head of the answer is signed, its body is not: on its way, anybody can have changed or cut it.
    HeadOnly,
    /// Its digest is signed, and compared when its last byte has come. A body that was changed ends with an error.
    AtEnd,
    /// The whole answer came over a secure connection to the holder of the pinned key.
    Channel,
    /// The signature covers it, and was verified before any of it was given out.
    Whole,
}

impl Verification {
    /// The verification of an open endpoint: nothing is proven.
    pub fn open() -> Self {
        Self::default()
    }
}

impl<T> Verified<T> {
    pub(super) fn new(value: T, verification: Verification) -> Self {
        Self { value, verification }
    }

    /// What is proven.
    pub fn verification(&self) -> &Verification {
        &self.verification
    }

    /// Whether the whole answer provably comes from the responder: by its signature, or by its TLS connection.
    pub fn is_verified(&self) -> bool {
        self.verification.header || self.verification.channel
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Value and verification.
    pub fn into_parts(self) -> (T, Verification) {
        (self.value, self.verification)
    }

    /// Maps the value, with the same verification.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Verified<U> {
        Verified::new(f(self.value), self.verification)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The events of one answer of a peer: of an event sync, an exchange of zines, or a request for checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SyncEvents {
    /// The name of the responder as the body gives it.
    pub from: String,
    /// When the responder made it, in **seconds**.
    pub ts: UnixSeconds,
    /// The events.
    pub events: CheckedEvents,
    /// Mode `page`: where the next page begins, for v1 peers; empty without one.
    pub next_cursor: String,
    /// Mode `page`: where the next page begins without loss, from peers that support this cursor.
    pub next_after: Option<Cursor>,
    /// Whether there are more checkpoints than were fetched.
    pub more: bool,
}

/// One page of [`sync_pages`](super::PeerHandle::sync_pages).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SyncPage {
    /// The new events of the page, oldest first.
    pub events: CheckedEvents,
    /// Where to resume behind this page.
    pub cursor: Cursor,
    /// The size of the answer, in bytes.
    pub bytes: usize,
    /// The total number of events at the peer, if known.
    pub total: Option<u64>,
    /// What is proven about the answer.
    pub verification: Verification,
}

/// A measured round trip.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PingReport {
    /// From the first byte of the request to the last byte of the answer; without dialling.
    pub rtt: Duration,
    /// How long dialling took, if the call had to dial.
    pub dial: Option<Duration>,
    /// How far its clock is ahead of ours: the proven offset
    /// ([`Peer::clock_offset`](crate::registry::Peer::clock_offset)), else the one of this answer; `None`: our
    /// clock was set back meanwhile.
    pub clock_offset: Option<ClockOffset>,
    /// Whether `clock_offset` is proven: by signed answers, or by a TLS connection with its pinned key. Otherwise
    /// an attacker in the middle may have forged it.
    pub clock_proven: bool,
    /// The unsigned body of the answer.
    pub response: PingResponse,
    /// How the connection was protected.
    pub security: Security,
    /// Whether the key in the answer is the pinned one; `None` if none is pinned.
    pub key_matches: Option<bool>,
    /// The capability of the peer, signed just now with the key in the answer.
    pub capability: Option<Capability>,
}

/// The unsigned `/ping` answer of an address, for trust on first use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveredKey {
    /// The name.
    pub name: NaraName,
    /// The public key.
    pub key: PublicKey,
    /// The capability of the nara, signed just now with this key.
    pub capability: Option<Capability>,
}
