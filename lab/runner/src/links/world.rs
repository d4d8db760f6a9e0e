//! Two machines, each behind a router of its own, and the internet between them: network namespaces.
//!
//! ```text
//! machine a ── router a ══ emulated line ══ internet: control server, relay ── router b ── machine b
//! ```
//!
//! The internet is the namespace in which the lab runs. The addresses are those for documentation, but for a router that maps
//! ports: `miniupnpd` refuses to where its address is not public. It has one of a network for tests that is not in use (128.66.0.0/16).

use std::net::{IpAddr, Ipv4Addr};

use super::emulator::Emulator;
use super::grade::{Grade, Nat};
use super::mapper::Mapper;
use crate::space::{Space, shell};

/// Where the servers are.
pub(super) const SERVERS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The devices of the line, at the router and at the internet, until the first is moved and renamed.
const LINE: [&str; 2] = ["line0", "line1"];

/// See the module.
#[derive(Debug)]
pub(super) struct World {
    pub(super) machines: [Space; 2],
    routers: [Space; 2],
    mappers: Vec<Mapper>,
    line: Emulator,
}

impl World {
    pub(super) async fn start(grade: &Grade, nats: [Nat; 2], seed: u64) -> Result<Self, String> {
        let machines = [Space::new().await?, Space::new().await?];
        let routers = [Space::new().await?, Space::new().await?];
        let line = Emulator::start(LINE, grade.quality, seed)?;
        let [near, far] = LINE;
        let wan = [("198.51.100", "128.66.1"), ("203.0.113", "128.66.2")];
        let wan = [0, 1].map(|n| {
            if nats[n] == Nat::Mapping {
                wan[n].1
            } else {
                wan[n].0
            }
        });
        shell(&format!(
            "echo 1 > /proc/sys/net/ipv4/ip_forward
            ip addr replace {SERVERS}/32 dev lo
            ip link set {near} netns {} name wan
            ip addr add {}.1/24 dev {far}
            ip link set {far} up
            ip link add far0 type veth peer name wan netns {}
            ip addr add {}.1/24 dev far0
            ip link set far0 up",
            routers[0].pid(),
            wan[0],
            routers[1].pid(),
            wan[1]
        ))
        .await?;
        let mut mappers = Vec::new();
        for (n, (router, machine)) in routers.iter().zip(&machines).enumerate() {
            let (wan, lan) = (wan[n], format!("192.168.{}", n + 1));
            router
                .shell(&format!(
                    "echo 1 > /proc/sys/net/ipv4/ip_forward
                    ip link set lo up
                    ip addr add {wan}.2/24 dev wan
                    ip link set wan up
                    ip route add default via {wan}.1
                    ip link add lan type veth peer name eth0 netns {}
                    ip addr add {lan}.1/24 dev lan
                    ip link set lan up",
                    machine.pid()
                ))
                .await?;
            machine
                .shell(&format!(
                    "ip link set lo up
                    ip addr add {lan}.2/24 dev eth0
                    ip link set eth0 up
                    ip route add default via {lan}.1"
                ))
                .await?;
            if nats[n] == Nat::Open {
                shell(&format!("ip route add {lan}.0/24 via {wan}.2")).await?;
            } else {
                router.set_rules(&nats[n].rules()).await?;
            }
            if nats[n] == Nat::Mapping {
                mappers.push(Mapper::start(router).await?);
            }
        }
        Ok(Self {
            machines,
            routers,
            mappers,
            line,
        })
    }

    /// Ends it, so that another one can be started.
    pub(super) async fn end(self) {
        self.line.end().await;
        for mapper in self.mappers {
            mapper.end().await;
        }
        for space in self.machines.into_iter().chain(self.routers) {
            space.end().await;
        }
        // It goes with its other end, but not at once.
        let _ = shell("ip link del far0").await;
    }
}
