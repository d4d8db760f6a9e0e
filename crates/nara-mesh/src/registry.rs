//! Who is where, and with which key: the [`PeerRegistry`].

mod admission;
mod clock;
mod counts;
mod ghosts;
mod hearsay;
mod keeper;
mod known_keys;
mod known_names;
mod lease;
mod peer;
mod peer_clock;
mod protocol;
mod restore;
mod table;
mod trust;

pub(crate) use crate::peer::trust_command;
pub use crate::peer::{
    InvalidKeySource, KeyConflict, KeySource, OperatorDecision, PeerChange, PeerChangeError, PeerProtocol,
    PeerRecord, PinnedKey, Verdict, retrust_command,
};
pub use keeper::{PeerKeeper, Recalled};
pub use known_keys::KnownKeys;
pub use known_names::PinnedNames;
pub use lease::KeyLease;
pub use peer::{Peer, PeerInfo};
pub use restore::Restored;
pub use table::{PeerRegistry, RegisterError};
pub use trust::{Closed, FirstUse, KeyOffer, KeyRefused, Pinned, TrustCallback, TrustDecision, TrustPolicy};

use std::net::IpAddr;

use nara_proto::clock_offset::ClockOffset;
use nara_proto::identity::{NaraName, PublicKey};

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
    /// The key of a peer was replaced, or taken away: what was opened on it ends; see [`PeerRegistry::lease`].
    KeyChanged {
        /// The name of the peer.
        name: NaraName,
        /// Its key until now.
        old: PublicKey,
        /// Its key from now on, if there is one.
        new: Option<PublicKey>,
    },
    /// Somebody offered another key for a name than the one that is pinned. Nothing was changed.
    KeyConflict(KeyConflict),
    /// A key was pinned.
    KeyPinned(PinnedKey),
    /// A key was offered for a nara of which none is known, and is not believed.
    KeyRefused(KeyRefused),
    /// The name of a new peer looks like that of another: a reader may take one for the other.
    LookAlike {
        /// The new peer.
        peer: PeerInfo,
        /// The other name.
        known: NaraName,
    },
    /// A peer has proven that it can do more than was known.
    ProtocolLearned(PeerInfo),
    /// A peer is new.
    Registered(PeerInfo),
    /// A peer was seen for the first time: it has proven that it holds its key. Until then others may have made it up.
    Seen(PeerInfo),
    /// A peer was removed.
    Unregistered(PeerInfo),
}
