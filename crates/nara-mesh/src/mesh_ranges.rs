//! The address ranges of a mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses of a tailnet: the shared address space of RFC 6598 for its nodes, and its unique local IPv6 prefix.
pub(crate) const TAILNET: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0),
        48,
    )),
];

/// The loopback addresses of this machine.
pub(crate) const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Returns whether an address is in one of the ranges. An IPv4-mapped IPv6 address counts as the IPv4 address.
pub(crate) fn contain(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tailnet_has_exactly_its_two_ranges() {
        for inside in [
            "100.64.0.0",
            "100.127.255.255",
            "::ffff:100.64.0.1",
            "fd7a:115c:a1e0::1",
            "fd7a:115c:a1e0:ffff::1",
        ] {
            assert!(contain(&TAILNET, inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "100.63.255.255",
            "100.128.0.0",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            // An obsolete form of mapping, which is not routed.
            "::100.64.0.1",
            "fd7a:115c:a1e1::1",
            "::1",
        ] {
            assert!(!contain(&TAILNET, outside.parse().unwrap()), "{outside}");
        }
    }
}
