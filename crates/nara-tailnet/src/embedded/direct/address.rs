//! The policy for addresses of direct paths.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Returns whether an address belongs to a tailnet: a direct path must not lead through the tailnet itself.
fn is_tailnet_address(ip: IpAddr) -> bool {
    match ip {
        // 100.64.0.0/10
        IpAddr::V4(ip) => ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        // fd7a:115c:a1e0::/48
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// The policy that decides which advertised addresses are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::embedded) struct Policy {
    /// Whether loopback addresses are allowed. For tests only: a peer could direct packets to local services that
    /// trust every local sender.
    pub(in crate::embedded) loopback: bool,
}

impl Policy {
    /// Returns the address in canonical form; `None` if a node cannot have it.
    pub(super) fn usable(self, address: SocketAddr) -> Option<SocketAddr> {
        let ip = address.ip().to_canonical();
        let is_usable = match ip {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast() && ip.octets()[0] != 0,
            IpAddr::V6(ip) => !is_link_local(ip),
        } && !ip.is_unspecified()
            && !ip.is_multicast()
            && (self.loopback || !ip.is_loopback())
            && !is_tailnet_address(ip)
            && address.port() != 0;
        is_usable.then(|| SocketAddr::new(ip, address.port()))
    }
}

/// Returns whether an address is globally routable IPv4. Documentation addresses count, because the lab uses them.
pub(super) fn is_public(address: SocketAddr) -> bool {
    let SocketAddr::V4(four) = address else {
        return false;
    };
    let reserved = match four.ip().octets() {
        // IPv4 service continuity (RFC 7335), benchmarks (RFC 2544), reserved (RFC 1112).
        [192, 0, 0, _] | [198, 18 | 19, _, _] | [240..=255, ..] => true,
        _ => four.ip().is_private(),
    };
    !reserved && Policy::default().usable(address) == Some(address)
}

/// Returns whether an address is link-local: it is useless without an interface, which a peer cannot know.
fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_other_machines_are_used() {
        let usable = |text: &str| Policy::default().usable(text.parse().unwrap());
        for good in [
            "192.168.1.7:1",
            "203.0.113.9:41641",
            "[2001:db8::1]:9",
            "100.1.2.3:5",
            "[fd00::1]:5",
        ] {
            assert_eq!(usable(good), Some(good.parse().unwrap()), "{good}");
        }
        assert_eq!(
            usable("[::ffff:192.0.2.1]:5"),
            Some("192.0.2.1:5".parse().unwrap())
        );
        for bad in [
            "0.0.0.0:1",
            "0.1.2.3:1",
            "[::]:1",
            "127.0.0.1:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "169.254.1.1:1",
            "[fe80::1]:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "255.255.255.255:1",
            "100.64.0.1:1",
            "100.127.255.255:1",
            "[fd7a:115c:a1e0::1]:1",
            "192.0.2.1:0",
        ] {
            assert_eq!(usable(bad), None, "{bad}");
        }
        let lab = Policy { loopback: true };
        assert!(lab.usable("127.0.0.1:1".parse().unwrap()).is_some());
    }

    #[test]
    fn a_public_address_is_one_that_the_internet_routes() {
        for good in ["203.0.113.9:41641", "8.8.8.8:1", "100.1.2.3:5", "192.0.1.1:5"] {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "10.0.0.1:1",
            "172.16.0.1:1",
            "192.168.1.1:1",
            "100.64.0.1:1",
            "127.0.0.1:1",
            "169.254.0.1:1",
            "0.0.0.0:1",
            "192.0.0.2:1",
            "198.19.0.1:1",
            "224.0.0.1:1",
            "240.0.0.1:1",
            "255.255.255.255:1",
            "203.0.113.9:0",
            "[2001:db8::1]:1",
            "[::ffff:203.0.113.9]:1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
    }
}
