use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use nara_proto::identity::NaraName;

/// The source of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// Configured: a peers file, the command line, or a call of the library.
    Configured,
    /// A verified `hey-there` event of the nara itself.
    HeyThere {
        /// The nara that passed the event on, if it is known.
        told_by: Option<NaraName>,
    },
    /// Decided by the operator.
    Operator,
    /// The unsigned `/ping` answer from this address: trust on first use.
    Ping(SocketAddr),
    /// The unsigned `/peer/query` answer of another nara.
    PeerQuery(NaraName),
    /// Proven by the other end of a TLS connection with this address.
    Tls(SocketAddr),
    /// The key of this nara itself.
    Own,
    /// A statement of succession that the key before it signed. Never stored: it follows from the statements. It makes
    /// nobody better known, so it has the source of the first key of the line.
    Succession(Box<Self>),
}

impl KeySource {
    /// Whether the key was learned from this address.
    pub(crate) fn is_from(&self, address: SocketAddr) -> bool {
        matches!(self, Self::Ping(from) | Self::Tls(from) if *from == address)
    }

    /// Who introduced the nara, if it was not the nara itself: `Some(None)` if that is not known.
    pub(crate) fn introducer(&self) -> Option<Option<&NaraName>> {
        match self {
            Self::HeyThere { told_by } => Some(told_by.as_ref()),
            Self::PeerQuery(teller) => Some(Some(teller)),
            Self::Succession(first) => first.introducer(),
            Self::Configured | Self::Operator | Self::Ping(_) | Self::Tls(_) | Self::Own => None,
        }
    }

    /// Whether a peer provided the key, and not the operator.
    pub(crate) fn is_hearsay(&self) -> bool {
        match self {
            Self::HeyThere { .. } | Self::Ping(_) | Self::PeerQuery(_) | Self::Tls(_) => true,
            Self::Configured | Self::Operator | Self::Own => false,
            Self::Succession(first) => first.is_hearsay(),
        }
    }

    /// The source of the key that succeeds one from this source.
    pub(crate) fn succeeded(self) -> Self {
        match self {
            Self::Succession(_) => self,
            first => Self::Succession(Box::new(first)),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured => f.write_str("configured"),
            Self::HeyThere { told_by: None } => f.write_str("hey-there"),
            Self::HeyThere { told_by: Some(name) } => write!(f, "hey-there via {name}"),
            Self::Operator => f.write_str("operator"),
            Self::Ping(address) => write!(f, "ping {address}"),
            Self::PeerQuery(name) => write!(f, "peer-query {name}"),
            Self::Tls(address) => write!(f, "tls {address}"),
            Self::Own => f.write_str("own"),
            Self::Succession(first) => write!(f, "succession after {first}"),
        }
    }
}

impl FromStr for KeySource {
    type Err = &'static str;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const UNKNOWN: &str = "unknown key source";
        let name = |text| NaraName::new(text).map_err(|_| UNKNOWN);
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        match word {
            "configured" => Ok(Self::Configured),
            "hey-there" => match rest.strip_prefix("via ") {
                Some(teller) => Ok(Self::HeyThere {
                    told_by: Some(name(teller)?),
                }),
                None => Ok(Self::HeyThere { told_by: None }),
            },
            "operator" => Ok(Self::Operator),
            "own" => Ok(Self::Own),
            "succession" => {
                let first = rest.strip_prefix("after ").ok_or(UNKNOWN)?;
                match first.parse()? {
                    Self::Succession(_) => Err(UNKNOWN),
                    first => Ok(first.succeeded()),
                }
            }
            "peer-query" => name(rest).map(Self::PeerQuery),
            "ping" => rest.parse().map(Self::Ping).map_err(|_| UNKNOWN),
            "tls" => rest.parse().map(Self::Tls).map_err(|_| UNKNOWN),
            _ => Err(UNKNOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_is_read_back() {
        let bob: NaraName = "bob the 2nd".parse().unwrap();
        for source in [
            KeySource::Configured,
            KeySource::HeyThere { told_by: None },
            KeySource::HeyThere {
                told_by: Some(bob.clone()),
            },
            KeySource::Operator,
            KeySource::Ping(([100, 64, 0, 7], 9632).into()),
            KeySource::PeerQuery(bob),
            KeySource::Tls("[fd7a:115c:a1e0::1]:9632".parse().unwrap()),
            KeySource::Own,
            KeySource::Configured.succeeded(),
            KeySource::HeyThere {
                told_by: Some("after all".parse().unwrap()),
            }
            .succeeded(),
        ] {
            assert_eq!(source.to_string().parse(), Ok(source));
        }
        for other in [
            "",
            "ping",
            "ping x",
            "peer-query ",
            "gossip",
            "hey-there via ",
            "succession",
            "succession after ",
            "succession after succession after own",
        ] {
            assert!(other.parse::<KeySource>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_succession_makes_nobody_better_known() {
        let introduced = KeySource::HeyThere {
            told_by: Some("mallory".parse().unwrap()),
        };
        let ping = KeySource::Ping(([100, 64, 0, 7], 9632).into());
        for source in [introduced, ping, KeySource::Configured, KeySource::Operator] {
            let successor = source.clone().succeeded();
            assert_eq!(successor.clone().succeeded(), successor);
            assert_eq!(successor.introducer(), source.introducer());
            assert_eq!(successor.is_hearsay(), source.is_hearsay());
        }
    }
}
