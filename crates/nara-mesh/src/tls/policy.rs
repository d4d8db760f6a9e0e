use std::fmt;
use std::str::FromStr;

/// When to use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsPolicy {
    /// Never: a client speaks plain HTTP, a server refuses TLS.
    Plain,
    /// Where possible: a client speaks TLS with every peer that has proven to accept it, and from then on never
    /// plain HTTP again. A server accepts both on one port.
    #[default]
    Prefer,
    /// Always: a client speaks nothing else, and a server refuses plain HTTP.
    Require,
}

impl TlsPolicy {
    /// The text form.
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

/// Whether a TLS connection replaces signature checks, between peers that speak v2.
///
/// Events keep their own signatures in any case, because they travel on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChannelTrust {
    /// On a connection with the pinned key of the peer, its request signatures are not verified again, and answers
    /// are not signed unless the request asks for it (`Accept-Signature`, RFC 9421, section 5).
    #[default]
    Trust,
    /// As [`ChannelTrust::Trust`], and requests too have no signature of their own, between peers that both chose this: the
    /// handshake, in which both ends prove their keys, is the only proof. Nobody can show to a third party what was
    /// asked; streams, and peers that have not announced it, are asked with signatures.
    Handshake,
    /// All signatures are made and verified as on a plain connection.
    VerifyAlways,
}
