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

/// The effect of a statement of succession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuccessionEffect {
    /// None yet: the trust policy leaves it to the operator, or the operator decided about this key after the statement
    /// was made.
    Asked,
    /// It contradicts another statement: no key of the nara is valid until the operator decides.
    Conflict,
    /// The new key is valid, and the old one is refused.
    Followed,
    /// No key of the nara is valid any more.
    Retired,
}

/// Returns the naras about whose keys the event says something new, in the form of
/// [`TransferStore::forgive`](crate::ledger::TransferStore::forgive).
pub(crate) fn learned(event: &PeerEvent) -> Vec<String> {
    match event {
        PeerEvent::KeyPinned(key) => {
            let mut learned = vec![key.name.as_str().to_owned()];
            // Voters are identified by their ids.
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
    /// A request was refused: according to the network, its source address belongs to another nara than the claimed
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
    /// A decision of the operator about a peer took effect: see [`PeerInfo::decision`].
    Decided(PeerInfo),
    /// A message in the name of a peer was refused, because it does less than the peer has proven to support.
    Downgrade {
        /// The peer.
        peer: PeerInfo,
        /// The missing proof.
        missing: &'static str,
    },
    /// The key of a peer was replaced or removed: connections and streams of the old key end.
    KeyChanged {
        /// The name of the peer.
        name: NaraName,
        /// Its former key.
        old: PublicKey,
        /// Its new key, if any.
        new: Option<PublicKey>,
    },
    /// A key that differs from the pinned one was offered for a name. Nothing was changed.
    KeyConflict(KeyConflict),
    /// The id of a peer became known, after its key.
    IdLearned(PeerInfo),
    /// A key was pinned.
    KeyPinned(PinnedKey),
    /// A first key was offered for a nara, and the trust policy refused it.
    KeyRefused(KeyRefused),
    /// The name of a new peer looks like another name: a reader may mistake one for the other.
    LookAlike {
        /// The new peer.
        peer: PeerInfo,
        /// The other name.
        known: NaraName,
    },
    /// A peer that refused this nara's signatures accepts them again.
    OwnKeyAccepted(PeerInfo),
    /// A peer refuses this nara's signatures, because it has pinned another key, or none is valid there.
    OwnKeyRefused {
        /// The peer.
        peer: PeerInfo,
        /// The name and the key of this nara.
        own: (NaraName, PublicKey),
        /// The valid key at the peer; `None`: it knows two successors of our key, or that we retired.
        known: Option<KeyId>,
        /// Whether the peer has proven its statement.
        proven: bool,
    },
    /// A statement of succession, signed with this nara's key, replaces the key or retires it.
    OwnKeyReplaced(Box<Succession>),
    /// A peer has proven a further protocol.
    ProtocolLearned(PeerInfo),
    /// A peer was added.
    Registered(PeerInfo),
    /// A peer that another nara introduced has proven that it holds its key, or that it does so at its address. Until
    /// then it, or its address, may be invented.
    Seen(PeerInfo),
    /// A statement of succession about the key of a peer.
    Succession {
        /// The statement.
        statement: Box<Succession>,
        /// The effect.
        effect: SuccessionEffect,
    },
    /// A peer was removed.
    Unregistered(PeerInfo),
}
