//! The [`NodeStatus`] of a node, and why it is [`NotReady`].

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The status of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    /// Its state.
    pub state: NodeState,
    /// Its mesh addresses, IPv4 before IPv6; they are kept while the node is away from control.
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
    /// Whether peers can be reached.
    pub fn is_running(&self) -> bool {
        self.state == NodeState::Running && !self.addresses.is_empty()
    }
}

/// The state of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeState {
    /// It is starting, or connecting to its control server.
    #[default]
    Starting,
    /// It is on the tailnet.
    Running,
    /// It is not on the tailnet, or has lost its control server. It continues to try.
    Waiting(NotReadyReason),
    /// It has left.
    Left,
}

/// The node is not ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node did not join the tailnet within {:.1} s: {reason}", waited.as_secs_f64())]
pub struct NotReady {
    /// Why.
    pub reason: NotReadyReason,
    /// How long the caller waited.
    pub waited: Duration,
}

/// Why a node is not ready. The text says what happened, [`hint`](Self::hint) what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReadyReason {
    /// It is connecting; nothing has gone wrong.
    #[error("it is still connecting")]
    Connecting,
    /// A login with a browser is needed.
    #[error("it waits for a login")]
    NeedsLogin {
        /// The page, if it is known.
        url: Option<String>,
    },
    /// An administrator of the tailnet must approve the node.
    #[error("an administrator must approve it")]
    NeedsApproval,
    /// The control server cannot be reached.
    #[error("its control server cannot be reached ({detail})")]
    ControlUnreachable {
        /// The error of the attempt.
        detail: String,
    },
    /// The control server refused the auth key.
    #[error("the control server refuses the auth key ({detail})")]
    KeyRefused {
        /// What the control server said.
        detail: String,
    },
    /// The key of the node has expired.
    #[error("the key of the node has expired")]
    KeyExpired,
    /// No daemon answers.
    #[error("no tailscaled answers at {socket} ({detail})")]
    DaemonNotRunning {
        /// Its socket.
        socket: String,
        /// The error of the attempt.
        detail: String,
    },
    /// The socket of the daemon may not be opened.
    #[error("this user may not open {socket} of tailscaled")]
    SocketNotPermitted {
        /// The socket.
        socket: String,
    },
    /// The daemon answers, but not like a supported tailscaled.
    #[error("tailscaled does not answer as expected ({detail})")]
    DaemonMisbehaves {
        /// What was wrong.
        detail: String,
    },
    /// The node is turned off.
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
    /// Something else.
    #[error("{detail}")]
    Other {
        /// What.
        detail: String,
    },
}

impl NotReadyReason {
    /// Whether waiting may help, without a restart of the node.
    pub const fn may_pass(&self) -> bool {
        !matches!(
            self,
            Self::KeyRefused { .. } | Self::ProgramMissing { .. } | Self::SocketNotPermitted { .. }
        )
    }

    /// What to do about it; `None` where nothing is known to help.
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        let hint = match self {
            Self::Connecting | Self::NoAddress => "allow more time",
            Self::NeedsLogin { url: Some(url) } => {
                return Some(format!("open {url}, or give an auth key").into());
            }
            Self::NeedsLogin { url: None } => {
                "open the login page of the control server, or give an auth key"
            }
            Self::NeedsApproval => "approve it in the machine list of the control server",
            Self::ControlUnreachable { .. } => "check the address of the control server, and the network",
            Self::KeyRefused { .. } => "make a new key, and check that it is for this server",
            Self::KeyExpired => "log in again, or start it with a new auth key",
            Self::DaemonNotRunning { .. } => "start it, or join the tailnet in another way",
            Self::SocketNotPermitted { .. } => "run as a user who may, or join the tailnet in another way",
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
    /// Whether it is connected to its control server, if known.
    pub control_connected: Option<bool>,
    /// The region of its home relay, if any.
    pub home_relay: Option<String>,
    /// Whether it runs in userspace: then it cannot connect to itself, so its own port cannot be tried.
    pub userspace: bool,
    /// Its health warnings, in its own words.
    pub problems: Vec<String>,
    /// Where it tells peers to reach it, outside the tailnet; empty if it does not report that.
    pub endpoints: Vec<NodeEndpoint>,
    /// What its router says about a port for it.
    pub port_mapping: PortMapping,
}

/// An address at which a node can be reached outside the tailnet, perhaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NodeEndpoint {
    /// The address.
    pub address: SocketAddr,
    /// How it is known.
    pub kind: EndpointKind,
}

impl NodeEndpoint {
    /// An address, and how it is known.
    pub const fn new(address: SocketAddr, kind: EndpointKind) -> Self {
        Self { address, kind }
    }
}

/// How an endpoint is known. `Display` says it in a word or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndpointKind {
    /// An interface of the machine has it.
    Local,
    /// A STUN server sees packets come from it.
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

/// The state of a port mapping (PCP, NAT-PMP, UPnP): a port of the router that leads to the node. `Display` says it in a clause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortMapping {
    /// It is switched off, or the node does not report it.
    #[default]
    Off,
    /// No router stands between the node and the internet, or none that can be asked.
    NoRouter,
    /// The router was asked, and has not answered yet.
    Asking {
        /// The router.
        router: IpAddr,
    },
    /// The router maps no port. It is asked again later.
    Refused {
        /// The router.
        router: IpAddr,
        /// Why.
        detail: String,
    },
    /// The router maps a port.
    Mapped {
        /// The router.
        router: IpAddr,
        /// How it was asked, such as `PCP`.
        protocol: &'static str,
        /// The outside address that leads to the node.
        external: SocketAddr,
    },
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("no router is asked for a port"),
            Self::NoRouter => f.write_str("there is no router to ask for a port"),
            Self::Asking { router } => write!(f, "the router {router} is asked for a port"),
            Self::Refused { router, detail } => write!(f, "the router {router} maps no port: {detail}"),
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
        /// Its address outside the tailnet.
        endpoint: Option<SocketAddr>,
    },
    /// Through a relay (DERP).
    Relay {
        /// The code of the relay's region, such as `fra`.
        region: String,
    },
    /// Within this machine.
    Local,
    /// Unknown: nothing was sent lately, or the node does not report it.
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
