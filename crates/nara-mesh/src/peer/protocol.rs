use nara_proto::v2::Capability;

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
    pub(crate) const fn within(self, other: Self) -> Self {
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
