//! Answers, and what is proven about them.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use nara_proto::clock_offset::ClockOffset;
use nara_proto::event::{EventProblem, EventTrust, SyncEvent};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PingResponse;
use nara_proto::sync::Cursor;
use nara_proto::time::{UnixMillis, UnixSeconds};
use nara_proto::v2::Capability;

use crate::Coverage;
use crate::registry::{KeySource, PeerInfo, PinnedKey};
use crate::tls::Security;

/// A value from a peer, and what is proven about it. It dereferences to the value.
///
/// From a signed endpoint, a value that does not verify is an error and no `Verified`, unless the client was
/// built with [`danger_accept_unverified_responses`](super::MeshClientBuilder::danger_accept_unverified_responses).
/// From an open endpoint nothing can be verified; [`Verified::is_verified`] says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T> {
    value: T,
    verification: Verification,
}

/// What is proven about an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// Who signed the answer.
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
    /// Whether that signature also covers the status and the request, so that the answer belongs to this very
    /// question: profile v2.
    pub bound: bool,
    /// Whether the signature inside the body verified, which covers the ids of events. Where the answer is
    /// [bound](Self::bound) there may be none: it would cover a part of what is proven already.
    pub inner: bool,
    /// Whether the answer is not signed, and came over a secure connection to the holder of the key.
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
    /// Nothing is proven: the endpoint is open.
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

    /// Whether the whole answer is proven to come from the responder: by its signature, or by the secure connection
    /// on which it came.
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

    /// The same verification for another value that was made from this one.
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

/// An event that may be stored, and how far it can be trusted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckedEvent {
    /// The event. Its id follows from its content.
    pub event: SyncEvent,
    /// How far it can be trusted.
    pub trust: EventTrust,
}

/// An event that a peer sent and that must not be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedEvent {
    /// The id that it carries.
    pub id: String,
    /// The emitter that it claims.
    pub emitter: String,
    /// What is wrong with it.
    pub problem: EventProblem,
}

/// The events of one answer, each of them checked.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CheckedEvents {
    /// Those that may be stored, in the order in which they came.
    pub accepted: Vec<CheckedEvent>,
    /// Those that must not, in the order in which they came.
    pub refused: Vec<RefusedEvent>,
}

impl CheckedEvents {
    /// How many events came, of both kinds.
    pub fn received(&self) -> usize {
        self.accepted.len() + self.refused.len()
    }

    pub(super) fn append(&mut self, mut more: Self) {
        self.accepted.append(&mut more.accepted);
        self.refused.append(&mut more.refused);
    }

    /// The events that may be stored, without their trust.
    pub fn into_events(self) -> Vec<SyncEvent> {
        self.accepted.into_iter().map(|checked| checked.event).collect()
    }
}

/// The answer of one event sync.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct SyncEvents {
    /// The name of the responder as the body gives it.
    pub from: String,
    /// When the responder made it, in **seconds**.
    pub ts: UnixSeconds,
    /// The events.
    pub events: CheckedEvents,
    /// Mode `page`: where the next page begins, for v1 peers; empty if there is none.
    pub next_cursor: String,
    /// Mode `page`: where the next page begins without loss, from peers that know this cursor.
    pub next_after: Option<Cursor>,
}

/// The answer of one exchange of zines.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ZineEvents {
    /// The name of the nara that made it.
    pub from: String,
    /// When it was made, in **seconds**.
    pub created_at: UnixSeconds,
    /// The events.
    pub events: CheckedEvents,
}

/// One page of [`sync_pages`](super::PeerHandle::sync_pages).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SyncPage {
    /// The events of the page that did not come before, oldest first.
    pub events: CheckedEvents,
    /// Where to resume behind this page.
    pub cursor: Cursor,
    /// The size of the answer, in bytes.
    pub bytes: usize,
    /// How many events the peer has in all, if it tells.
    pub total: Option<u64>,
    /// What is proven about the answer.
    pub verification: Verification,
}

/// The checkpoints of a peer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Checkpoints {
    /// The checkpoints, oldest first.
    pub events: CheckedEvents,
    /// Whether there are more than were fetched.
    pub more: bool,
}

/// A measured round trip.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PingReport {
    /// From the first byte of the request to the last byte of the answer; without dialling.
    pub rtt: Duration,
    /// How long dialling took, if the call had to dial.
    pub dial: Option<Duration>,
    /// How far its clock is ahead of ours: what is proven ([`Peer::clock_offset`](crate::registry::Peer::clock_offset)),
    /// or else what this answer says; `None`: our clock was set back meanwhile.
    pub clock_offset: Option<ClockOffset>,
    /// Whether `clock_offset` is proven: by answers that the peer has signed, or by a secure connection to the holder
    /// of its pinned key. Otherwise whoever sits in between can have made it up.
    pub clock_proven: bool,
    /// What the peer says about itself. It is not signed.
    pub response: PingResponse,
    /// How the connection was protected.
    pub security: Security,
    /// Whether the key in the answer is the pinned one; `None` if none is pinned.
    pub key_matches: Option<bool>,
    /// What the peer can do beyond all others, signed just now with the key in the answer.
    pub capability: Option<Capability>,
}

/// What `/ping` at an address says about the nara there: unsigned, trust on first use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveredKey {
    /// The name.
    pub name: NaraName,
    /// The public key.
    pub key: PublicKey,
    /// What the nara can do beyond all others, signed just now with this key.
    pub capability: Option<Capability>,
}

/// What a peer said about a nara that was searched for: unsigned hearsay.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundPeer {
    /// The name of the nara.
    pub name: NaraName,
    /// Its public key, as told.
    pub key: PublicKey,
    /// Its mesh address, if told.
    pub mesh_ip: Option<std::net::IpAddr>,
    /// Who told it.
    pub told_by: NaraName,
}

impl FoundPeer {
    /// What to register, at `port`, to believe it: the trust policy of the registry decides whether it is.
    pub fn to_info(&self, port: u16, now: UnixMillis) -> PeerInfo {
        PeerInfo {
            name: Some(self.name.clone()),
            address: self.mesh_ip.map(|ip| SocketAddr::new(ip, port)),
            key: Some(PinnedKey {
                name: self.name.clone(),
                id: None,
                key: self.key,
                source: KeySource::PeerQuery(self.told_by.clone()),
                learned_at: now,
            }),
            ..PeerInfo::default()
        }
    }
}
