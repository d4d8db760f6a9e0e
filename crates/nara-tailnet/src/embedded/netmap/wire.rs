//! What the control server sends, as JSON. Only what a node needs is read; a peer or a rule that cannot be understood
//! is left out with a warning instead of losing the whole map.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use ts_keys::NodePublicKey;
use ts_packetfilter::Ruleset;

use crate::embedded::relay::region::{RegionId, RelayMap, WireMap};

/// Peers that are looked at; the rest of a longer list is left out.
const MAX_PEERS: usize = 50_000;

/// One message of a map stream.
#[derive(Debug, Default)]
pub(in crate::embedded) struct MapMessage {
    pub(super) own: Option<WireNode>,
    pub(super) relays: Option<RelayMap>,
    pub(super) peers: Option<Vec<WireNode>>,
    pub(super) changed: Vec<WireNode>,
    pub(super) removed: Vec<i64>,
    pub(super) patches: Vec<Patch>,
    pub(super) online: BTreeMap<i64, bool>,
    pub(super) filter: Option<Ruleset>,
    pub(super) named_filters: BTreeMap<String, Option<Ruleset>>,
    /// A question of the control server, to be answered.
    pub(in crate::embedded) ping: Option<Box<RawValue>>,
}

/// A message is no map.
#[derive(Debug, thiserror::Error)]
#[error("the control server sent a map that cannot be understood")]
pub(in crate::embedded) struct MalformedMap(#[from] serde_json::Error);

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Wire {
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
    #[serde(rename = "HomeDERP", default)]
    pub(super) home_derp: RegionId,
    /// The home relay in the form of older servers, `127.3.3.40:REGION`.
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
    #[serde(default)]
    pub(super) key_expiry: Option<String>,
    #[serde(default)]
    pub(super) online: Option<bool>,
}

impl MapMessage {
    pub(in crate::embedded) fn parse(json: &[u8]) -> Result<Self, MalformedMap> {
        let wire: Wire = serde_json::from_slice(json)?;
        Ok(Self {
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
            "the tailnet has too many peers"
        );
    }
    list.iter()
        .take(MAX_PEERS)
        .filter_map(|node| {
            serde_json::from_str(node.get())
                .inspect_err(|error| tracing::warn!(%error, "a peer that cannot be understood is left out"))
                .ok()
        })
        .collect()
}

fn rules(list: &[Box<RawValue>]) -> Ruleset {
    list.iter()
        .filter_map(|rule| {
            let rule = serde_json::from_str(rule.get())
                .inspect_err(|error| {
                    tracing::warn!(%error, "a rule of the packet filter is not understood and allows nothing");
                })
                .ok()?;
            ts_packetfilter_state::rule_to_pf(&rule)
        })
        .collect()
}

/// When a key expires; `None`: never.
pub(super) fn expiry(text: &str) -> Option<Timestamp> {
    let expiry: Timestamp = text.parse().ok()?;
    // The zero time of Go is "not set".
    (expiry > Timestamp::UNIX_EPOCH).then_some(expiry)
}
