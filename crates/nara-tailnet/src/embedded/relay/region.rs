//! The relay map of a tailnet: regions and their servers, as listed by the control server.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Deserialize;

use crate::embedded::tls::Pin;
use crate::embedded::underlay::RegionId;

/// All regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::embedded) struct RelayMap(pub(in crate::embedded) BTreeMap<RegionId, Region>);

/// A region and its servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct Region {
    /// Its short name, such as `fra`.
    pub(in crate::embedded) code: String,
    /// Whether the region may be chosen as home.
    pub(in crate::embedded) may_be_home: bool,
    pub(in crate::embedded) servers: Vec<Server>,
}

/// A server of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct Server {
    pub(in crate::embedded) host_name: String,
    /// The name in its certificate.
    pub(in crate::embedded) certificate_name: String,
    pub(in crate::embedded) pin: Option<Pin>,
    pub(in crate::embedded) port: u16,
    /// The UDP port of its STUN server, if any.
    pub(in crate::embedded) stun_port: Option<u16>,
    /// Its addresses, if its host name must not be resolved.
    pub(in crate::embedded) addresses: Vec<IpAddr>,
}

/// The maximum number of regions; more are ignored.
const MAX_REGIONS: usize = 256;
/// The maximum number of servers per region; more are ignored.
const MAX_SERVERS: usize = 16;
/// The port of STUN (RFC 8489, section 18.6).
const STUN_PORT: u16 = 3478;
const PIN_PREFIX: &str = "sha256-raw:";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::embedded) struct WireMap {
    #[serde(default)]
    regions: Option<BTreeMap<RegionId, Option<WireRegion>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct WireRegion {
    region_code: String,
    no_measure_no_home: bool,
    avoid: bool,
    nodes: Option<Vec<WireServer>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireServer {
    host_name: String,
    cert_name: String,
    #[serde(rename = "IPv4")]
    ipv4: String,
    #[serde(rename = "IPv6")]
    ipv6: String,
    #[serde(rename = "STUNOnly")]
    stun_only: bool,
    #[serde(rename = "DERPPort")]
    derp_port: u16,
    #[serde(rename = "STUNPort")]
    stun_port: i32,
}

impl From<WireMap> for RelayMap {
    fn from(wire: WireMap) -> Self {
        let regions = wire.regions.unwrap_or_default().into_iter().take(MAX_REGIONS);
        Self(
            regions
                .filter_map(|(id, region)| Some((id, region?)))
                .map(|(id, region)| {
                    let servers = region.nodes.unwrap_or_default().into_iter();
                    let region = Region {
                        code: region.region_code,
                        may_be_home: !(region.no_measure_no_home || region.avoid),
                        servers: servers.filter_map(server).take(MAX_SERVERS).collect(),
                    };
                    (id, region)
                })
                .filter(|(_, region)| !region.servers.is_empty())
                .collect(),
        )
    }
}

/// Parses a server; `None` if it does not relay or is malformed.
fn server(wire: WireServer) -> Option<Server> {
    if wire.stun_only || wire.derp_port == u16::MAX {
        return None;
    }
    let pin = match wire.cert_name.strip_prefix(PIN_PREFIX) {
        None => None,
        // A malformed pin must not weaken to "any certificate for that host name".
        Some(pin) => Some(hex::decode(pin.trim()).ok()?.try_into().ok()?),
    };
    // A literal address replaces the DNS lookup; "none" disables the family.
    let mut addresses: Vec<IpAddr> = Vec::new();
    addresses.extend(wire.ipv4.parse::<Ipv4Addr>().map(IpAddr::V4));
    addresses.extend(wire.ipv6.parse::<Ipv6Addr>().map(IpAddr::V6));
    let is_pinned_or_unnamed = pin.is_some() || wire.cert_name.is_empty();
    Some(Server {
        certificate_name: if is_pinned_or_unnamed {
            wire.host_name.clone()
        } else {
            wire.cert_name
        },
        host_name: wire.host_name,
        pin,
        port: if wire.derp_port == 0 { 443 } else { wire.derp_port },
        stun_port: match wire.stun_port {
            0 => Some(STUN_PORT),
            // -1 means none.
            port => u16::try_from(port).ok(),
        },
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> RelayMap {
        RelayMap::from(serde_json::from_str::<WireMap>(json).unwrap())
    }

    #[test]
    fn addresses_ports_and_names_are_read() {
        let map = parse(
            r#"{"Regions":{"900":{"RegionID":900,"RegionCode":"lab","Nodes":[
                {"Name":"900a","RegionID":900,"HostName":"relay.example","CertName":"cert.example",
                 "IPv4":"127.0.0.1","IPv6":"none","DERPPort":18443,"Unknown":[1,"\u003c"]},
                {"HostName":"stun.example","STUNOnly":true}]},
              "901":{"RegionCode":"far","NoMeasureNoHome":true,"Nodes":[{"HostName":"b.example"}]},
              "902":{"RegionCode":"empty","Nodes":null}, "903":null}}"#,
        );
        assert_eq!(map.0.keys().copied().collect::<Vec<_>>(), [900, 901]);
        let lab = &map.0[&900];
        assert!(lab.may_be_home);
        assert_eq!(
            lab.servers,
            [Server {
                host_name: "relay.example".to_owned(),
                certificate_name: "cert.example".to_owned(),
                pin: None,
                port: 18443,
                stun_port: Some(3478),
                addresses: vec!["127.0.0.1".parse().unwrap()],
            }]
        );
        assert!(!map.0[&901].may_be_home);
        assert_eq!(map.0[&901].servers[0].port, 443);
        assert!(map.0[&901].servers[0].addresses.is_empty());
    }

    #[test]
    fn a_pin_is_32_bytes_or_the_server_is_not_used() {
        let pin = "ab".repeat(32);
        for (name, servers) in [(pin.as_str(), 1), ("abcd", 0), ("", 0), ("zz", 0)] {
            let map = parse(&format!(
                r#"{{"Regions":{{"1":{{"Nodes":[{{"HostName":"h","CertName":"sha256-raw:{name}"}}]}}}}}}"#
            ));
            let found: Vec<_> = map.0.values().flat_map(|region| &region.servers).collect();
            assert_eq!(found.len(), servers, "{name}");
            assert!(found.iter().all(|server| server.pin == Some([0xab; 32])));
        }
    }

    #[test]
    fn the_port_of_stun_is_usual_other_or_none() {
        for (port, expected) in [
            ("0", Some(3478)),
            ("13478", Some(13478)),
            ("-1", None),
            ("70000", None),
        ] {
            let map = parse(&format!(
                r#"{{"Regions":{{"1":{{"Nodes":[{{"HostName":"h","STUNPort":{port}}}]}}}}}}"#
            ));
            assert_eq!(map.0[&1].servers[0].stun_port, expected, "{port}");
        }
    }

    #[test]
    fn a_map_without_regions_is_empty() {
        assert_eq!(parse("{}"), RelayMap::default());
        assert_eq!(parse(r#"{"Regions":null}"#), RelayMap::default());
    }
}
