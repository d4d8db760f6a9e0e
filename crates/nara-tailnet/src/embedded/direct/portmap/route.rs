//! The default gateway of this machine, and its changes.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::embedded::interfaces::{self, Addresses};

/// The polling interval of the routing table, which is also read when an address changes: a route may appear later than
/// its address.
const EVERY: Duration = Duration::from_secs(5);
/// The routing table of Linux. Other systems do not have this file, so they get no port mapping.
const TABLE: &str = "/proc/net/route";
/// The maximum number of bytes read of the table. Default routes come first, and a router may have a million others.
const TABLE_MAX: u64 = 64 * 1024;
/// The flags of a route that is up and has a gateway.
const UP_AND_GATEWAY: u32 = 0b11;

/// The gateway, and the address from which this machine reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) gateway: Ipv4Addr,
    pub(super) own: Ipv4Addr,
}

/// Keeps the route up to date. Never returns.
pub(super) async fn run(routes: watch::Sender<Option<Route>>, mut addresses: Addresses) {
    loop {
        let found = current();
        routes.send_if_modified(|old| {
            let differs = *old != found;
            *old = found;
            differs
        });
        tokio::select! {
            Ok(()) = addresses.changed() => {}
            () = sleep(EVERY) => {}
        }
    }
}

fn current() -> Option<Route> {
    let mut table = String::new();
    let file = std::fs::File::open(TABLE).ok()?;
    file.take(TABLE_MAX).read_to_string(&mut table).ok()?;
    let gateway = default_gateway(&table)?;
    usable(gateway, own_address(gateway)?, &interfaces::outward())
}

/// Returns the route if a mapping at this gateway can be useful.
///
/// A gateway with a public address is a router of the provider, and a machine with a public address needs no mapping.
/// If
/// the default source address differs, as with a VPN, answers to a mapped port would not return through the gateway.
fn usable(gateway: Ipv4Addr, own: Ipv4Addr, outward: &[IpAddr]) -> Option<Route> {
    let is_usable = gateway.is_private() && own.is_private() && outward.contains(&own.into());
    is_usable.then_some(Route { gateway, own })
}

/// Returns the gateway of the default route with the lowest metric.
fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        // The address in network byte order, printed as a native integer.
        let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
        let metric: u32 = metric.parse().ok()?;
        (flags & UP_AND_GATEWAY == UP_AND_GATEWAY).then(|| (metric, Ipv4Addr::from(gateway)))
    };
    let best = table.lines().filter_map(route).min_by_key(|(metric, _)| *metric);
    best.map(|(_, gateway)| gateway)
}

/// Returns the source address for the gateway. Connecting a UDP socket sends nothing.
fn own_address(gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(own) => Some(*own.ip()),
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn line(destination: &str, gateway: [u8; 4], flags: &str, metric: u32, mask: &str) -> String {
        let gateway = u32::from_ne_bytes(gateway);
        format!("eth0\t{destination}\t{gateway:08X}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
    }

    #[test]
    fn the_gateway_is_taken_from_the_default_route_with_the_lowest_metric() {
        let zero = "00000000";
        let table = [
            HEAD.to_owned(),
            line(zero, [192, 168, 7, 1], "0003", 600, zero),
            line(zero, [192, 168, 1, 1], "0003", 100, zero),
            // Down, without a gateway, and for one network only.
            line(zero, [192, 168, 2, 1], "0002", 0, zero),
            line(zero, [0, 0, 0, 0], "0001", 0, zero),
            line("0001A8C0", [192, 168, 3, 1], "0003", 0, "00FFFFFF"),
        ];
        let found = default_gateway(&table.concat());
        assert_eq!(found, Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(default_gateway(HEAD), None);
        assert_eq!(
            default_gateway("eth0 00000000 nonsense 0003 0 0 0 00000000"),
            None
        );
    }

    #[test]
    fn a_gateway_is_used_only_if_both_ends_are_private_and_packets_leave_through_it() {
        let [gateway, own, vpn, public]: [Ipv4Addr; 4] = [
            [192, 168, 1, 1].into(),
            [192, 168, 1, 2].into(),
            [10, 8, 0, 2].into(),
            [203, 0, 113, 9].into(),
        ];
        let route = Route { gateway, own };
        assert_eq!(usable(gateway, own, &[own.into()]), Some(route));
        assert_eq!(usable(gateway, own, &[vpn.into()]), None);
        assert_eq!(usable(public, own, &[own.into()]), None);
        assert_eq!(usable(gateway, public, &[public.into()]), None);
        // The router of a tailnet, or a carrier-grade NAT.
        assert_eq!(usable([100, 64, 0, 1].into(), own, &[own.into()]), None);
    }
}
