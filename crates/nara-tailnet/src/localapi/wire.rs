//! The JSON types of the LocalAPI, with the fields used here. Go encodes an empty list as `null`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize};

/// `GET status`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Status {
    pub(crate) version: String,
    /// Whether the daemon provides the tailnet as a network device of its machine.
    #[serde(rename = "TUN")]
    pub(crate) tun: bool,
    pub(crate) backend_state: String,
    #[serde(rename = "AuthURL")]
    pub(crate) auth_url: String,
    #[serde(rename = "TailscaleIPs", deserialize_with = "addresses")]
    pub(crate) addresses: Vec<IpAddr>,
    #[serde(rename = "Self")]
    pub(crate) own: Option<PeerStatus>,
    pub(crate) health: Option<Vec<String>>,
    pub(crate) peer: Option<HashMap<String, PeerStatus>>,
}

/// One node of a [`Status`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PeerStatus {
    pub(crate) public_key: String,
    pub(crate) host_name: String,
    #[serde(rename = "DNSName")]
    pub(crate) dns_name: String,
    #[serde(rename = "TailscaleIPs", deserialize_with = "addresses")]
    pub(crate) addresses: Vec<IpAddr>,
    /// The address outside the tailnet in current use; empty if none.
    pub(crate) cur_addr: String,
    /// The region code of its relay.
    pub(crate) relay: String,
    /// The peer that acts as relay, if any.
    pub(crate) peer_relay: String,
    pub(crate) online: bool,
    /// When the control server last saw the node; set for offline nodes.
    pub(crate) last_seen: String,
    /// Whether packets were sent to the node within the last two minutes.
    pub(crate) active: bool,
    pub(crate) expired: bool,
}

impl PeerStatus {
    /// Returns whether the node is online, if the control server reports it. If it does not, the node is offline
    /// without a last-seen time.
    pub(crate) fn online(&self) -> Option<bool> {
        // The zero time of Go.
        let seen = !self.last_seen.is_empty() && !self.last_seen.starts_with("0001-");
        match self.online {
            true => Some(true),
            false => seen.then_some(false),
        }
    }

    /// Returns the host name that the control server granted: the first label of the DNS name.
    pub(crate) fn granted_name(&self) -> &str {
        let label = self.dns_name.split('.').next().unwrap_or_default();
        if label.is_empty() { &self.host_name } else { label }
    }
}

/// `GET whois`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct WhoIs {
    pub(crate) node: WhoIsNode,
}

/// The node of a [`WhoIs`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct WhoIsNode {
    /// The DNS name of the node.
    pub(crate) name: String,
    pub(crate) key: String,
    /// The addresses of the node, on the wire as networks of one address.
    #[serde(deserialize_with = "networks")]
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) hostinfo: HostInfo,
}

/// The host information that a node reports about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostInfo {
    pub(crate) hostname: String,
}

/// `GET prefs`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Prefs {
    #[serde(rename = "ControlURL")]
    pub(crate) control_url: String,
}

/// `POST start`
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StartOptions<'a> {
    pub(crate) update_prefs: UpdatePrefs<'a>,
    /// Secret.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) auth_key: &'a str,
}

/// The settings of a managed node: reachable, without changes to the machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdatePrefs<'a> {
    #[serde(rename = "ControlURL")]
    pub(crate) control_url: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) want_running: bool,
    #[serde(rename = "CorpDNS")]
    pub(crate) corp_dns: bool,
    pub(crate) route_all: bool,
}

/// `POST serve-config`: maps ports of the node to addresses of the machine.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Forwarding {
    #[serde(rename = "TCP", skip_serializing_if = "BTreeMap::is_empty")]
    tcp: BTreeMap<u16, ForwardTcp>,
}

impl Forwarding {
    /// Forwards connections to a port of the node to an address of the machine, each with a PROXY header.
    pub(crate) fn insert(&mut self, port: u16, to: SocketAddr) {
        let to = ForwardTcp {
            to,
            proxy_protocol: 1,
        };
        self.tcp.insert(port, to);
    }

    /// Restores the daemon's default forwarding of a port of the node.
    pub(crate) fn remove(&mut self, port: u16) {
        self.tcp.remove(&port);
    }
}

/// The target of a forwarded port.
#[derive(Clone, Debug, Serialize)]
struct ForwardTcp {
    #[serde(rename = "TCPForward")]
    to: SocketAddr,
    /// The version of the PROXY protocol.
    #[serde(rename = "ProxyProtocol")]
    proxy_protocol: u8,
}

/// Parses addresses, IPv4 before IPv6; malformed entries are skipped.
fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    parsed(deserializer, |text| text.parse().ok())
}

/// Parses the addresses of networks such as `100.64.0.1/32`.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    parsed(deserializer, |text| text.split('/').next()?.parse().ok())
}

fn parsed<'de, D: Deserializer<'de>>(
    deserializer: D,
    parse: fn(&str) -> Option<IpAddr>,
) -> Result<Vec<IpAddr>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    let mut addresses: Vec<IpAddr> = texts.iter().filter_map(|text| parse(text)).collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_an_empty_list_and_ipv4_comes_first() {
        let status: Status = serde_json::from_str(
            r#"{"TailscaleIPs":null,"Peer":{"nodekey:1":{"TailscaleIPs":["fd7a:115c:a1e0::4","100.64.0.4","nonsense"]}}}"#,
        )
        .unwrap();
        assert!(status.addresses.is_empty());
        let peers = status.peer.unwrap();
        let expected: Vec<IpAddr> = ["100.64.0.4", "fd7a:115c:a1e0::4"]
            .map(|ip| ip.parse().unwrap())
            .to_vec();
        assert_eq!(peers["nodekey:1"].addresses, expected);
    }

    #[test]
    fn a_node_is_offline_only_if_it_has_a_last_seen_time() {
        let peer = |online, last_seen: &str| PeerStatus {
            online,
            last_seen: last_seen.to_owned(),
            ..PeerStatus::default()
        };
        assert_eq!(peer(true, "0001-01-01T00:00:00Z").online(), Some(true));
        assert_eq!(peer(false, "2026-11-24T12:00:00Z").online(), Some(false));
        assert_eq!(peer(false, "0001-01-01T00:00:00Z").online(), None);
        assert_eq!(peer(false, "").online(), None);
    }

    #[test]
    fn the_granted_name_is_the_first_label_of_the_dns_name() {
        let peer = |dns_name: &str| PeerStatus {
            dns_name: dns_name.to_owned(),
            host_name: "asked".to_owned(),
            ..PeerStatus::default()
        };
        assert_eq!(peer("asked-1.lab.internal.").granted_name(), "asked-1");
        assert_eq!(peer("").granted_name(), "asked");
    }
}
