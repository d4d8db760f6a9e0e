use nara_proto::identity::NaraName;
use nara_proto::v2::Capability;

use super::{Peer, PeerEvent, PeerRegistry};

/// What a peer has proven that it can do, beyond what every nara can. It only grows: a peer that later does less
/// is being downgraded by somebody, and is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerProtocol {
    /// It signs with profile v2 (RFC 9421).
    pub v2: bool,
    /// It accepts TLS on its mesh port, with a certificate that holds its key.
    pub tls: bool,
    /// It accepts TLS with its raw public key (RFC 7250).
    pub raw_public_key: bool,
}

impl From<&Capability> for PeerProtocol {
    /// What a nara says that it can do. Only for capabilities that are signed with its pinned key.
    fn from(capability: &Capability) -> Self {
        Self {
            v2: capability.v2,
            tls: capability.tls,
            raw_public_key: capability.raw_public_key,
        }
    }
}

impl PeerProtocol {
    /// Signatures of profile v2, and nothing else.
    pub(crate) const V2: Self = Self {
        v2: true,
        tls: false,
        raw_public_key: false,
    };

    /// What either of the two can do.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            v2: self.v2 || other.v2,
            tls: self.tls || other.tls,
            raw_public_key: self.raw_public_key || other.raw_public_key,
        }
    }

    /// What both of the two can do.
    #[must_use]
    pub(super) const fn within(self, other: Self) -> Self {
        Self {
            v2: self.v2 && other.v2,
            tls: self.tls && other.tls,
            raw_public_key: self.raw_public_key && other.raw_public_key,
        }
    }

    /// Whether nothing is known.
    pub const fn is_empty(self) -> bool {
        !self.v2 && !self.tls && !self.raw_public_key
    }
}

impl PeerRegistry {
    /// Notes what the peer with this name has proven, with its pinned key, that it can do.
    pub(crate) fn learn_protocol_of(&self, name: &NaraName, protocol: PeerProtocol) {
        if let Some(peer) = self.by_name(name.as_str()) {
            self.learn_protocol(&peer, protocol);
        }
    }

    /// Tells that a message in the name of a peer does less than the peer has proven that it can.
    pub(crate) fn report_downgrade(&self, peer: &Peer, direction: &'static str, missing: &'static str) {
        metrics::counter!(crate::metrics::DOWNGRADES, "direction" => direction).increment(1);
        tracing::warn!(peer = %peer.info(), direction, missing, "downgrade: refused");
        self.emit(PeerEvent::Downgrade {
            peer: peer.info(),
            missing,
        });
    }
}
