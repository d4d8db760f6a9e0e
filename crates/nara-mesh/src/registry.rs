//! Who is where, and with which key: the [`PeerRegistry`].

mod admission;
mod known_keys;
mod peer;
mod protocol;
mod table;

pub use known_keys::KnownKeys;
pub(crate) use peer::now;
pub use peer::{Peer, PeerInfo};
pub use protocol::PeerProtocol;
pub use table::{KeyConflict, PeerRegistry, RegisterError};

use std::fmt;
use std::net::SocketAddr;

use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::time::UnixMillis;

/// A key that is believed to be the one of a nara, and why.
///
/// A nara id cannot be derived from a key (wire facts, section 1.1), so the pair is taken on trust; this says
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

/// How a key was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// Somebody configured it: a peers file, the command line, a call of the library.
    Configured,
    /// A verified `hey-there` event of the nara itself said so.
    HeyThere,
    /// The nara at this address said so in its unsigned `/ping` answer: trust on first use.
    Ping(SocketAddr),
    /// Another nara said so in its unsigned `/peer/query` answer.
    PeerQuery(NaraName),
    /// It is the key of this nara itself.
    Own,
}

impl KeySource {
    /// Whether a peer made us learn the key, not whoever runs this nara.
    pub(crate) const fn is_hearsay(&self) -> bool {
        match self {
            Self::HeyThere | Self::Ping(_) | Self::PeerQuery(_) => true,
            Self::Configured | Self::Own => false,
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("configured"),
            Self::HeyThere => f.write_str("hey-there"),
            Self::Ping(address) => write!(f, "ping {address}"),
            Self::PeerQuery(name) => write!(f, "peer-query {name}"),
            Self::Own => f.write_str("own"),
        }
    }
}

/// Something that happened to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A peer is reached at another address than before.
    AddressChanged(PeerInfo),
    /// The breaker of a peer closed: it is called again.
    BreakerClosed(PeerInfo),
    /// The breaker of a peer opened: it is known to be down.
    BreakerOpened(PeerInfo),
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
    /// A peer has proven that it can do more than was known.
    ProtocolLearned(PeerInfo),
    /// A peer is new.
    Registered(PeerInfo),
    /// A peer was removed.
    Unregistered(PeerInfo),
}
