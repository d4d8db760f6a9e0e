//! Resolves how a caller names a peer to an address.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::Uri;
use nara_proto::identity::{InvalidName, KeyId, NaraId, NaraName};
use nara_proto::v2::Recipient;

use super::verified::DiscoveredKey;
use crate::registry::{Peer, PeerInfo, PeerRegistry, with_other_port};

/// A reference to a peer: by id, by name or by address.
///
/// The client accepts everything that converts to it: `&id`, `&name`, a `SocketAddr`, or a text such as
/// `"alice"`. A text is parsed as an address, an id or key id, or else as a name.
///
/// ```
/// use nara_mesh::client::PeerRef;
///
/// assert!(matches!("100.64.0.7:9632".parse(), Ok(PeerRef::Address(_))));
/// assert!(matches!("100.64.0.7".parse(), Ok(PeerRef::Ip(_))));
/// assert!(matches!("alice".parse(), Ok(PeerRef::Name(_))));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PeerRef {
    /// The peer at this mesh address and port, registered or not.
    Address(SocketAddr),
    /// The peer with this id, or else the peer whose key has this key id.
    Id(NaraId),
    /// The peer at this mesh address: the registered one, or else the nara that answers at the mesh port.
    Ip(IpAddr),
    /// A peer that was already looked up in the registry.
    Known(Arc<Peer>),
    /// The peer with this name.
    Name(NaraName),
}

macro_rules! from {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for PeerRef {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }

        impl From<&$type> for PeerRef {
            fn from(value: &$type) -> Self {
                Self::$variant(value.clone())
            }
        }
    )*};
}

from!(SocketAddr => Address, NaraId => Id, IpAddr => Ip, Arc<Peer> => Known, NaraName => Name);

impl From<&Self> for PeerRef {
    fn from(value: &Self) -> Self {
        value.clone()
    }
}

/// A text that does not identify a peer: neither an address nor an id nor a valid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no peer")]
pub struct InvalidPeerRef {
    /// The text.
    pub text: String,
    /// Why it is not a valid name.
    #[source]
    pub reason: InvalidName,
}

impl From<Infallible> for InvalidPeerRef {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl FromStr for PeerRef {
    type Err = InvalidPeerRef;

    fn from_str(text: &str) -> Result<Self, InvalidPeerRef> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        text.parse().map(Self::Name).map_err(|reason| InvalidPeerRef {
            text: text.to_owned(),
            reason,
        })
    }
}

impl TryFrom<&str> for PeerRef {
    type Error = InvalidPeerRef;

    fn try_from(text: &str) -> Result<Self, InvalidPeerRef> {
        text.parse()
    }
}

impl TryFrom<String> for PeerRef {
    type Error = InvalidPeerRef;

    fn try_from(text: String) -> Result<Self, InvalidPeerRef> {
        text.parse()
    }
}

impl TryFrom<&String> for PeerRef {
    type Error = InvalidPeerRef;

    fn try_from(text: &String) -> Result<Self, InvalidPeerRef> {
        text.parse()
    }
}

impl fmt::Display for PeerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => fmt::Display::fmt(address, f),
            Self::Id(id) => fmt::Display::fmt(id, f),
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Known(peer) => fmt::Display::fmt(&peer.info(), f),
            Self::Name(name) => fmt::Display::fmt(name, f),
        }
    }
}

/// Address overrides of the test mode (mesh client specification, section 3): redirects the traffic to an id to
/// another address.
///
/// ```
/// use nara_mesh::client::AddressOverrides;
/// use nara_mesh::proto::identity::NaraId;
///
/// # let id: NaraId = "A7LSDFk4JWxFB1x6TMEYSDkQ1WC9cJzbtvEZUuY5bPu9".parse()?;
/// # let other = id.clone();
/// let overrides = AddressOverrides::new()
///     .with_url(id, "http://127.0.0.1:1234")?
///     .with(other, ([127, 0, 0, 1], 1235).into());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct AddressOverrides(HashMap<NaraId, SocketAddr>);

impl AddressOverrides {
    /// Creates an empty set of overrides.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address.
    #[must_use]
    pub fn with(mut self, id: NaraId, address: SocketAddr) -> Self {
        self.0.insert(id, address);
        self
    }

    /// Adds an address in the form of a base URL: `http://127.0.0.1:1234`, without path. Host names are not
    /// resolved.
    ///
    /// # Errors
    /// A description of the expected form, if `base_url` has another one.
    pub fn with_url(self, id: NaraId, base_url: &str) -> Result<Self, &'static str> {
        let expected = "expected http://, an IP address, a colon and a port";
        let address = parse_base_url(base_url).ok_or(expected)?;
        Ok(self.with(id, address))
    }
}

fn parse_base_url(base_url: &str) -> Option<SocketAddr> {
    let uri: Uri = base_url.parse().ok()?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    uri.authority().filter(|_| plain)?.as_str().parse().ok()
}

impl FromIterator<(NaraId, SocketAddr)> for AddressOverrides {
    fn from_iter<I: IntoIterator<Item = (NaraId, SocketAddr)>>(addresses: I) -> Self {
        Self(addresses.into_iter().collect())
    }
}

/// The destination of a call, and the nara expected there.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) peer: Arc<Peer>,
    pub(super) address: SocketAddr,
    /// The other address to try, if the port is a guess.
    pub(super) alternative: Option<SocketAddr>,
    pub(super) expected: Arc<PeerInfo>,
    /// How the nara at the address introduced itself, if nothing else is known.
    pub(super) introduction: Option<Box<DiscoveredKey>>,
}

impl Route {
    /// Returns the route to an address where no particular nara is expected; its breaker state is not kept.
    pub(super) fn to_stranger(registry: &PeerRegistry, address: SocketAddr) -> Self {
        let peer = registry.stranger(address);
        Self {
            expected: peer.shared_info(),
            peer,
            address,
            alternative: None,
            introduction: None,
        }
    }

    /// Records the address at which the peer answered.
    pub(super) fn answered_at(&mut self, address: SocketAddr) {
        self.address = address;
        self.alternative = None;
    }

    /// Returns the recipient of a request; `None` if unknown.
    pub(super) fn recipient(&self) -> Option<Recipient> {
        let by_id = self.expected.id.clone().map(Recipient::Id);
        let by_name = || self.expected.name.clone().map(Recipient::Name);
        let by_introduction = || {
            let introduction = self.introduction.as_ref()?;
            Some(Recipient::Name(introduction.name.clone()))
        };
        by_id.or_else(by_name).or_else(by_introduction)
    }

    /// Returns whether the peer has proven that it speaks v2.
    pub(super) fn speaks_v2(&self, registry: &PeerRegistry) -> bool {
        self.peer.protocol().v2
            || self.introduction.as_ref().is_some_and(|introduction| {
                let known = registry.by_name(introduction.name.as_str());
                introduction
                    .capability
                    .as_ref()
                    .is_some_and(|capability| capability.v2)
                    || known.is_some_and(|peer| peer.protocol().v2)
            })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.expected, f)
    }
}

/// Resolves the routes of peers: overrides first, then the registry.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) registry: PeerRegistry,
    pub(super) overrides: AddressOverrides,
    pub(super) mesh_port: u16,
    /// Peers at unregistered addresses; they have circuit breakers as well.
    pub(super) strangers: Strangers,
}

impl Resolver {
    /// Returns the route to a peer; `None` if the peer or its address is unknown.
    pub(super) fn route(&self, peer: &PeerRef) -> Option<Route> {
        let peer = match peer {
            PeerRef::Known(peer) => peer.clone(),
            PeerRef::Name(name) => self.registry.by_name(name.as_str())?,
            PeerRef::Id(id) => match (self.registry.peer(&PeerRef::Id(id.clone())), self.overridden(id)) {
                (Some(peer), _) => peer,
                (None, Some(_)) => self.introduce(id)?,
                (None, None) => return None,
            },
            PeerRef::Ip(ip) => match self.registry.only_one(*ip, None) {
                Some(peer) => peer,
                None => self.strangers.at_ip(*ip, self.mesh_port, &self.registry),
            },
            PeerRef::Address(address) => self.at(*address),
        };
        let expected = peer.shared_info();
        let overridden = expected.id.as_ref().and_then(|id| self.overridden(id));
        let address = overridden.or(expected.address)?;
        let is_guess = overridden.is_none() && expected.either_port;
        Some(Route {
            address,
            alternative: is_guess.then(|| with_other_port(address)),
            peer,
            expected,
            introduction: None,
        })
    }

    /// Returns whether an address is known for this id.
    pub(super) fn has(&self, id: &NaraId) -> bool {
        let registered = || Some(self.registry.by_id(id)?.info().address.is_some());
        self.overridden(id).is_some() || registered() == Some(true)
    }

    fn overridden(&self, id: &NaraId) -> Option<SocketAddr> {
        self.overrides.0.get(id).copied()
    }

    /// Registers a peer that is only known by an override: it needs an entry for its key and its breaker.
    fn introduce(&self, id: &NaraId) -> Option<Arc<Peer>> {
        let info = PeerInfo {
            id: Some(id.clone()),
            ..PeerInfo::default()
        };
        self.registry.register(info).ok()
    }

    fn at(&self, address: SocketAddr) -> Arc<Peer> {
        self.registry
            .only_one(address.ip(), Some(address))
            .unwrap_or_else(|| self.strangers.at(address, &self.registry))
    }
}

impl PeerRegistry {
    /// Returns the registered peer for a reference, if there is one.
    pub fn peer(&self, peer: &PeerRef) -> Option<Arc<Peer>> {
        match peer {
            PeerRef::Known(peer) => Some(peer.clone()),
            PeerRef::Name(name) => self.by_name(name.as_str()),
            PeerRef::Id(id) => self.by_id(id).or_else(|| {
                let key: KeyId = id.as_str().parse().ok()?;
                self.holder(&key.public_key().ok()?)
            }),
            PeerRef::Ip(ip) => self.only_one(*ip, None),
            PeerRef::Address(address) => self.only_one(address.ip(), Some(*address)),
        }
    }

    fn only_one(&self, ip: IpAddr, address: Option<SocketAddr>) -> Option<Arc<Peer>> {
        let mut peers = self.by_ip(ip);
        peers.retain(|peer| address.is_none() || peer.info().address == address);
        match &*peers {
            [only] => Some(only.clone()),
            _ => None,
        }
    }
}

/// Peers at unregistered addresses.
#[derive(Debug, Default)]
pub(super) struct Strangers(std::sync::Mutex<HashMap<SocketAddr, Arc<Peer>>>);

impl Strangers {
    /// When full, the table is cleared: only breakers of unregistered peers are lost.
    const MAX: usize = 1024;

    fn at(&self, address: SocketAddr, registry: &PeerRegistry) -> Arc<Peer> {
        self.get(address, || registry.stranger(address))
    }

    /// Returns the stranger at an IP address with unknown port.
    fn at_ip(&self, ip: IpAddr, port: u16, registry: &PeerRegistry) -> Arc<Peer> {
        self.get(SocketAddr::new(ip, 0), || {
            registry.stranger_on_either_port(SocketAddr::new(ip, port))
        })
    }

    fn get(&self, key: SocketAddr, make: impl FnOnce() -> Arc<Peer>) -> Arc<Peer> {
        let mut table = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if table.len() >= Self::MAX && !table.contains_key(&key) {
            table.clear();
        }
        table.entry(key).or_insert_with(make).clone()
    }
}
