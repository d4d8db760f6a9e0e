//! The status of a node ([`NodeStatus`]), and the reasons for which it is [`NotReady`].

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The status of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// The state of the node.
    pub state: NodeState,
    /// The addresses on the tailnet, IPv4 before IPv6; they are kept while the control server is unreachable.
    pub addresses: Vec<IpAddr>,
    /// The host name that the control server granted, without the domain of the tailnet: the requested one, with a
    /// suffix if it was taken.
    pub granted_name: Option<String>,
    /// The control server, if known.
    pub control_url: Option<String>,
    /// The version of the daemon or library, such as `1.92.4`, if known.
    pub version: Option<String>,
}

impl NodeStatus {
    /// Returns whether peers can be reached.
    pub fn is_running(&self) -> bool {
        self.state == NodeState::Running && !self.addresses.is_empty()
    }
}

/// The state of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// The node is starting, or connecting to its control server.
    #[default]
    Starting,
    /// The node is on the tailnet.
    Running,
    /// The node is not on the tailnet, or has lost its control server. It keeps trying.
    Waiting(NotReadyReason),
    /// The node has left the tailnet.
    Left,
}

/// The error of a wait for a node that did not become ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not join the tailnet within {:.1} s: {reason}", waited.as_secs_f64())]
pub struct NotReady {
    /// The reason.
    pub reason: NotReadyReason,
    /// How long the caller waited.
    pub waited: Duration,
}

/// The reason for which a node is not ready. [`hint`](Self::hint) returns what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReadyReason {
    /// The node is connecting; no error has occurred.
    #[error("the node is still connecting")]
    Connecting,
    /// A login with a browser is required.
    #[error("a login is required")]
    NeedsLogin {
        /// The login page, if known.
        url: Option<String>,
    },
    /// An administrator of the tailnet must approve the node.
    #[error("an administrator must approve the node")]
    NeedsApproval,
    /// The control server cannot be reached.
    #[error("the control server cannot be reached ({detail})")]
    ControlUnreachable {
        /// The error of the attempt.
        detail: String,
    },
    /// The control server refused the auth key.
    #[error("the control server refuses the auth key ({detail})")]
    KeyRefused {
        /// The error text of the control server.
        detail: String,
    },
    /// The key of the node has expired.
    #[error("the key of the node has expired")]
    KeyExpired,
    /// No daemon answers.
    #[error("no tailscaled answers at {socket} ({detail})")]
    DaemonNotRunning {
        /// The path of its socket.
        socket: String,
        /// The error of the attempt.
        detail: String,
    },
    /// This user has no permission to open the socket of the daemon.
    #[error("no permission to open the tailscaled socket {socket}")]
    SocketNotPermitted {
        /// The path of the socket.
        socket: String,
    },
    /// The answers of the daemon differ from the answers of supported versions.
    #[error("tailscaled gave an unexpected answer ({detail})")]
    DaemonMisbehaves {
        /// What is wrong with the answer.
        detail: String,
    },
    /// The node is switched off.
    #[error("the node is stopped")]
    Stopped,
    /// The node has no address yet.
    #[error("the control server has not assigned an address yet")]
    NoAddress,
    /// The program of the node is missing or does not start.
    #[error("{program} cannot be run ({detail})")]
    ProgramMissing {
        /// The program.
        program: String,
        /// The error of the attempt.
        detail: String,
    },
    /// Another reason.
    #[error("{detail}")]
    Other {
        /// The reason.
        detail: String,
    },
}

impl NotReadyReason {
    /// Returns whether waiting may help, without a restart of the node.
    pub const fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::KeyRefused { .. } | Self::ProgramMissing { .. } | Self::SocketNotPermitted { .. }
        )
    }

    /// Returns what to do about it; `None` if no remedy is known.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::Connecting | Self::NoAddress => "allow more time",
            Self::NeedsLogin { url: Some(url) } => {
                return Some(format!("open {url}, or provide an auth key").into());
            }
            Self::NeedsLogin { url: None } => {
                "open the login page of the control server, or provide an auth key"
            }
            Self::NeedsApproval => "approve the node in the machine list of the control server",
            Self::ControlUnreachable { .. } => "check the address of the control server, and the network",
            Self::KeyRefused { .. } => "make a new key, and check that it belongs to this server",
            Self::KeyExpired => "log in again, or start the node with a new auth key",
            Self::DaemonNotRunning { .. } => "start tailscaled, or join the tailnet in another way",
            Self::SocketNotPermitted { .. } => {
                "run as a user with access to it, or join the tailnet in another way"
            }
            Self::DaemonMisbehaves { .. } => "check the version of tailscaled: it may be too old or too new",
            Self::Stopped => "run `tailscale up`",
            Self::ProgramMissing { .. } => "install Tailscale, or name the program in the settings",
            Self::Other { .. } => return None,
        };
        Some(hint.into())
    }
}

/// The diagnosis of a node's connections, for troubleshooting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeHealth {
    /// Whether the node is connected to its control server, if known.
    pub control_connected: Option<bool>,
    /// The region of its home relay, if any.
    pub home_relay: Option<String>,
    /// Whether the node runs in userspace: then it cannot connect to itself, so its own port cannot be tested.
    pub userspace: bool,
    /// The health warnings of the node, verbatim.
    pub problems: Vec<String>,
    /// The addresses outside the tailnet that it advertises to peers; empty if it does not report them.
    pub endpoints: Vec<NodeEndpoint>,
    /// The state of its port mapping.
    pub port_mapping: PortMapping,
}

/// A possible address of a node outside the tailnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NodeEndpoint {
    /// The address.
    pub address: SocketAddr,
    /// How the address was found.
    pub kind: EndpointKind,
}

impl NodeEndpoint {
    /// Creates an endpoint.
    pub const fn new(address: SocketAddr, kind: EndpointKind) -> Self {
        Self { address, kind }
    }
}

/// How an endpoint was found. `Display` prints a few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointKind {
    /// It is the address of an interface of the machine.
    Local,
    /// A STUN server reported it as the source of packets.
    Seen,
    /// The router maps it to the node.
    Mapped,
}

impl fmt::Display for EndpointKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Local => "local",
            Self::Seen => "seen by STUN",
            Self::Mapped => "mapped by the router",
        })
    }
}

/// The state of a port mapping (PCP, NAT-PMP, UPnP): a port of the router that is forwarded to the node. `Display`
/// prints a clause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortMapping {
    /// Port mapping is switched off, or the node does not report it.
    #[default]
    Off,
    /// There is no router between the node and the internet, or none that accepts requests.
    NoRouter,
    /// A request was sent to the router, which has not answered yet.
    Asking {
        /// The router.
        router: IpAddr,
    },
    /// The router maps no port. The request is repeated later.
    Refused {
        /// The router.
        router: IpAddr,
        /// The reason.
        detail: String,
    },
    /// The router maps a port.
    Mapped {
        /// The router.
        router: IpAddr,
        /// The protocol of the mapping, such as `PCP`.
        protocol: &'static str,
        /// The external address that is forwarded to the node.
        external: SocketAddr,
    },
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("port mapping is off or not reported"),
            Self::NoRouter => f.write_str("no router for a port mapping was found"),
            Self::Asking { router } => write!(
                f,
                "the router {router} has not answered the request for a port yet"
            ),
            Self::Refused { router, detail } => {
                write!(f, "the router {router} does not map a port: {detail}")
            }
            Self::Mapped {
                router,
                protocol,
                external,
            } => write!(f, "the router {router} maps {external} by {protocol}"),
        }
    }
}

/// The path of packets to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PathKind {
    /// Directly to the peer, over UDP.
    Direct {
        /// The address of the peer outside the tailnet.
        endpoint: Option<SocketAddr>,
    },
    /// Through a relay (DERP).
    Relay {
        /// The code of the relay's region, such as `fra`.
        region: String,
    },
    /// Within this machine.
    Local,
    /// Unknown: no packet was sent recently, or the node does not report the path.
    #[default]
    Unknown,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct {
                endpoint: Some(endpoint),
            } => write!(f, "direct {endpoint}"),
            Self::Direct { endpoint: None } => f.write_str("direct"),
            Self::Relay { region } if region.is_empty() => f.write_str("relay"),
            Self::Relay { region } => write!(f, "relay {region}"),
            Self::Local => f.write_str("local"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}
