//! Two machines behind routers, and the internet, as network namespaces.
//!
//! ```text
//! machine a ── router a ══ emulated line ══ internet: control server, relay ── router b ── machine b
//! ```
//!
//! The second machine may be behind router a too. The internet is the namespace of the lab itself. Addresses are from
//! the documentation ranges, except for the servers and for routers that map ports: `miniupnpd` requires a public
//! address, so they use an unassigned test network (128.66.0.0/16).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::emulator::Emulator;
use super::grade::{Grade, Nat, Place, Way};
use super::line::Quality;
use super::mapper::Mapper;
use crate::space::{Space, set_rules, shell};

/// The address of the servers. After a failure, Go nodes require TLS unless the address is private.
pub(super) const SERVERS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
/// The address of the relay over IPv6, if available.
const SERVERS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The devices of the line, at the router and at the internet, until the first is moved and renamed.
const LINE: [&str; 2] = ["line0", "line1"];
/// The devices of the internet towards the routers.
const TOWARDS: [&str; 2] = [LINE[1], "far0"];
/// The networks of the routers' addresses, without and with port mapping.
const WAN: [(&str, &str); 2] = [("198.51.100", "128.66.1"), ("203.0.113", "128.66.2")];

/// The device queue in packets. Only the emulator may drop packets; the default of 500 overflows before they reach it.
const DEVICE_QUEUE: u32 = 20_000;

/// Blocks ICMP errors for large packets, as on many real paths. The TCP of the machine itself learns the MTU from its
/// router.
const SILENT: &str = "table ip silent {
  chain leaving {
    type filter hook output priority filter
    icmp type destination-unreachable drop
  }
  chain passing {
    type filter hook forward priority mangle
    tcp flags syn tcp option maxseg size set rt mtu
  }
}
";

/// A device cannot find neighbours until duplicate address detection has finished.
const UNTIL_USABLE: &str = "while ip addr show tentative | grep -q inet6; do sleep 0.1; done";

/// The namespaces of a measurement; see the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) machines: [Space; 2],
    /// The address of the relay over IPv6.
    pub(super) host6: Option<IpAddr>,
    routers: Vec<Space>,
    mappers: Vec<Mapper>,
    line: Emulator,
}

impl World {
    pub(super) async fn start(grade: &Grade, place: Place, seed: u64) -> Result<Self, String> {
        let machines = [Space::new().await?, Space::new().await?];
        let mut quality = grade.quality;
        if let Way::Narrow(mtu) = place.way {
            quality = Quality { mtu, ..quality };
        }
        let mut world = Self {
            machines,
            host6: (place.way == Way::Six).then_some(IpAddr::V6(SERVERS6)),
            routers: Vec::new(),
            mappers: Vec::new(),
            line: Emulator::start(LINE, quality, seed)?,
        };
        shell(&format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
            ip addr replace {SERVERS}/32 dev lo
            ip link set {} txqueuelen {DEVICE_QUEUE}
            ip link set {} txqueuelen {DEVICE_QUEUE}",
            LINE[0], LINE[1]
        ))
        .await?;
        if world.host6.is_some() {
            shell(&format!(
                "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                ip addr replace {SERVERS6}/128 dev lo"
            ))
            .await?;
        }
        for n in 0..if place.is_together() { 1 } else { 2 } {
            world.add_router(n, place).await?;
        }
        for n in 0..2 {
            world.connect(n, place).await?;
        }
        for (n, router) in world.routers.iter().enumerate() {
            let (wan, nat) = (wan(n, place), place.nats[n]);
            if nat == Nat::Open {
                shell(&format!("ip route add 192.168.{}.0/24 via {wan}.2", n + 1)).await?;
            } else {
                router.set_rules(&nat.rules(&format!("{wan}.2"))).await?;
            }
            if nat == Nat::Mapping {
                world.mappers.push(Mapper::start(router).await?);
            }
        }
        if world.host6.is_some() {
            for space in world.routers.iter().chain(&world.machines) {
                space.shell(UNTIL_USABLE).await?;
            }
        }
        if let Way::Narrow(_) = place.way {
            world.routers[0].set_rules(SILENT).await?;
            set_rules(SILENT).await?;
        }
        Ok(world)
    }

    /// Adds a router between the internet and the machines, without rules.
    async fn add_router(&mut self, n: usize, place: Place) -> Result<(), String> {
        let router = Space::new().await?;
        let (wan, towards, net6) = (wan(n, place), TOWARDS[n], n + 1);
        let made = match n {
            0 => format!("ip link set {} netns {} name wan", LINE[0], router.pid()),
            _ => format!(
                "ip link add {towards} type veth peer name wan netns {}",
                router.pid()
            ),
        };
        shell(&format!(
            "{made}
            ip addr add {wan}.1/24 dev {towards}
            ip link set {towards} up"
        ))
        .await?;
        router
            .shell(&format!(
                "echo 1 > /proc/sys/net/ipv4/ip_forward
                ip link set lo up
                ip addr add {wan}.2/24 dev wan
                ip link set wan up
                ip route add default via {wan}.1"
            ))
            .await?;
        if self.host6.is_some() {
            shell(&format!(
                "ip addr add 2001:db8:{net6}::1/64 dev {towards} nodad
                ip route add 2001:db8:1{net6}::/64 via 2001:db8:{net6}::2"
            ))
            .await?;
            router
                .shell(&format!(
                    "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
                    ip addr add 2001:db8:{net6}::2/64 dev wan nodad
                    ip route add default via 2001:db8:{net6}::1"
                ))
                .await?;
        }
        if place.is_together() {
            // Frames on the switch must bypass the router's rules.
            let filtered = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            router
                .shell(&format!(
                    "ip link add lan type bridge
                    if [ -e {filtered} ]; then echo 0 > {filtered}; fi"
                ))
                .await?;
        }
        self.routers.push(router);
        Ok(())
    }

    /// Connects a machine to its router.
    async fn connect(&self, n: usize, place: Place) -> Result<(), String> {
        let behind = if place.is_together() { 0 } else { n };
        let (machine, router) = (&self.machines[n], &self.routers[behind]);
        let (net, host, pid) = (behind + 1, n - behind + 2, machine.pid());
        let made = if place.is_together() {
            let isolated = if place.way == Way::Isolated { "on" } else { "off" };
            format!(
                "ip link add port{n} type veth peer name eth0 netns {pid}
                ip link set port{n} master lan
                ip link set port{n} type bridge_slave isolated {isolated}
                ip link set port{n} up"
            )
        } else {
            format!("ip link add lan type veth peer name eth0 netns {pid}")
        };
        router
            .shell(&format!(
                "{made}
                ip addr replace 192.168.{net}.1/24 dev lan
                ip link set lan up"
            ))
            .await?;
        machine
            .shell(&format!(
                "ip link set lo up
                ip addr add 192.168.{net}.{host}/24 dev eth0
                ip link set eth0 up
                ip route add default via 192.168.{net}.1"
            ))
            .await?;
        if self.host6.is_none() {
            return Ok(());
        }
        let net6 = format!("2001:db8:1{net}:");
        router
            .shell(&format!("ip addr add {net6}:1/64 dev lan nodad"))
            .await?;
        machine
            .shell(&format!(
                "ip addr add {net6}:{host}/64 dev eth0 nodad
                ip route add default via {net6}:1"
            ))
            .await
    }

    /// Lets router a drop matching forwarded packets; `which` is the condition of an nftables rule.
    pub(super) async fn drop_packets(&self, which: &str) -> Result<(), String> {
        let rules = format!(
            "table ip trouble {{
  chain passing {{
    type filter hook forward priority filter - 1
    {which} drop
  }}
}}
"
        );
        self.routers[0].set_rules(&rules).await
    }

    /// Lets router a forward all packets again.
    pub(super) async fn drop_nothing(&self) -> Result<(), String> {
        self.routers[0].shell("nft delete table ip trouble").await
    }

    /// Replaces the external address of router a, which does NAT.
    pub(super) async fn move_router(&self, host: u8) -> Result<(), String> {
        let (wan, _) = WAN[0];
        self.routers[0]
            .shell(&format!(
                "ip addr flush dev wan
                ip addr add {wan}.{host}/24 dev wan
                ip route add default via {wan}.1"
            ))
            .await
    }

    /// Moves machine a to another network with a new address.
    pub(super) async fn move_machine(&self, net: u8) -> Result<(), String> {
        self.routers[0]
            .shell(&format!(
                "ip addr flush dev lan
                ip addr add 192.168.{net}.1/24 dev lan"
            ))
            .await?;
        self.machines[0]
            .shell(&format!(
                "ip addr flush dev eth0
                ip addr add 192.168.{net}.2/24 dev eth0
                ip route add default via 192.168.{net}.1"
            ))
            .await
    }

    /// Removes the namespaces and devices, so that another world can be started.
    pub(super) async fn end(self) {
        self.line.end().await;
        for mapper in self.mappers {
            mapper.end().await;
        }
        for space in self.machines.into_iter().chain(self.routers) {
            space.end().await;
        }
        // The device disappears with its other end, but with a delay, and may not exist.
        let _ = shell(&format!("ip link del {}", TOWARDS[1])).await;
        let _ = shell("nft delete table ip silent").await;
    }
}

/// Returns the network of a router's external address.
fn wan(n: usize, place: Place) -> &'static str {
    let (usual, public) = WAN[n];
    match place.nats[n] {
        Nat::Mapping => public,
        _ => usual,
    }
}
