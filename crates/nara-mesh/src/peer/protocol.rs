use nara_proto::v2::Capability;

/// The protocol extensions that a peer has proven to support. The set only grows: a later message with less is a
/// downgrade attack, and is refused.
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
    /// Converts the capabilities that a nara announces. They must be signed with its pinned key.
    fn from(capability: &Capability) -> Self {
        Self {
            v2: capability.v2,
            tls: capability.tls,
            raw_public_key: capability.raw_public_key,
        }
    }
}

impl PeerProtocol {
    /// Signatures of profile v2 only.
    pub(crate) const V2: Self = Self {
        v2: true,
        tls: false,
        raw_public_key: false,
    };

    /// Returns the union of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            v2: self.v2 || other.v2,
            tls: self.tls || other.tls,
            raw_public_key: self.raw_public_key || other.raw_public_key,
        }
    }

    /// Returns the intersection of both sets.
    #[must_use]
    pub(crate) const fn within(self, other: Self) -> Self {
        Self {
            v2: self.v2 && other.v2,
            tls: self.tls && other.tls,
            raw_public_key: self.raw_public_key && other.raw_public_key,
        }
    }

    /// Returns whether the set is empty.
    pub const fn is_empty(self) -> bool {
        !self.v2 && !self.tls && !self.raw_public_key
    }
}
