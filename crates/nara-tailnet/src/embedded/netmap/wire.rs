//! The JSON messages of the control server, with the fields that a node needs. A malformed peer or rule is skipped with
//! a warning and does not invalidate the map.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use ts_keys::{DiscoPublicKey, NodePublicKey};
use ts_packetfilter::Ruleset;

use crate::embedded::relay::region::{RelayMap, WireMap};
use crate::embedded::underlay::RegionId;

/// The maximum number of peers; the rest is skipped.
pub(super) const MAX_PEERS: usize = 50_000;
/// The maximum length of the name of a peer: that of a DNS name, with the final dot.
const MAX_NAME: usize = 254;

/// One message of a map stream.
#[derive(Debug, Default)]
pub(in crate::embedded) struct MapMessage {
    /// The time of day of the control server.
    pub(super) time: Option<Timestamp>,
    pub(super) own: Option<WireNode>,
    pub(super) relays: Option<RelayMap>,
    pub(super) peers: Option<Vec<WireNode>>,
    pub(super) changed: Vec<WireNode>,
    pub(super) removed: Vec<i64>,
    pub(super) patches: Vec<Patch>,
    pub(super) online: BTreeMap<i64, bool>,
    pub(super) filter: Option<Ruleset>,
    pub(super) named_filters: BTreeMap<String, Option<Ruleset>>,
    /// A ping request of the control server.
    pub(in crate::embedded) ping: Option<Box<RawValue>>,
}

/// The error for a message that is not a map.
#[derive(Debug, thiserror::Error)]
#[error("the control server sent a malformed map")]
pub(in crate::embedded) struct MalformedMap(#[from] serde_json::Error);

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Wire {
    control_time: Option<String>,
    node: Option<WireNode>,
    #[serde(rename = "DERPMap")]
    derp_map: Option<WireMap>,
    peers: Option<Vec<Box<RawValue>>>,
    peers_changed: Option<Vec<Box<RawValue>>>,
    peers_removed: Option<Vec<i64>>,
    peers_changed_patch: Option<Vec<Patch>>,
    online_change: Option<BTreeMap<i64, bool>>,
    packet_filter: Option<Vec<Box<RawValue>>>,
    packet_filters: Option<BTreeMap<String, Option<Vec<Box<RawValue>>>>>,
    ping_request: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct WireNode {
    #[serde(rename = "ID")]
    pub(super) id: i64,
    #[serde(default)]
    pub(super) name: String,
    pub(super) key: NodePublicKey,
    #[serde(default)]
    pub(super) key_expiry: Option<String>,
    #[serde(default)]
    pub(super) expired: bool,
    #[serde(default)]
    pub(super) addresses: Option<Vec<IpNet>>,
    #[serde(default)]
    pub(super) online: Option<bool>,
    /// The advertised UDP addresses.
    #[serde(default, deserialize_with = "endpoints")]
    pub(super) endpoints: Option<Vec<SocketAddr>>,
    #[serde(default, deserialize_with = "disco_key")]
    pub(super) disco_key: Option<DiscoPublicKey>,
    #[serde(rename = "HomeDERP", default)]
    pub(super) home_derp: RegionId,
    /// The home relay in the format of older servers, `127.3.3.40:REGION`.
    #[serde(rename = "DERP", default)]
    pub(super) derp: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Patch {
    #[serde(rename = "NodeID")]
    pub(super) node_id: i64,
    #[serde(rename = "DERPRegion", default)]
    pub(super) derp_region: RegionId,
    #[serde(default)]
    pub(super) key: Option<NodePublicKey>,
    #[serde(default, deserialize_with = "endpoints")]
    pub(super) endpoints: Option<Vec<SocketAddr>>,
    #[serde(default, deserialize_with = "disco_key")]
    pub(super) disco_key: Option<DiscoPublicKey>,
    #[serde(default)]
    pub(super) key_expiry: Option<String>,
    #[serde(default)]
    pub(super) online: Option<bool>,
}

impl MapMessage {
    pub(in crate::embedded) fn parse(json: &[u8]) -> Result<Self, MalformedMap> {
        let wire: Wire = serde_json::from_slice(json)?;
        Ok(Self {
            time: wire.control_time.as_deref().and_then(timestamp),
            own: wire.node,
            relays: wire.derp_map.map(RelayMap::from),
            peers: wire.peers.map(|list| nodes(&list)),
            changed: nodes(&wire.peers_changed.unwrap_or_default()),
            removed: wire.peers_removed.unwrap_or_default(),
            patches: wire.peers_changed_patch.unwrap_or_default(),
            online: wire.online_change.unwrap_or_default(),
            filter: wire.packet_filter.map(|list| rules(&list)),
            named_filters: wire
                .packet_filters
                .unwrap_or_default()
                .into_iter()
                .map(|(name, list)| (name, list.map(|list| rules(&list))))
                .collect(),
            ping: wire.ping_request,
        })
    }
}

fn nodes(list: &[Box<RawValue>]) -> Vec<WireNode> {
    if list.len() > MAX_PEERS {
        tracing::warn!(
            peers = list.len(),
            limit = MAX_PEERS,
            "the tailnet has too many peers: the rest is ignored"
        );
    }
    list.iter()
        .take(MAX_PEERS)
        .filter_map(|node| {
            serde_json::from_str(node.get())
                .inspect_err(|error| tracing::warn!(%error, "ignoring a malformed peer"))
                .ok()
        })
        .filter(|node: &WireNode| node.name.len() <= MAX_NAME)
        .collect()
}

fn rules(list: &[Box<RawValue>]) -> Ruleset {
    list.iter()
        .filter_map(|rule| {
            let rule = serde_json::from_str(rule.get())
                .inspect_err(|error| {
                    tracing::warn!(%error, "ignoring a malformed rule of the packet filter: it allows nothing");
                })
                .ok()?;
            ts_packetfilter_state::rule_to_pf(&rule)
        })
        .collect()
}

/// Deserializes endpoints. Malformed ones are skipped, so that the peer is kept.
fn endpoints<'de, D: Deserializer<'de>>(wire: D) -> Result<Option<Vec<SocketAddr>>, D::Error> {
    let list: Option<Vec<String>> = Deserialize::deserialize(wire)?;
    Ok(list.map(|list| list.iter().filter_map(|text| text.parse().ok()).collect()))
}

/// Deserializes a disco key; `None` if malformed. Some control servers send zeros for a node without a key.
fn disco_key<'de, D: Deserializer<'de>>(wire: D) -> Result<Option<DiscoPublicKey>, D::Error> {
    let text: Option<String> = Deserialize::deserialize(wire)?;
    let key = text.and_then(|text| text.parse().ok());
    Ok(key.filter(|key| *key != DiscoPublicKey::from_bytes([0; 32])))
}

/// Parses a timestamp; `None` if it is not set, such as the expiry of a key that never expires.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    // Go's zero time means "not set".
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::netmap::{MAX_ENDPOINTS, Netmap};

    fn node(id: u8, extra: &str) -> String {
        let key = hex::encode([id; 32]);
        format!(r#"{{"ID":{id},"Key":"nodekey:{key}"{extra}}}"#)
    }

    fn message(json: &str) -> MapMessage {
        MapMessage::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn endpoints_and_disco_keys_of_peers_are_updated() {
        let disco = |n: u8| format!("discokey:{}", hex::encode([n; 32]));
        let mut map = Netmap::default();
        map.fold(message(&format!(
            r#"{{"Peers":[{},{}]}}"#,
            node(
                1,
                &format!(
                    r#","Endpoints":["192.0.2.1:7","[2001:db8::1]:8"],"DiscoKey":"{}""#,
                    disco(5)
                )
            ),
            node(2, &format!(r#","Endpoints":null,"DiscoKey":"{}""#, disco(0)))
        )));
        let peers = map.peers();
        assert_eq!(peers[0].disco, Some(DiscoPublicKey::from_bytes([5; 32])));
        assert_eq!(peers[0].endpoints.len(), 2);
        assert_eq!(peers[1].disco, None);
        assert!(peers[1].endpoints.is_empty());
        map.fold(message(&format!(
            r#"{{"PeersChangedPatch":[{{"NodeID":1,"Endpoints":["192.0.2.9:9"],"DiscoKey":"{}"}}]}}"#,
            disco(6)
        )));
        let peers = map.peers();
        assert_eq!(peers[0].disco, Some(DiscoPublicKey::from_bytes([6; 32])));
        assert_eq!(peers[0].endpoints, ["192.0.2.9:9".parse().unwrap()]);
        map.fold(message(
            r#"{"PeersChangedPatch":[{"NodeID":1,"Endpoints":["[fe80::1%eth0]:7","192.0.2.8:8"],"DiscoKey":"nonsense"}]}"#,
        ));
        let peers = map.peers();
        assert_eq!(
            peers[0].endpoints,
            ["192.0.2.8:8".parse().unwrap()],
            "malformed endpoints are skipped"
        );
        assert_eq!(peers[0].disco, Some(DiscoPublicKey::from_bytes([6; 32])));
        let many = vec![r#""192.0.2.1:7""#; 500].join(",");
        map.fold(message(&format!(
            r#"{{"PeersChanged":[{}]}}"#,
            node(1, &format!(r#","Endpoints":[{many}]"#))
        )));
        assert_eq!(map.peers()[0].endpoints.len(), MAX_ENDPOINTS);
    }
}
