//! Who is where, and with which key: the [`PeerRegistry`].

mod admission;
mod clock;
mod conflict;
mod counts;
mod hearsay;
mod keeper;
mod known_keys;
mod peer;
mod protocol;
mod record;
mod restore;
mod source;
mod table;
mod trust;

pub(crate) use conflict::trust_command;
pub use conflict::{KeyConflict, retrust_command};
pub use keeper::{PeerKeeper, Recalled};
pub use known_keys::KnownKeys;
pub(crate) use peer::now;
pub use peer::{Peer, PeerInfo};
pub use protocol::PeerProtocol;
pub use record::{OperatorDecision, PeerChange, PeerChangeError, PeerRecord, Verdict};
pub use restore::Restored;
pub use source::{InvalidKeySource, KeySource};
pub use table::{PeerRegistry, RegisterError};
pub use trust::{Closed, FirstUse, KeyOffer, KeyRefused, Pinned, TrustCallback, TrustDecision, TrustPolicy};

use std::net::IpAddr;

use nara_proto::clock_offset::ClockOffset;
use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::time::UnixMillis;

/// A key that is believed to be the one of a nara, and why.
///
/// A nara id cannot be derived from a key (docs/protocol/v1.md, section 1.1), so the pair is taken on trust; this says
/// whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The name of the nara.
    pub name: NaraName,
    /// Its id, if known.
    pub id: Option<NaraId>,
    /// Its public key.
    pub key: PublicKey,
    /// How the key was learned.
    pub source: KeySource,
    /// When, in milliseconds.
    pub learned_at: UnixMillis,
}

/// Something that happened to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A peer is reached at another address than before.
    AddressChanged(PeerInfo),
    /// A request claimed to come from one nara, but the network says that its source address belongs to another. It
    /// was refused.
    AddressMismatch {
        /// The name that the request claimed.
        claimed: NaraName,
        /// The name of the nara to which the address belongs.
        owner: NaraName,
        /// The source address.
        address: IpAddr,
    },
    /// The breaker of a peer closed: it is called again.
    BreakerClosed(PeerInfo),
    /// The breaker of a peer opened: it is known to be down.
    BreakerOpened(PeerInfo),
    /// The clock of a peer is further from ours than it should be.
    ClockSkew {
        /// The peer.
        peer: PeerInfo,
        /// How far its clock is ahead of ours.
        offset: ClockOffset,
    },
    /// A decision of the operator about a peer takes effect: see [`PeerInfo::decision`].
    Decided(PeerInfo),
    /// Somebody who knows the name of a peer does less than that peer has proven that it can: the message was refused.
    Downgrade {
        /// The peer.
        peer: PeerInfo,
        /// What was missing.
        missing: &'static str,
    },
    /// Somebody offered another key for a name than the one that is pinned. Nothing was changed.
    KeyConflict(KeyConflict),
    /// A key was pinned.
    KeyPinned(PinnedKey),
    /// A key was offered for a nara of which none is known, and is not believed.
    KeyRefused(KeyRefused),
    /// A peer has proven that it can do more than was known.
    ProtocolLearned(PeerInfo),
    /// A peer is new.
    Registered(PeerInfo),
    /// A peer was removed.
    Unregistered(PeerInfo),
}
