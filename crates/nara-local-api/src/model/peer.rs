//! Peers, as this nara knows them.

use std::collections::BTreeMap;
use std::time::Duration;

use nara_mesh::client::{PeerRef, PingReport};
use nara_mesh::registry::{KeyConflict, PeerEvent, PeerInfo, PeerRecord, PeerRegistry};
use nara_proto::clock_offset::ClockOffset;
use nara_proto::identity::{KeyId, PublicKey};
use nara_proto::presence::PresenceState;
use nara_proto::succession::KeyState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Coordinates, Reloaded};

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Peer {
    /// Its name, else its id, else its address.
    pub label: String,
    /// Its name.
    pub name: Option<String>,
    /// Its nara id.
    pub id: Option<String>,
    /// Its mesh address.
    pub address: Option<String>,
    /// The pinned public key, base64.
    pub public_key: Option<String>,
    /// The same key, as a key id.
    pub key_id: Option<String>,
    /// How the key was learned.
    pub key_source: Option<String>,
    /// When the key was learned, in Unix milliseconds.
    pub learned_at_ms: Option<i64>,
    /// What the operator decided: `trusted`, `untrusted` or `forgotten`.
    pub verdict: Option<String>,
    /// When the operator decided, in Unix milliseconds.
    pub decided_at_ms: Option<i64>,
    /// Whether it has proven signatures of profile v2.
    pub v2: bool,
    /// Whether it has proven TLS.
    pub tls: bool,
    /// Whether it has proven TLS with raw public keys.
    pub raw_public_key: bool,
    /// Its presence: `ONLINE`, `OFFLINE` (it said goodbye), `MISSING` or `UNKNOWN`.
    pub presence: String,
    /// Whether it is considered down, so that calls fail at once.
    pub is_down: bool,
    /// The path of packets to it, if the network reports it.
    pub path: Option<String>,
    /// The host name of its node on the network.
    pub host_name: Option<String>,
    /// How long ago its last sign of life was, in milliseconds.
    pub last_alive_ms: Option<u64>,
    /// The last measured round trip to it, in microseconds.
    pub rtt_us: Option<u64>,
    /// The round trip to it estimated from network coordinates, in microseconds.
    pub estimated_rtt_us: Option<u64>,
    /// How far its clock is ahead of ours, in nanoseconds, from its verified answers of the last ten minutes.
    pub clock_offset_ns: Option<i64>,
    /// The uncertainty of this offset, in nanoseconds.
    pub clock_uncertainty_ns: Option<u64>,
    /// Its claimed network coordinates: a hint only.
    pub coordinates: Option<Coordinates>,
    /// Whether it refuses signatures made with the key of this nara.
    #[serde(default)]
    pub refuses_own_key: bool,
    /// The key id that it has for this nara instead, if it reported one.
    #[serde(default)]
    pub known_own_key_id: Option<String>,
    /// Why none of its keys is valid, if so: `retired`, or `two-successors` if two statements about its key
    /// contradict each other.
    #[serde(default)]
    pub keyless: Option<String>,
}

/// Returns why none of a nara's keys is valid, if so.
fn keyless(registry: &PeerRegistry, name: &str) -> Option<String> {
    match registry.key_state(name)? {
        KeyState::Retired => Some("retired".to_owned()),
        KeyState::Conflict => Some("two-successors".to_owned()),
        KeyState::Holds(_) => None,
    }
}

/// The peers that refuse the key of this nara, and the key that they know instead.
pub(crate) struct OwnKeyRefusals(BTreeMap<String, Option<KeyId>>);

impl OwnKeyRefusals {
    pub(crate) fn of(registry: &PeerRegistry) -> Self {
        let refusal = |event: PeerEvent| match event {
            PeerEvent::OwnKeyRefused { peer, known, .. } => Some((peer.label(), known)),
            _ => None,
        };
        Self(
            registry
                .against_own_key()
                .into_iter()
                .filter_map(refusal)
                .collect(),
        )
    }
}

impl Peer {
    /// Returns an unambiguous reference to this peer: a name may look like the id or the address of another
    /// nara.
    pub fn reference(&self) -> &str {
        let is_name = |name: &&str| matches!(name.parse(), Ok(PeerRef::Name(_)));
        let name = self.name.as_deref().filter(is_name);
        name.or(self.id.as_deref())
            .or(self.address.as_deref())
            .unwrap_or(&self.label)
    }

    /// Describes a peer from the registry.
    pub fn of(info: &PeerInfo, presence: PresenceState) -> Self {
        let key = info.key.as_ref();
        Self {
            label: info.label(),
            name: info.name.as_ref().map(ToString::to_string),
            id: info.id.as_ref().map(ToString::to_string),
            address: info.address.as_ref().map(ToString::to_string),
            public_key: key.map(|pinned| pinned.key.to_base64()),
            key_id: key.map(|pinned| KeyId::from(&pinned.key).to_string()),
            key_source: key.map(|pinned| pinned.source.to_string()),
            learned_at_ms: key.map(|pinned| pinned.learned_at.get()),
            verdict: info.decision.map(|decision| decision.verdict.as_str().to_owned()),
            decided_at_ms: info.decision.map(|decision| decision.at.get()),
            v2: info.protocol.v2,
            tls: info.protocol.tls,
            raw_public_key: info.protocol.raw_public_key,
            presence: presence.as_str().to_owned(),
            ..Self::default()
        }
    }

    /// Describes a peer from the registry, with measurements.
    pub(crate) fn measured(registry: &PeerRegistry, peer: &nara_mesh::registry::Peer) -> Self {
        let clock = peer.clock_offset();
        Self {
            is_down: peer.retry_after().is_some(),
            last_alive_ms: peer
                .last_alive()
                .and_then(|ago| u64::try_from(ago.as_millis()).ok()),
            rtt_us: peer.measured_rtt().map(micros),
            estimated_rtt_us: registry.estimated_rtt(peer).map(micros),
            clock_offset_ns: clock.map(|clock| clock.nanos()),
            clock_uncertainty_ns: clock.and_then(|clock| u64::try_from(clock.uncertainty().as_nanos()).ok()),
            coordinates: peer.told_coordinates().map(Into::into),
            ..Self::of(&peer.info(), peer.presence()).stated(registry)
        }
    }

    /// Adds what the peer has stated about its keys.
    #[must_use]
    pub fn stated(mut self, registry: &PeerRegistry) -> Self {
        self.keyless = self.name.as_deref().and_then(|name| keyless(registry, name));
        self
    }

    /// Adds the path of its packets.
    #[must_use]
    pub fn on(mut self, way: Option<Way>) -> Self {
        if let Some(way) = way {
            self.path = Some(way.path);
            self.host_name = way.host_name;
        }
        self
    }

    /// Adds what it says about the key of this nara.
    #[must_use]
    pub(crate) fn about(mut self, refusals: &OwnKeyRefusals) -> Self {
        if let Some(known) = refusals.0.get(&self.label) {
            self.refuses_own_key = true;
            self.known_own_key_id = known.map(|known| known.to_string());
        }
        self
    }

    /// Returns whether the operator banned it.
    pub fn is_untrusted(&self) -> bool {
        self.verdict.as_deref() == Some("untrusted")
    }
}

/// The path of packets to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Way {
    /// The path, in words.
    pub path: String,
    /// The host name of the node on the network.
    pub host_name: Option<String>,
}

/// The answer of a peer to the question for another nara. It is not signed, and nothing is pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hearsay {
    /// The name of the sought nara.
    pub name: String,
    /// Its public key, base64.
    pub public_key: String,
    /// Its address on the mesh, without a port, if the peer knows it.
    pub mesh_ip: Option<String>,
}

/// Peers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerList {
    /// The peers, by label.
    pub peers: Vec<Peer>,
}

/// The answer of a peer to a ping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Pong {
    /// The label of the peer.
    pub peer: String,
    /// From the first byte of the request to the last byte of the answer, in microseconds, without dialling.
    pub rtt_us: u64,
    /// The round trip estimated from network coordinates, in microseconds, if requested and both sides have
    /// coordinates.
    pub estimated_rtt_us: Option<u64>,
    /// How long dialling took, in microseconds, if the call had to dial.
    pub dial_us: Option<u64>,
    /// How far its clock is ahead of ours, in nanoseconds.
    pub clock_offset_ns: Option<i64>,
    /// The uncertainty of this offset, in nanoseconds.
    pub clock_uncertainty_ns: Option<u64>,
    /// Whether a signature proves the offset; otherwise it comes from an unsigned answer.
    pub clock_proven: bool,
    /// The name that it reported, unsigned.
    pub name: String,
    /// The public key that it reported, base64.
    pub public_key: String,
    /// The same key, as a key id; missing if it is malformed.
    pub key_id: Option<String>,
    /// Whether this key is the pinned one; missing if none is pinned.
    pub key_matches: Option<bool>,
    /// How the connection was protected: `plain`, `tls x509` or `tls raw key`.
    pub security: String,
    /// The signature profile that it announces with its key: `v1` or `v2`.
    pub signs: String,
    /// The pinned key and the reported one, if they differ.
    pub conflict: Option<Conflict>,
    /// The path of packets to it, if the network reports it.
    pub path: Option<String>,
    /// The host name of its node on the network.
    pub host_name: Option<String>,
    /// Why none of its keys is valid, if so: see `Peer`.
    #[serde(default)]
    pub keyless: Option<String>,
}

impl Pong {
    /// Describes the result of a ping; `known` is the registry's data about the peer.
    pub fn of(peer: &str, report: &PingReport, known: Option<&PeerInfo>) -> Self {
        let key = PublicKey::from_base64(&report.response.public_key).ok();
        let is_v2 = report.capability.as_ref().is_some_and(|capability| capability.v2);
        let pinned = known.and_then(|known| Some((known.key.clone()?, known.address?)));
        let conflict = match (key, pinned) {
            (Some(offered), Some((pinned, address))) if report.key_matches == Some(false) => {
                Some(Conflict::of(&KeyConflict {
                    name: pinned.name.clone(),
                    pinned: Box::new(pinned),
                    offered,
                    offered_by: nara_mesh::registry::KeySource::Ping(address),
                }))
            }
            _ => None,
        };
        let mut pong = Self {
            peer: peer.to_owned(),
            rtt_us: micros(report.rtt),
            estimated_rtt_us: None,
            dial_us: report.dial.map(micros),
            clock_offset_ns: None,
            clock_uncertainty_ns: None,
            clock_proven: false,
            name: report.response.from.clone(),
            public_key: report.response.public_key.clone(),
            key_id: key.map(|key| KeyId::from(&key).to_string()),
            key_matches: report.key_matches,
            security: report.security.to_string(),
            signs: if is_v2 { "v2" } else { "v1" }.to_owned(),
            conflict,
            path: None,
            host_name: None,
            keyless: None,
        };
        if let Some(offset) = report.clock_offset {
            pong.set_clock(offset, report.clock_proven);
        }
        pong
    }

    /// Adds what the peer has stated about its keys; then there is no key to choose.
    #[must_use]
    pub fn stated(mut self, registry: &PeerRegistry) -> Self {
        self.keyless = keyless(registry, &self.name);
        self
    }

    /// Sets the round trip estimated from network coordinates.
    pub(crate) fn set_estimate(&mut self, estimate: Option<Duration>) {
        self.estimated_rtt_us = estimate.map(micros);
    }

    /// Replaces the offset of its clock.
    pub fn set_clock(&mut self, offset: ClockOffset, proven: bool) {
        self.clock_offset_ns = Some(offset.nanos());
        self.clock_uncertainty_ns = u64::try_from(offset.uncertainty().as_nanos()).ok();
        self.clock_proven = proven;
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A key other than the pinned one was offered for a name. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conflict {
    /// The name.
    pub name: String,
    /// The pinned key.
    pub pinned_key_id: String,
    /// How it was learned.
    pub pinned_source: String,
    /// The offered key.
    pub offered_key_id: String,
    /// The source of the offer.
    pub offered_by: String,
    /// The whole conflict, in words.
    pub text: String,
}

impl Conflict {
    /// Describes a conflict found by the registry.
    pub fn of(conflict: &KeyConflict) -> Self {
        Self {
            name: conflict.name.to_string(),
            pinned_key_id: KeyId::from(&conflict.pinned.key).to_string(),
            pinned_source: conflict.pinned.source.to_string(),
            offered_key_id: KeyId::from(&conflict.offered).to_string(),
            offered_by: conflict.offered_by.to_string(),
            text: conflict.to_string(),
        }
    }
}

/// A decision to trust a key of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trust {
    /// Its public key (base64) or key id; without it, the known key.
    #[serde(default)]
    pub key: Option<String>,
    /// Whether to replace a different pinned key, and to forget the protocols that the peer has proven with
    /// it.
    #[serde(default)]
    pub replace: bool,
}

/// The stored data about a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Record {
    /// Its name.
    pub name: String,
    /// Its nara id.
    pub id: Option<String>,
    /// The pinned public key, base64.
    pub public_key: Option<String>,
    /// The same key, as a key id.
    pub key_id: Option<String>,
    /// How the key was learned.
    pub key_source: Option<String>,
    /// When the key was learned, in Unix milliseconds.
    pub learned_at_ms: Option<i64>,
    /// Whether it has proven signatures of profile v2.
    pub v2: bool,
    /// Whether it has proven TLS.
    pub tls: bool,
    /// Whether it has proven TLS with raw public keys.
    pub raw_public_key: bool,
    /// What the operator decided: `trusted`, `untrusted` or `forgotten`.
    pub verdict: Option<String>,
    /// When the operator decided, in Unix milliseconds.
    pub decided_at_ms: Option<i64>,
}

impl Record {
    /// Describes a record of a ledger.
    pub fn of(record: &PeerRecord) -> Self {
        let key = record.key.as_ref();
        Self {
            name: record.name.to_string(),
            id: record.id.as_ref().map(ToString::to_string),
            public_key: key.map(|key| key.key.to_base64()),
            key_id: key.map(|key| KeyId::from(&key.key).to_string()),
            key_source: key.map(|key| key.source.to_string()),
            learned_at_ms: key.map(|key| key.learned_at.get()),
            v2: record.protocol.v2,
            tls: record.protocol.tls,
            raw_public_key: record.protocol.raw_public_key,
            verdict: record
                .decision
                .map(|decision| decision.verdict.as_str().to_owned()),
            decided_at_ms: record.decision.map(|decision| decision.at.get()),
        }
    }
}

/// The result of a decision of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// The stored peers after the decision.
    pub peers: Vec<Record>,
    /// The effective state of the nara.
    pub running: Reloaded,
}

/// The result of removing introduced naras.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// The names of the removed naras, which were known only by introduction.
    pub peers: Vec<String>,
}

/// A change of a peer, as a server-sent event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct PeerChanged {
    /// The change: `added`, `address_changed`, `address_mismatch`, `clock_skew`, `decided`, `down`,
    /// `downgrade`, `key_changed`, `key_conflict`, `key_pinned`, `key_refused`, `removed`, `up`, or `missed`
    /// if changes came faster than they were read.
    pub change: String,
    /// The peer.
    pub peer: Option<Peer>,
    /// The conflict, if the change is one.
    pub conflict: Option<Conflict>,
}
