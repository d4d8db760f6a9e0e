//! A port mapping at a gateway: requested, renewed, released.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig, natpmp, pcp};
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout};

use super::route::Route;
use super::upnp::Service;
use crate::embedded::direct::address::is_public;
use crate::random::random;

/// The requested lifetime: bounds how long a mapping outlives a killed node. A renewal costs one packet.
const LIFETIME: Duration = Duration::from_secs(20 * 60);
/// The minimum accepted lifetime: shorter mappings would need constant renewals (RFC 6887, section 15: at least 2
/// minutes).
const SHORTEST: Duration = Duration::from_secs(60);
/// The retransmissions: a gateway on the local network answers at once or never, so requests are repeated after 250 ms
/// and after 500 ms.
const PATIENCE: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(250),
    max_retries: 2,
    max_retry_timeout: None,
};
/// The timeout of one protocol.
const ATTEMPT: Duration = Duration::from_secs(6);
/// The timeout of a release: the shutdown of the node waits for it.
const RELEASE: Duration = Duration::from_secs(1);
/// The number of external ports tried with UPnP: our own, then random ones. With PCP and NAT-PMP the gateway chooses.
const UPNP_PORTS: usize = 3;
/// The first dynamic port (RFC 6335).
const DYNAMIC: u16 = 0xc000;

/// The protocols, in order of preference: the newer ones need one packet, and their answers contain the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// RFC 6887.
    Pcp,
    /// RFC 6886.
    NatPmp,
    /// Internet Gateway Device.
    Upnp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }
}

/// The reason for which one protocol made no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The gateway does not support the protocol.
    Silent,
    /// The gateway refused, or its answer is invalid.
    Refused,
    /// The external address is not public: the gateway is behind another NAT, or lies.
    NotPublic(IpAddr),
    /// The granted lifetime is shorter than [`SHORTEST`].
    TooShort,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("no answer"),
            Self::Refused => f.write_str("refused"),
            Self::NotPublic(ip) => write!(f, "the external address {ip} is not public"),
            Self::TooShort => f.write_str("the granted lifetime is less than a minute"),
        }
    }
}

/// The refusals of all protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusals(Vec<(Protocol, Refusal)>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut telling = self.0.iter().filter(|(_, refusal)| *refusal != Refusal::Silent);
        let Some((protocol, refusal)) = telling.next() else {
            return f.write_str("no answer to PCP, NAT-PMP and UPnP");
        };
        write!(f, "{}: {refusal}", protocol.name())?;
        telling.try_for_each(|(protocol, refusal)| write!(f, "; {}: {refusal}", protocol.name()))
    }
}

/// A mapping in force.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) external: SocketAddr,
    /// The expiry of the mapping at the gateway.
    pub(super) ends: Instant,
    route: Route,
    port: NonZeroU16,
    means: Means,
}

/// The protocol state for renewal and release.
#[derive(Clone, Debug)]
enum Means {
    /// The nonce proves that the mapping is ours.
    Pcp(pcp::Nonce),
    NatPmp,
    Upnp(Service),
}

/// The answer of a gateway, unchecked.
struct Granted {
    ip: IpAddr,
    port: u16,
    seconds: u32,
    means: Means,
}

impl Lease {
    /// Requests a mapping with each protocol in turn.
    pub(super) async fn ask(route: Route, port: NonZeroU16) -> Result<Self, Refusals> {
        let mut refusals = Vec::new();
        for protocol in Protocol::ALL {
            let request = Request {
                route,
                port,
                external: None,
            };
            match request.granted(protocol, None).await {
                Ok(lease) => return Ok(lease),
                Err(refusal) => refusals.push((protocol, refusal)),
            }
        }
        Err(Refusals(refusals))
    }

    /// Requests the same mapping again. If that fails, the mapping stays in force until it expires.
    pub(super) async fn renew(&mut self) -> Result<(), Refusal> {
        let request = Request {
            route: self.route,
            port: self.port,
            external: Some(self.external),
        };
        let means = Some(self.means.clone());
        *self = request.granted(self.protocol(), means).await?;
        Ok(())
    }

    /// Releases the mapping. If the gateway does not answer, the mapping expires later.
    pub(super) async fn release(self) {
        let gateway = IpAddr::from(self.route.gateway);
        let given_back = async {
            match self.means {
                Means::Pcp(nonce) => {
                    let range = pcp::DropMappingRange::Single {
                        internal_port: self.port,
                        protocol: InternetProtocol::Udp,
                    };
                    let own = self.route.own.into();
                    let dropped = pcp::try_drop_mapping(gateway.into(), own, nonce, range, Some(PATIENCE));
                    dropped.await.map_err(|error| error.to_string())
                }
                Means::NatPmp => {
                    let dropped = natpmp::try_drop_mapping(
                        gateway.into(),
                        InternetProtocol::Udp,
                        Some(self.port),
                        Some(PATIENCE),
                    );
                    dropped.await.map_err(|error| error.to_string())
                }
                Means::Upnp(service) => {
                    let removed = service.remove(self.external.port()).await;
                    removed.map_err(|error| error.to_string())
                }
            }
        };
        match timeout(RELEASE, AssertUnwindSafe(given_back).catch_unwind()).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%gateway, error, "cannot release a port mapping"),
            Ok(Err(_)) => tracing::error!("a library panicked on an answer of the gateway"),
            Err(_) => tracing::debug!(%gateway, "timed out releasing a port mapping"),
        }
    }

    pub(super) const fn protocol(&self) -> Protocol {
        match self.means {
            Means::Pcp(_) => Protocol::Pcp,
            Means::NatPmp => Protocol::NatPmp,
            Means::Upnp(_) => Protocol::Upnp,
        }
    }
}

/// A request for a mapping.
#[derive(Clone, Copy)]
struct Request {
    route: Route,
    port: NonZeroU16,
    /// The external address to renew, if any.
    external: Option<SocketAddr>,
}

impl Request {
    /// Sends the request, in bounded time, and checks the answer.
    async fn granted(self, protocol: Protocol, known: Option<Means>) -> Result<Lease, Refusal> {
        // Taken before the request, so that our expiry is not later than the gateway's.
        let begin = Instant::now();
        let asked = async {
            match (protocol, known) {
                (Protocol::Pcp, Some(Means::Pcp(nonce))) => self.by_pcp(Some(nonce)).await,
                (Protocol::Pcp, _) => self.by_pcp(None).await,
                (Protocol::NatPmp, _) => self.by_nat_pmp().await,
                (Protocol::Upnp, Some(Means::Upnp(service))) => self.by_known_upnp(service).await,
                (Protocol::Upnp, _) => self.by_upnp().await,
            }
        };
        let answered = timeout(ATTEMPT, AssertUnwindSafe(asked).catch_unwind()).await;
        let granted = match answered {
            Ok(Ok(granted)) => granted?,
            Ok(Err(_)) => {
                tracing::error!("a library panicked on an answer of the gateway");
                return Err(Refusal::Refused);
            }
            Err(_) => return Err(Refusal::Silent),
        };
        let lifetime = Duration::from_secs(granted.seconds.into());
        let external = SocketAddr::new(granted.ip.to_canonical(), granted.port);
        let lease = Lease {
            external,
            ends: begin + lifetime.min(LIFETIME),
            route: self.route,
            port: self.port,
            means: granted.means,
        };
        let refusal = if lifetime < SHORTEST {
            Refusal::TooShort
        } else if !is_public(external) {
            Refusal::NotPublic(external.ip())
        } else {
            return Ok(lease);
        };
        lease.release().await;
        Err(refusal)
    }

    fn options(self) -> PortMappingOptions {
        let external = self
            .external
            .and_then(|external| NonZeroU16::new(external.port()));
        PortMappingOptions {
            external_port: external,
            lifetime_seconds: Some(seconds(LIFETIME)),
            timeout_config: Some(PATIENCE),
        }
    }

    /// Requests a mapping by PCP. The library reads from a connected socket, so only the gateway can answer; it checks
    /// the
    /// nonce, the protocol and our port.
    async fn by_pcp(self, nonce: Option<pcp::Nonce>) -> Result<Granted, Refusal> {
        use pcp::Failure;

        let gateway = IpAddr::from(self.route.gateway);
        let base = pcp::BaseMapRequest::new(
            gateway.into(),
            self.route.own.into(),
            InternetProtocol::Udp,
            self.port,
        );
        let suggested = self.external.map(|external| external.ip());
        let mapped = pcp::port_mapping(base, nonce, suggested, self.options()).await;
        let mapped = mapped.map_err(|error| {
            tracing::debug!(%gateway, %error, "no mapping by PCP");
            match error {
                Failure::Socket(_) | Failure::Timeout | Failure::UnsupportedVersion(_) => Refusal::Silent,
                _ => Refusal::Refused,
            }
        })?;
        let PortMappingType::Pcp {
            nonce, external_ip, ..
        } = mapped.mapping_type()
        else {
            return Err(Refusal::Refused);
        };
        Ok(Granted {
            ip: external_ip,
            port: mapped.external_port().get(),
            seconds: mapped.lifetime(),
            means: Means::Pcp(nonce),
        })
    }

    /// Requests a mapping by NAT-PMP, which has no nonce: an answer can be forged with the gateway's source address.
    async fn by_nat_pmp(self) -> Result<Granted, Refusal> {
        use natpmp::Failure;

        let gateway = IpAddr::from(self.route.gateway);
        let refusal = |error| {
            tracing::debug!(%gateway, %error, "no mapping by NAT-PMP");
            match error {
                Failure::Socket(_) | Failure::Timeout | Failure::UnsupportedVersion(_) => Refusal::Silent,
                _ => Refusal::Refused,
            }
        };
        let ip = natpmp::external_address(gateway.into(), Some(PATIENCE)).await;
        let ip = ip.map_err(refusal)?;
        let mapped = natpmp::port_mapping(gateway.into(), InternetProtocol::Udp, self.port, self.options());
        let mapped = mapped.await.map_err(refusal)?;
        Ok(Granted {
            ip: ip.into(),
            port: mapped.external_port().get(),
            seconds: mapped.lifetime(),
            means: Means::NatPmp,
        })
    }

    async fn by_upnp(self) -> Result<Granted, Refusal> {
        let gateway = self.route.gateway;
        let service = Service::find(self.route).await.map_err(|error| {
            tracing::debug!(%gateway, %error, "no UPnP service for port mappings was found");
            Refusal::Silent
        })?;
        self.by_known_upnp(service).await
    }

    /// Requests a mapping by UPnP, which grants the requested lifetime or fails: routers with only permanent mappings
    /// are
    /// not used.
    async fn by_known_upnp(self, service: Service) -> Result<Granted, Refusal> {
        let gateway = self.route.gateway;
        let refused = |error: std::io::Error| {
            tracing::debug!(%gateway, %error, "no mapping by UPnP");
            Refusal::Refused
        };
        let ip = service.external_ip().await.map_err(refused)?;
        let own = SocketAddr::new(self.route.own.into(), self.port.get());
        let known = self.external.map(|external| external.port());
        let ports = match known {
            Some(port) => vec![port],
            None => std::iter::once(self.port.get())
                .chain(std::iter::repeat_with(|| DYNAMIC | random() as u16))
                .take(UPNP_PORTS)
                .collect(),
        };
        let mut refusal = Refusal::Refused;
        for port in ports {
            match service.add(port, own, seconds(LIFETIME)).await {
                Ok(()) => {
                    return Ok(Granted {
                        ip,
                        port,
                        seconds: seconds(LIFETIME),
                        means: Means::Upnp(service),
                    });
                }
                Err(error) => refusal = refused(error),
            }
        }
        Err(refusal)
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
