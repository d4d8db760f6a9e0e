use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use nara_mesh::proto::identity::NaraName;
use nara_mesh::transport::Candidate;
use tokio::time::Instant;

use crate::localapi::{PeerStatus, Status, WhoIs};
use crate::node::NodeIdentity;
use crate::status::{NodeHealth, NodeState, NodeStatus, NotReadyReason, PathKind};

/// The last status of the daemon, indexed by address.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The time of the snapshot; `None` if the daemon has never answered.
    pub(super) taken: Option<Instant>,
    pub(super) health: NodeHealth,
    own: Vec<IpAddr>,
    /// Whether the daemon provides the tailnet as a network device.
    daemon_has_device: bool,
    /// Whether this device is in our network namespace.
    device: bool,
    /// Whether the control server reports which nodes are online; some do not.
    tells_online: bool,
    peers: Vec<Peer>,
    by_address: HashMap<IpAddr, usize>,
}

/// A node of the tailnet.
#[derive(Debug)]
pub(super) struct Peer(PeerStatus);

impl Snapshot {
    pub(super) fn new(status: Status) -> Self {
        let mut peers: Vec<Peer> = status.peer.unwrap_or_default().into_values().map(Peer).collect();
        // The daemon's order is random; a stable order avoids spurious changes.
        peers.sort_by(|a, b| a.0.public_key.cmp(&b.0.public_key));
        let by_address = peers
            .iter()
            .enumerate()
            .flat_map(|(index, peer)| peer.0.addresses.iter().map(move |&address| (address, index)))
            .collect();
        let own = status.own.as_ref();
        let health = NodeHealth {
            control_connected: own.map(|own| own.online),
            home_relay: own.map(|own| own.relay.clone()).filter(|relay| !relay.is_empty()),
            userspace: !status.tun,
            problems: status.health.unwrap_or_default(),
            ..NodeHealth::default()
        };
        let device = status.tun && status.addresses.first().is_some_and(|&address| is_ours(address));
        Self {
            taken: Some(Instant::now()),
            health,
            own: status.addresses,
            daemon_has_device: status.tun,
            device,
            tells_online: peers.iter().any(|peer| peer.0.online() == Some(true)),
            peers,
            by_address,
        }
    }

    /// Returns whether sockets of the operating system reach the tailnet.
    pub(super) fn has_device(&self) -> bool {
        self.device
    }

    /// Returns the addresses of the node itself.
    pub(super) fn own(&self) -> &[IpAddr] {
        &self.own
    }

    pub(super) fn daemon_has_device(&self) -> bool {
        self.daemon_has_device
    }

    pub(super) fn peer(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.get(*self.by_address.get(&address.to_canonical())?)
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mut candidates: Vec<_> = self.peers.iter().map(Peer::candidate).collect();
        if self.tells_online {
            // Headscale reports no last-seen time for offline nodes.
            for candidate in &mut candidates {
                candidate.online.get_or_insert(false);
            }
        }
        candidates
    }

    pub(super) fn path_to(&self, address: IpAddr) -> PathKind {
        if address.is_loopback() || self.own.contains(&address) {
            return PathKind::Local;
        }
        self.peer(address).map_or(PathKind::Unknown, |peer| {
            let peer = &peer.0;
            if !peer.cur_addr.is_empty() {
                PathKind::Direct {
                    endpoint: peer.cur_addr.parse::<SocketAddr>().ok(),
                }
            } else if !peer.peer_relay.is_empty() {
                PathKind::Relay {
                    region: format!("peer {}", peer.peer_relay),
                }
            } else if peer.active && !peer.relay.is_empty() {
                PathKind::Relay {
                    region: peer.relay.clone(),
                }
            } else {
                PathKind::Unknown
            }
        })
    }
}

impl Peer {
    fn candidate(&self) -> Candidate {
        let peer = &self.0;
        let host_name = if peer.host_name.is_empty() {
            peer.granted_name()
        } else {
            &peer.host_name
        };
        let mut candidate = Candidate::new(host_name, peer.addresses.clone());
        candidate.online = if peer.expired { Some(false) } else { peer.online() };
        candidate
    }

    pub(super) fn nara_name(&self) -> Option<NaraName> {
        self.candidate().nara_name()
    }

    pub(super) fn identity(&self) -> NodeIdentity {
        let peer = &self.0;
        NodeIdentity {
            host_name: peer.granted_name().to_owned(),
            dns_name: peer.dns_name.trim_end_matches('.').to_owned(),
            addresses: peer.addresses.clone(),
            node_key: peer.public_key.clone(),
        }
    }
}

/// Returns the identity in an answer of `whois`.
pub(super) fn identity_of(found: &WhoIs) -> NodeIdentity {
    let node = &found.node;
    let dns_name = node.name.trim_end_matches('.');
    let label = dns_name.split('.').next().unwrap_or_default();
    let host_name = if label.is_empty() {
        &node.hostinfo.hostname
    } else {
        label
    };
    NodeIdentity {
        host_name: host_name.to_owned(),
        dns_name: dns_name.to_owned(),
        addresses: node.addresses.clone(),
        node_key: node.key.clone(),
    }
}

/// Returns whether an address is on a network interface of our namespace, by binding to it.
fn is_ours(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// Returns the status of the daemon's node. `error` is the last error of the control server.
pub(super) fn node_status(status: &Status, error: Option<&str>, control_url: Option<String>) -> NodeStatus {
    let own = status.own.as_ref();
    // Before the node has joined, the daemon reports the name of the machine.
    let joined = !status.addresses.is_empty();
    let granted = own
        .map(PeerStatus::granted_name)
        .filter(|name| joined && !name.is_empty());
    let version = status.version.split('-').next().unwrap_or_default();
    NodeStatus {
        state: node_state(status, error),
        addresses: status.addresses.clone(),
        granted_name: granted.map(str::to_owned),
        control_url,
        version: (!version.is_empty()).then(|| version.to_owned()),
    }
}

fn node_state(status: &Status, error: Option<&str>) -> NodeState {
    let health = status.health.as_deref().unwrap_or_default();
    let complaint = || {
        let said = health.iter().map(String::as_str);
        error.into_iter().chain(said).find_map(complaint_about_control)
    };
    let expired = status.own.as_ref().is_some_and(|own| own.expired);
    NodeState::Waiting(match status.backend_state.as_str() {
        "Running" if status.addresses.is_empty() => NotReadyReason::NoAddress,
        "Running" => return NodeState::Running,
        "NeedsLogin" if !status.auth_url.is_empty() => NotReadyReason::NeedsLogin {
            url: Some(status.auth_url.clone()),
        },
        "NeedsLogin" => complaint().unwrap_or(match expired {
            true => NotReadyReason::KeyExpired,
            false => NotReadyReason::NeedsLogin { url: None },
        }),
        "NeedsMachineAuth" => NotReadyReason::NeedsApproval,
        "Stopped" => NotReadyReason::Stopped,
        "" | "NoState" | "Starting" => complaint().unwrap_or(NotReadyReason::Connecting),
        other => NotReadyReason::Other {
            detail: format!("tailscaled is in the unknown state {other:?}"),
        },
    })
}

/// Classifies a message of the daemon; `None` if it does not concern the control server.
fn complaint_about_control(message: &str) -> Option<NotReadyReason> {
    // The text comes from the control server and is printed: strip control characters and bound its length.
    let detail: String = message
        .chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect();
    let lower = detail.to_ascii_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let detail = detail
        .rsplit_once("last login error was: ")
        .map_or_else(|| detail.clone(), |(_, error)| error.to_owned());
    if says(&[
        "invalid key",
        "invalid authkey",
        "authkey",
        "auth key",
        "not authorized",
        "unauthorized",
        "preauthkey",
    ]) {
        Some(NotReadyReason::KeyRefused { detail })
    } else if says(&[
        "connection refused",
        "no such host",
        "timeout",
        "timed out",
        "unreachable",
        "fetch control key",
        "dial tcp",
        "network is down",
        "deadline exceeded",
        "coordination server",
    ]) {
        Some(NotReadyReason::ControlUnreachable { detail })
    } else {
        None
    }
}
