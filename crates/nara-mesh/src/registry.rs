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
    /// None yet: the trust policy leaves it to the operator, or the operator decided about this key after the
    /// statement was made.
    Asked,
    /// It contradicts another statement: no key of the nara is valid until the operator decides.
    Conflict,
    /// The new key is valid, and the old one is refused.
    Followed,
    /// No key of the nara is valid any more.
    Retired,
}

/// Returns the naras whose keys or ids an event concerns, as
/// [`TransferStore::forgive`](crate::ledger::TransferStore::forgive) takes them.
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

/// A change of a peer, or of what peers say about this nara.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// The address of a peer changed.
    AddressChanged(PeerInfo),
    /// A request was refused: according to the network, its source address belongs to a nara other than the
    /// claimed sender.
    AddressMismatch {
        /// The name that the request claimed.
        claimed: NaraName,
        /// The nara that owns the address.
        owner: NaraName,
        /// The source address.
        address: IpAddr,
    },
    /// The breaker of a peer closed: calls to it resume.
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
    /// A message in the name of a peer was refused, because it proves less than the peer has proven before.
    Downgrade {
        /// The peer.
        peer: PeerInfo,
        /// The missing proof.
        missing: &'static str,
    },
    /// The key of a peer was replaced or removed: everything opened under it ends.
    KeyChanged {
        /// The name of the peer.
        name: NaraName,
        /// The key until now.
        old: PublicKey,
        /// The new key, if there is one.
        new: Option<PublicKey>,
    },
    /// A key other than the pinned one was offered for a name. Nothing was changed.
    KeyConflict(KeyConflict),
    /// The id of a peer became known after its key.
    IdLearned(PeerInfo),
    /// A key was pinned.
    KeyPinned(PinnedKey),
    /// A first key was offered for a nara, and the trust policy refused it.
    KeyRefused(KeyRefused),
    /// The name of a new peer looks like another name: people may confuse them.
    LookAlike {
        /// The new peer.
        peer: PeerInfo,
        /// The other name.
        known: NaraName,
    },
    /// A peer that refused the key of this nara accepts it again.
    OwnKeyAccepted(PeerInfo),
    /// A peer refuses the key of this nara, because it knows another key, or no valid one, for its name.
    OwnKeyRefused {
        /// The peer.
        peer: PeerInfo,
        /// The name and the key of this nara.
        own: (NaraName, PublicKey),
        /// The key that the peer knows; `None` if it knows two successors of ours, or that we retired.
        known: Option<KeyId>,
        /// Whether the peer proved its refusal.
        proven: bool,
    },
    /// A statement of succession, signed with the key of this nara, replaces or retires this key.
    OwnKeyReplaced(Box<Succession>),
    /// A peer has proven another protocol.
    ProtocolLearned(PeerInfo),
    /// A peer was added.
    Registered(PeerInfo),
    /// A peer that another nara introduced has proven that it holds its key, or that it does so at its address.
    /// Until then the peer or its address may have been made up.
    Seen(PeerInfo),
    /// A statement of succession about the key of a peer was processed.
    Succession {
        /// The statement.
        statement: Box<Succession>,
        /// Its effect.
        effect: SuccessionEffect,
    },
    /// A peer was removed.
    Unregistered(PeerInfo),
}
