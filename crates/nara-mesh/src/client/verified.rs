//! Answers and their verification.

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

/// A value from a peer with its verification. Dereferences to the value.
///
/// An unverifiable value from a signed endpoint is an error, unless the client was built with
/// [`danger_accept_unverified_responses`](super::MeshClientBuilder::danger_accept_unverified_responses). Answers
/// of open endpoints are never verified: see [`Verified::is_verified`].
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T> {
    value: T,
    verification: Verification,
}

/// The result of verifying an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The signer of the answer.
    pub responder: Option<NaraName>,
    /// The key that verified the signature.
    pub key: Option<PublicKey>,
    /// How that key was learned; the answer is only as trustworthy.
    pub key_source: Option<KeySource>,
    /// The time of the signature, by the responder's clock, in milliseconds.
    pub signed_at: Option<UnixMillis>,
    /// Whether the header signature, which covers the whole body, verified. Other header fields of an answer are
    /// protected only by a secure connection.
    pub header: bool,
    /// Whether that signature also covers the status and the request, so that the answer belongs to this request
    /// (v2).
    pub bound: bool,
    /// Whether the signature inside the body, which covers the ids of events, verified. A [bound](Self::bound)
    /// answer may lack it, because the v2 signature covers the whole body.
    pub inner: bool,
    /// Whether the answer is unsigned and authenticated by a TLS connection to the holder of the key.
    pub channel: bool,
    /// How the body is authenticated.
    pub body: BodyProof,
    /// The part of the request that the responder could verify; `None` if unknown. If it is less than
    /// [`Coverage::Whole`], an attacker on the path may have changed the rest.
    pub request: Option<Coverage>,
}

/// How the body of an answer is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyProof {
    /// Not at all.
    #[default]
    None,
    /// Only the head of the answer is signed: the body may have been changed or truncated in transit.
    HeadOnly,
    /// Its digest is signed, and compared after the last byte. A modified body ends with an error.
    AtEnd,
    /// The whole answer came over a secure connection to the holder of the pinned key.
    Channel,
    /// The signature covers it, and was verified before any of it was returned.
    Whole,
}

impl Verification {
    /// Returns the verification of an open endpoint: nothing is proven.
    pub fn open() -> Self {
        Self::default()
    }
}

impl<T> Verified<T> {
    pub(super) fn new(value: T, verification: Verification) -> Self {
        Self { value, verification }
    }

    /// Returns the verification.
    pub fn verification(&self) -> &Verification {
        &self.verification
    }

    /// Returns whether the whole answer is authenticated: by its signature, or by its TLS connection.
    pub fn is_verified(&self) -> bool {
        self.verification.header || self.verification.channel
    }

    /// Returns the value without its verification.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Returns the value and its verification.
    pub fn into_parts(self) -> (T, Verification) {
        (self.value, self.verification)
    }

    /// Maps the value and keeps the verification.
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

/// The events of one answer: of an event sync, a zine exchange, or a request for checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SyncEvents {
    /// The name of the responder, as stated in the body.
    pub from: String,
    /// When the responder made it, in **seconds**.
    pub ts: UnixSeconds,
    /// The events.
    pub events: CheckedEvents,
    /// Mode `page`: the start of the next page, for v1 peers; empty on the last page.
    pub next_cursor: String,
    /// Mode `page`: the lossless start of the next page, from peers that support this cursor.
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
    /// The cursor after this page, for resuming.
    pub cursor: Cursor,
    /// The size of the answer, in bytes.
    pub bytes: usize,
    /// The total number of events at the peer, if known.
    pub total: Option<u64>,
    /// The verification of the answer.
    pub verification: Verification,
}

impl SyncPage {
    /// Appends the next page of the same peer.
    pub(super) fn append(&mut self, next: Self) {
        self.events.append(next.events);
        self.cursor = next.cursor;
        self.bytes += next.bytes;
        self.total = next.total;
        self.verification = next.verification;
    }
}

/// A measured round trip.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PingReport {
    /// Time from the first byte of the request to the last byte of the answer; without dialling.
    pub rtt: Duration,
    /// Duration of the dial, if the call had to dial.
    pub dial: Option<Duration>,
    /// How far the clock of the peer is ahead of ours: the proven offset
    /// ([`Peer::clock_offset`](crate::registry::Peer::clock_offset)), else the offset in this answer; `None` if
    /// our clock was set back meanwhile.
    pub clock_offset: Option<ClockOffset>,
    /// Whether `clock_offset` is proven: by signed answers, or by a TLS connection with the pinned key. Otherwise
    /// a man in the middle may have forged it.
    pub clock_proven: bool,
    /// The unsigned body of the answer.
    pub response: PingResponse,
    /// How the connection was protected.
    pub security: Security,
    /// Whether the key in the answer is the pinned one; `None` if none is pinned.
    pub key_matches: Option<bool>,
    /// The capability of the peer, freshly signed with the key in the answer.
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
    /// The capability of the nara, freshly signed with this key.
    pub capability: Option<Capability>,
}
