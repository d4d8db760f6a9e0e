use nara_proto::v2::Capability;

/// The capabilities that a peer has proven beyond the base protocol. They only grow: a peer that proves less
/// later is being downgraded by an attacker, and is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerProtocol {
    /// It signs with v2 (RFC 9421).
    pub v2: bool,
    /// It accepts TLS on its mesh port, with a certificate that holds its key.
    pub tls: bool,
    /// It accepts TLS with its raw public key (RFC 7250).
    pub raw_public_key: bool,
}

impl From<&Capability> for PeerProtocol {
    /// Converts a claimed capability. Only for capabilities signed with the pinned key.
    fn from(capability: &Capability) -> Self {
        Self {
            v2: capability.v2,
            tls: capability.tls,
            raw_public_key: capability.raw_public_key,
        }
    }
}

impl PeerProtocol {
    /// Only v2 signatures.
    pub(crate) const V2: Self = Self {
        v2: true,
        tls: false,
        raw_public_key: false,
    };

    /// Returns the capabilities that either of the two has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            v2: self.v2 || other.v2,
            tls: self.tls || other.tls,
            raw_public_key: self.raw_public_key || other.raw_public_key,
        }
    }

    /// Returns the capabilities that both have.
    #[must_use]
    pub(crate) const fn within(self, other: Self) -> Self {
        Self {
            v2: self.v2 && other.v2,
            tls: self.tls && other.tls,
            raw_public_key: self.raw_public_key && other.raw_public_key,
        }
    }

    /// Returns whether no capability is known.
    pub const fn is_empty(self) -> bool {
        !self.v2 && !self.tls && !self.raw_public_key
    }
}
