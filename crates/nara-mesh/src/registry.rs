//! The [`PeerRegistry`]: addresses and keys of peers.

mod admission;
mod by_teller;
mod clock;
mod contact;
mod counts;
mod distance;
mod hearsay;
mod keeper;
mod known_keys;
mod known_names;
mod lease;
mod looks;
mod own_key;
mod peer;
mod peer_clock;
mod presence;
mod protocol;
mod restore;
mod succession;
mod table;
mod trust;

pub use crate::peer::{
    KeyConflict, KeySource, OperatorDecision, PeerChange, PeerChangeError, PeerProtocol, PeerRecord,
    PinnedKey, Verdict,
};
pub(crate) use keeper::own_successions;
pub use keeper::{PeerKeeper, Recalled};
pub(crate) use known_keys::{KnownKeys, waits_for_key};
pub(crate) use known_names::standing;
pub(crate) use lease::{KeyEnd, KeyLease};
pub(crate) use own_key::KnownKey;
pub(crate) use peer::with_other_port;
pub use peer::{Peer, PeerInfo};
pub use table::{PeerRegistry, RegisterError};
pub use trust::{KeyOffer, KeyRefused, TrustPolicy};

use std::net::IpAddr;

use nara_proto::clock_offset::ClockOffset;
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::succession::Succession;

use crate::ledger::ANY_VOTER;

/// What a statement of succession changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuccessionEffect {
    /// Nothing yet: the trust policy leaves it to the operator, or the operator decided about this key after it was made.
    Asked,
    /// It contradicts another statement: no key of the nara holds until the operator decides.
    Conflict,
    /// The new key holds, and the old one is refused.
    Followed,
    /// No key of the nara holds any more.
    Retired,
}

/// The naras about whose keys something was learned, as [`TransferStore::forgive`](crate::ledger::TransferStore::forgive)
/// takes them.
pub(crate) fn learned(event: &PeerEvent) -> Vec<String> {
    match event {
        PeerEvent::KeyPinned(key) => {
            let mut learned = vec![key.name.as_str().to_owned()];
            // Voters are known by their ids.
            learned.extend(key.id.is_some().then(|| ANY_VOTER.to_owned()));
            learned
        }
        PeerEvent::Decided(info) => info.name.iter().map(|name| name.as_str().to_owned()).collect(),
        PeerEvent::IdLearned(_) => vec![ANY_VOTER.to_owned()],
        _ => Vec::new(),
    }
}

/// A change of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// The address of a peer changed.
    AddressChanged(PeerInfo),
    /// A request was refused: the network says that its source address belongs to another nara than the claimed
    /// sender.
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
    /// The breaker of a peer opened: the peer is down.
    BreakerOpened(PeerInfo),
    /// The clock of a peer differs too much from ours.
    ClockSkew {
        /// The peer.
        peer: PeerInfo,
        /// How far its clock is ahead of ours.
        offset: ClockOffset,
    },
    /// A decision of the operator about a peer takes effect: see [`PeerInfo::decision`].
    Decided(PeerInfo),
    /// A message in the name of a peer does less than the peer has proven: it was refused.
    Downgrade {
        /// The peer.
        peer: PeerInfo,
        /// The missing proof.
        missing: &'static str,
    },
    /// The key of a peer was replaced, or taken away: what was opened on it ends.
    KeyChanged {
        /// The name of the peer.
        name: NaraName,
        /// Its key until now.
        old: PublicKey,
        /// Its key from now on, if there is one.
        new: Option<PublicKey>,
    },
    /// Another key than the pinned one was offered for a name. Nothing was changed.
    KeyConflict(KeyConflict),
    /// The id of a peer became known, after its key.
    IdLearned(PeerInfo),
    /// A key was pinned.
    KeyPinned(PinnedKey),
    /// A first key was offered for a nara, and the trust policy refused it.
    KeyRefused(KeyRefused),
    /// The name of a new peer looks like that of another: a reader may take one for the other.
    LookAlike {
        /// The new peer.
        peer: PeerInfo,
        /// The other name.
        known: NaraName,
    },
    /// A peer that refused what this nara signs accepts it again.
    OwnKeyAccepted(PeerInfo),
    /// A peer refuses what this nara signs, because another key, or none, holds there for its name.
    OwnKeyRefused {
        /// The peer.
        peer: PeerInfo,
        /// The name and the key of this nara.
        own: (NaraName, PublicKey),
        /// The key that holds at the peer; `None`: it knows two successors of ours, or that we retired.
        known: Option<KeyId>,
        /// Whether the peer has proven that it said so.
        proven: bool,
    },
    /// A statement of succession, signed with the key of this nara, says that another key or none takes its place.
    OwnKeyReplaced(Box<Succession>),
    /// A peer has proven a further protocol.
    ProtocolLearned(PeerInfo),
    /// A peer was added.
    Registered(PeerInfo),
    /// A peer that was introduced by another has proven that it holds its key, or that it does so at its address. Until then
    /// it, or its address, may have been made up.
    Seen(PeerInfo),
    /// A statement of succession about the key of a peer.
    Succession {
        /// The statement.
        statement: Box<Succession>,
        /// What it changed.
        effect: SuccessionEffect,
    },
    /// A peer was removed.
    Unregistered(PeerInfo),
}
