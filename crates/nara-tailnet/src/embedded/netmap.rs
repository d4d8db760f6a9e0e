//! The state of the tailnet, folded from the incremental messages of the control server.

mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;
use nara_mesh::transport::Candidate;
use ts_keys::{DiscoPublicKey, NodePublicKey};
use ts_packetfilter::{BTreeFilter, Rule, Ruleset};

use self::wire::{MAX_PEERS, Patch, WireNode};
pub(super) use self::wire::{MalformedMap, MapMessage};
use super::relay::region::RelayMap;
use super::underlay::RegionId;
use crate::NodeIdentity;

/// A node of the tailnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The granted host name, without the domain.
    pub(super) host_name: String,
    pub(super) dns_name: String,
    pub(super) key: NodePublicKey,
    pub(super) key_expiry: Option<Timestamp>,
    pub(super) expired: bool,
    /// The addresses of the node, IPv4 before IPv6. Routes to networks behind the node are not used.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) online: Option<bool>,
    /// The region of its home relay.
    pub(super) region: Option<RegionId>,
    /// The key for the discovery of direct paths, if the node supports it.
    pub(super) disco: Option<DiscoPublicKey>,
    /// The advertised UDP addresses.
    pub(super) endpoints: Vec<SocketAddr>,
}

impl Node {
    pub(super) fn candidate(&self) -> Candidate {
        let mut candidate = Candidate::new(self.host_name.clone(), self.addresses.clone());
        candidate.online = self.online;
        candidate
    }

    pub(super) fn identity(&self) -> NodeIdentity {
        let mut identity = NodeIdentity::new(self.host_name.clone(), self.addresses.clone());
        identity.dns_name.clone_from(&self.dns_name);
        identity.node_key = self.key.to_string();
        identity
    }
}

/// The published part of the map: our own node and its peers.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) own: Option<Node>,
    pub(super) peers: Arc<[Node]>,
}

/// The current map.
#[derive(Default)]
pub(super) struct Netmap {
    /// The last known time of day of the control server.
    pub(super) time: Option<Timestamp>,
    pub(super) own: Option<Node>,
    nodes: BTreeMap<i64, Node>,
    pub(super) filter: BTreeFilter,
    pub(super) relays: Option<RelayMap>,
}

/// An earlier time of a control server is wrong: 2026-01-01.
const EARLIEST: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// The name that Tailscale's protocol gives to the unnamed filter.
const UNNAMED_FILTER: &str = "base";
/// The maximum number of endpoints per node; the rest is dropped.
const MAX_ENDPOINTS: usize = 64;
/// The maximum number of addresses per node; the rest is dropped.
const MAX_ADDRESSES: usize = 16;
/// The maximum number of filters, and of addresses, ports, protocols and capabilities in all of them.
const MAX_FILTERS: usize = 1000;
const MAX_FILTER_ENTRIES: usize = 1_000_000;
/// The maximum length of the name of a filter.
const MAX_FILTER_NAME: usize = 256;
/// The filter name that clears all named filters.
const CLEAR: &str = "*";

impl Netmap {
    /// Applies a message.
    pub(super) fn fold(&mut self, message: MapMessage) {
        self.time = message.time.filter(|time| *time >= EARLIEST).or(self.time);
        if let Some(own) = message.own {
            self.own = Some(own.into());
        }
        if let Some(relays) = message.relays {
            // An empty relay map means that the server knows no relays, not that they were removed.
            if !relays.0.is_empty() {
                self.relays = Some(relays);
            }
        }
        if let Some(all) = message.peers {
            self.nodes = all.into_iter().map(|node| (node.id, node.into())).collect();
        }
        for id in message.removed {
            self.nodes.remove(&id);
        }
        let mut ignored = 0;
        for node in message.changed {
            if self.nodes.len() < MAX_PEERS || self.nodes.contains_key(&node.id) {
                self.nodes.insert(node.id, node.into());
            } else {
                ignored += 1;
            }
        }
        if ignored > 0 {
            tracing::warn!(
                ignored,
                limit = MAX_PEERS,
                "the tailnet has too many peers: the rest is ignored"
            );
        }
        for patch in message.patches {
            if let Some(node) = self.nodes.get_mut(&patch.node_id) {
                node.patch(patch);
            }
        }
        for (id, online) in message.online {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.online = Some(online);
            }
        }
        self.fold_filters(message.filter, message.named_filters);
    }

    fn fold_filters(&mut self, unnamed: Option<Ruleset>, named: BTreeMap<String, Option<Ruleset>>) {
        let named_base = unnamed.map(|rules| (UNNAMED_FILTER.to_owned(), Some(rules)));
        if matches!(named.get(CLEAR), Some(None)) {
            self.filter.clear();
        }
        let mut entries: usize = self.filter.values().map(count_entries).sum();
        for (name, rules) in named_base.into_iter().chain(named) {
            if let Some(old) = self.filter.remove(&name) {
                entries -= count_entries(&old);
            }
            let Some(rules) = rules else { continue };
            let more = count_entries(&rules);
            if entries + more > MAX_FILTER_ENTRIES
                || self.filter.len() >= MAX_FILTERS
                || name.len() > MAX_FILTER_NAME
            {
                tracing::warn!("ignoring a packet filter beyond the limits: it allows nothing");
                continue;
            }
            entries += more;
            self.filter.insert(name, rules);
        }
    }

    /// Returns whether the key of a node has expired, by the clock of the control server: that of this machine may be
    /// wrong.
    pub(super) fn has_expired(&self, node: &Node) -> bool {
        let expiry = node.key_expiry.zip(self.time);
        node.expired || expiry.is_some_and(|(expiry, now)| expiry <= now)
    }

    /// Returns the peers in a stable order.
    pub(super) fn peers(&self) -> Arc<[Node]> {
        let own = self.own.as_ref().map(|own| own.key);
        self.nodes
            .values()
            .filter(|node| Some(node.key) != own)
            .cloned()
            .collect()
    }
}

fn count_entries(rules: &Ruleset) -> usize {
    let count = |rule: &Rule| {
        let (src, dst) = (&rule.src, rule.dst.iter());
        let of_dst: usize = dst.map(|dst| 1 + dst.ips.len()).sum();
        1 + src.pfxs.len() + src.caps.len() + rule.protos.len() + of_dst
    };
    rules.iter().map(count).sum()
}

impl Node {
    fn patch(&mut self, patch: Patch) {
        if let Some(key) = patch.key {
            self.key = key;
        }
        if patch.derp_region != 0 {
            self.region = Some(patch.derp_region);
        }
        if let Some(expiry) = patch.key_expiry {
            self.key_expiry = wire::timestamp(&expiry);
        }
        if patch.disco_key.is_some() {
            self.disco = patch.disco_key;
        }
        if let Some(endpoints) = patch.endpoints {
            self.endpoints = endpoints;
            self.endpoints.truncate(MAX_ENDPOINTS);
        }
        if patch.online.is_some() {
            self.online = patch.online;
        }
    }
}

impl From<WireNode> for Node {
    fn from(wire: WireNode) -> Self {
        let dns_name = wire.name.trim_end_matches('.').to_owned();
        let host_name = dns_name.split('.').next().unwrap_or_default().to_owned();
        let mut addresses: Vec<IpAddr> = wire
            .addresses
            .unwrap_or_default()
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(ipnet::IpNet::addr)
            .take(MAX_ADDRESSES)
            .collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        let mut endpoints = wire.endpoints.unwrap_or_default();
        endpoints.truncate(MAX_ENDPOINTS);
        let legacy = wire
            .derp
            .rsplit_once(':')
            .and_then(|(_, region)| region.parse().ok());
        let region = Some(wire.home_derp)
            .filter(|region| *region != 0)
            .or(legacy)
            .filter(|region| *region != 0);
        Self {
            host_name,
            dns_name,
            key: wire.key,
            key_expiry: wire.key_expiry.as_deref().and_then(wire::timestamp),
            expired: wire.expired,
            addresses,
            online: wire.online,
            region,
            disco: wire.disco_key,
            endpoints,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ts_packetfilter::{FilterExt as _, IpProto, PacketInfo};

    use super::*;

    fn key(n: u8) -> String {
        format!("nodekey:{}", hex::encode([n; 32]))
    }

    fn message(json: &str) -> MapMessage {
        MapMessage::parse(json.as_bytes()).unwrap()
    }

    fn node(id: u8, extra: &str) -> String {
        format!(
            r#"{{"ID":{id},"Name":"n{id}.lab.internal.","Key":"{}","Addresses":["100.64.0.{id}/32","fd7a::{id}/128"]{extra}}}"#,
            key(id)
        )
    }

    fn names(map: &Netmap) -> Vec<String> {
        map.peers().iter().map(|node| node.host_name.clone()).collect()
    }

    #[test]
    fn peers_are_added_changed_and_removed() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{},{}]}}"#,
            node(1, ""),
            node(2, "")
        )));
        assert_eq!(names(&map), ["n1", "n2"]);
        map.fold(message(&format!(
            r#"{{"PeersChanged":[{}],"PeersRemoved":[1],"OnlineChange":{{"2":false,"77":true}}}}"#,
            node(3, r#","Online":true,"HomeDERP":900"#)
        )));
        assert_eq!(names(&map), ["n2", "n3"]);
        let peers = map.peers();
        assert_eq!((peers[0].online, peers[1].online), (Some(false), Some(true)));
        assert_eq!((peers[0].region, peers[1].region), (None, Some(900)));
        map.fold(message(
            r#"{"PeersChangedPatch":[{"NodeID":2,"DERPRegion":901,"Online":true},{"NodeID":55}]}"#,
        ));
        assert_eq!(
            (map.peers()[0].region, map.peers()[0].online),
            (Some(901), Some(true))
        );
        map.fold(message(r#"{"KeepAlive":true}"#));
        assert_eq!(names(&map), ["n2", "n3"]);
        map.fold(message(r#"{"Peers":[]}"#));
        assert!(names(&map).is_empty());
    }

    #[test]
    fn nodes_with_one_address_family_or_without_addresses_are_peers() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{{"ID":1,"Name":"six","Key":"{}","Addresses":["fd7a::1/128"]}},
                {{"ID":2,"Name":"none","Key":"{}","Addresses":null}}]}}"#,
            key(1),
            key(2)
        )));
        let peers = map.peers();
        assert_eq!(peers[0].addresses, ["fd7a::1".parse::<IpAddr>().unwrap()]);
        assert!(peers[1].addresses.is_empty());
    }

    #[test]
    fn a_network_behind_a_node_is_not_one_of_its_addresses() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{{"ID":1,"Name":"a","Key":"{}","Addresses":["100.64.0.1/32","10.0.0.0/8"]}}]}}"#,
            key(1)
        )));
        assert_eq!(
            map.peers()[0].addresses,
            [IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1))]
        );
    }

    #[test]
    fn a_malformed_peer_does_not_hide_the_others() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{{"ID":1,"Key":"nonsense"}},{},17]}}"#,
            node(2, r#","Hostinfo":{"OSVersion":"a \u003c b"}"#)
        )));
        assert_eq!(names(&map), ["n2"]);
    }

    #[test]
    fn our_own_node_is_not_a_peer() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Node":{},"Peers":[{},{}]}}"#,
            node(1, ""),
            node(1, ""),
            node(2, "")
        )));
        assert_eq!(names(&map), ["n2"]);
    }

    #[test]
    fn keys_expire_by_the_clock_of_the_control_server() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{},{},{}]}}"#,
            node(1, r#","KeyExpiry":"2030-01-02T03:04:05Z""#),
            // Go's zero time means that the key does not expire.
            node(2, r#","KeyExpiry":"0001-01-01T00:00:00Z""#),
            node(3, r#","Expired":true"#)
        )));
        let expired = |map: &Netmap| {
            let peers = map.peers();
            let expired = peers.iter().filter(|peer| map.has_expired(peer));
            expired.map(|peer| peer.host_name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(expired(&map), ["n3"], "the time is not known");
        map.fold(message(
            r#"{"KeepAlive":true,"ControlTime":"2030-01-02T03:04:04.9Z"}"#,
        ));
        assert_eq!(expired(&map), ["n3"]);
        map.fold(message(
            r#"{"KeepAlive":true,"ControlTime":"2030-01-02T03:04:05Z"}"#,
        ));
        assert_eq!(expired(&map), ["n1", "n3"]);
        for later in [
            r#"{"KeepAlive":true}"#,
            r#"{"ControlTime":"2020-08-03T00:00:00Z"}"#,
        ] {
            map.fold(message(later));
            assert_eq!(expired(&map), ["n1", "n3"]);
        }
    }

    fn allows(map: &Netmap, port: u16) -> bool {
        let info = PacketInfo {
            src: "100.64.0.2".parse().unwrap(),
            dst: "100.64.0.1".parse().unwrap(),
            ip_proto: IpProto::new(6),
            port,
        };
        map.filter.can_access(&info, [])
    }

    fn rule(port: u16) -> String {
        format!(
            r#"{{"SrcIPs":["100.64.0.2"],"DstPorts":[{{"IP":"*","Ports":{{"First":{port},"Last":{port}}}}}]}}"#
        )
    }

    #[test]
    fn the_filter_of_the_control_server_is_kept() {
        let mut map = Netmap::default();
        assert!(!allows(&map, 9632), "without rules nothing may come in");
        map.fold(message(&format!(r#"{{"PacketFilter":[{}]}}"#, rule(9632))));
        assert!(allows(&map, 9632) && !allows(&map, 22));
        map.fold(message(&format!(
            r#"{{"PacketFilters":{{"more":[{}]}}}}"#,
            rule(22)
        )));
        assert!(allows(&map, 9632) && allows(&map, 22));
        map.fold(message(r#"{"PacketFilters":{"more":null}}"#));
        assert!(allows(&map, 9632) && !allows(&map, 22));
        map.fold(message(&format!(
            r#"{{"PacketFilters":{{"*":null,"only":[{}]}}}}"#,
            rule(22)
        )));
        assert!(!allows(&map, 9632) && allows(&map, 22));
    }

    #[test]
    fn the_map_is_bounded_whatever_the_control_server_adds() {
        let mut map = Netmap::default();
        for part in 0..6 {
            let nodes = (0..10_000_u32).map(|n| {
                let id = part * 10_000 + n;
                format!(r#"{{"ID":{id},"Name":"n{id}","Key":"{}"}}"#, key(1))
            });
            let nodes: Vec<_> = nodes.collect();
            map.fold(message(&format!(r#"{{"PeersChanged":[{}]}}"#, nodes.join(","))));
        }
        assert_eq!(map.nodes.len(), MAX_PEERS);
        let changed = format!(r#"{{"ID":7,"Name":"changed","Key":"{}"}}"#, key(1));
        map.fold(message(&format!(r#"{{"PeersChanged":[{changed}]}}"#)));
        assert_eq!(map.nodes[&7].host_name, "changed");
        let long = format!(r#"{{"ID":7,"Name":"{}","Key":"{}"}}"#, "n".repeat(1000), key(1));
        map.fold(message(&format!(r#"{{"PeersChanged":[{long}]}}"#)));
        assert_eq!(map.nodes[&7].host_name, "changed");

        for name in 0..MAX_FILTERS + 10 {
            map.fold(message(&format!(
                r#"{{"PacketFilters":{{"f{name}":[{}]}}}}"#,
                rule(22)
            )));
        }
        assert_eq!(map.filter.len(), MAX_FILTERS);
        map.fold(message(r#"{"PacketFilters":{"*":null}}"#));
        let many = vec![r#""100.64.0.2""#; MAX_FILTER_ENTRIES / 2].join(",");
        let many =
            format!(r#"{{"SrcIPs":[{many}],"DstPorts":[{{"IP":"*","Ports":{{"First":22,"Last":22}}}}]}}"#);
        map.fold(message(&format!(r#"{{"PacketFilter":[{many}]}}"#)));
        map.fold(message(&format!(
            r#"{{"PacketFilters":{{"more":[{}]}}}}"#,
            rule(9632)
        )));
        assert!(allows(&map, 22) && allows(&map, 9632));
        map.fold(message(&format!(r#"{{"PacketFilters":{{"more":[{many}]}}}}"#)));
        assert!(allows(&map, 22), "other filters stay");
        assert!(!allows(&map, 9632), "the former rules of that name are gone");
    }

    #[test]
    fn a_malformed_rule_allows_nothing() {
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"PacketFilter":[{{"SrcIPs":["not an address"]}},{}]}}"#,
            rule(9632)
        )));
        assert!(allows(&map, 9632) && !allows(&map, 22));
    }
}
