use std::fmt;
use std::str::FromStr;

/// The TLS policy of a client or a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsPolicy {
    /// Never: a client uses plain HTTP, a server refuses TLS.
    Plain,
    /// If possible: a client uses TLS with every peer that has proven to accept it, and from then on never plain HTTP
    /// again. A server accepts both on one port.
    #[default]
    Prefer,
    /// Always: a client uses only TLS, and a server refuses plain HTTP.
    Require,
}

impl TlsPolicy {
    /// Returns the text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Prefer => "tls",
            Self::Require => "tls-only",
        }
    }
}

impl FromStr for TlsPolicy {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Plain, Self::Prefer, Self::Require]
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or("expected plain, tls or tls-only")
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a TLS connection replaces signature checks, between peers that support v2.
///
/// Events always keep their own signatures, because they are forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelTrust {
    /// On a connection with the pinned key of the peer, its request signatures are not verified, and answers are
    /// unsigned unless the request asks for a signature (`Accept-Signature`, RFC 9421, section 5).
    #[default]
    Trust,
    /// Like [`ChannelTrust::Trust`], and requests between peers that both chose this are unsigned as well: the
    /// handshake, in which both ends prove their keys, is the only proof. It cannot be shown to a third party. Streams,
    /// and requests to peers that have not announced it, are signed.
    Handshake,
    /// All signatures are made and verified, as on a plain connection.
    VerifyAlways,
}
