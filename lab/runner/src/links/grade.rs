//! The measured lines and NATs.

use std::fmt;
use std::time::Duration;

use super::line::Quality;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn mbit(mbit: u64) -> u64 {
    mbit * 1_000_000 / 8
}

/// The line of the client machine. The other machine and the servers have ideal lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grade {
    pub(crate) name: &'static str,
    /// The quality in each direction, so a round trip takes twice the delay.
    pub(crate) quality: Quality,
    /// The number of bytes sent each way to measure throughput: several seconds on the line.
    pub(crate) blob: usize,
}

/// The lines, from the best to the worst.
pub(crate) const GRADES: [Grade; 5] = [
    Grade {
        name: "lan",
        quality: Quality::perfect(ms(0), mbit(1000), 1 << 20),
        blob: 32 << 20,
    },
    Grade {
        name: "home",
        // Consumer routers queue about 100 ms.
        quality: Quality::perfect(ms(10), mbit(50), 640 << 10),
        blob: 16 << 20,
    },
    Grade {
        name: "mobile",
        quality: Quality {
            jitter: ms(15),
            loss: 0.01,
            ..Quality::perfect(ms(40), mbit(20), 512 << 10)
        },
        blob: 2 << 20,
    },
    Grade {
        name: "bad",
        quality: Quality {
            jitter: ms(10),
            loss: 0.05,
            duplicates: 0.001,
            overtaken: 0.01,
            ..Quality::perfect(ms(100), mbit(5), 128 << 10)
        },
        blob: 512 << 10,
    },
    Grade {
        name: "satellite",
        quality: Quality {
            loss: 0.001,
            ..Quality::perfect(ms(300), mbit(20), 1 << 20)
        },
        blob: 4 << 20,
    },
];

/// The router between a machine and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A router without NAT.
    Open,
    /// A NAT that maps a socket to the same port for all destinations, with a firewall.
    Easy,
    /// A NAT that maps a socket to another port for each destination, with a firewall.
    Hard,
    /// An easy NAT that blocks UDP.
    NoUdp,
    /// A hard NAT whose router supports port mapping.
    Mapping,
    /// An easy NAT with hairpinning: it forwards packets from inside to its own external address.
    Turning,
}

impl Nat {
    /// Returns the nftables rules of a router with this external address on the device `wan`.
    pub(super) fn rules(self, address: &str) -> String {
        let (masquerade, udp) = match self {
            Self::Open => return String::new(),
            Self::Easy | Self::Turning => ("masquerade", ""),
            Self::Hard | Self::Mapping => ("masquerade fully-random", ""),
            Self::NoUdp => ("masquerade", "ip protocol udp drop"),
        };
        // The port mapping daemon fills chains of its own, in a table for both families.
        let turned = format!("iifname lan oifname lan ct status dnat snat to {address}");
        let [family, mapped, leaving, passing] = match self {
            // The port of a socket is recorded when a packet leaves.
            Self::Turning => [
                "ip",
                "  map sockets {
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout 10m
  }
  chain left {
    type filter hook postrouting priority srcnat + 10
    oifname wan ip protocol udp ct direction original \
      update @sockets { udp sport : ct original ip saddr . ct original proto-src }
  }
  chain turning {
    type nat hook prerouting priority dstnat
    iifname lan fib daddr type local ip protocol udp dnat ip to udp dport map @sockets
  }
",
                &turned,
                "",
            ],
            Self::Mapping => [
                "inet",
                "  chain leaving_mapped {
  }
  chain arriving_mapped {
  }
  chain passing_mapped {
  }
  chain mapping {
    type nat hook prerouting priority dstnat
    jump arriving_mapped
  }
",
                "jump leaving_mapped",
                "jump passing_mapped",
            ],
            _ => ["ip", "", "", ""],
        };
        // Unsolicited packets from the internet must not create conntrack entries: these would occupy the port that the
        // other end expects.
        format!(
            "table {family} router {{
{mapped}  chain leaving {{
    type nat hook postrouting priority srcnat
    {leaving}
    oifname wan {masquerade}
  }}
  chain arriving {{
    type filter hook input priority filter
    iifname wan ct state new drop
  }}
  chain passing {{
    type filter hook forward priority filter
    {passing}
    iifname wan ct state new drop
    {udp}
  }}
}}
"
        )
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Open => "none",
            Self::Easy => "easy",
            Self::Hard => "hard",
            Self::NoUdp => "no UDP",
            Self::Mapping => "mapping",
            Self::Turning => "turning",
        })
    }
}

/// The locations of the two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each machine is behind a router of its own.
    Apart,
    /// Both machines are behind the first router.
    Together,
    /// Both machines are behind the first router, on a switch that isolates them from each other.
    Isolated,
    /// Apart, with additional IPv6 without NAT and firewall.
    Six,
    /// Apart, and the line silently drops packets larger than this MTU.
    Narrow(usize),
}

/// The network between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The NATs of both machines; the second is used only if the machines are apart.
    pub(crate) nats: [Nat; 2],
    pub(crate) way: Way,
}

impl Place {
    pub(crate) const fn apart(near: Nat, far: Nat) -> Self {
        Self {
            nats: [near, far],
            way: Way::Apart,
        }
    }

    const fn of(way: Way, near: Nat, far: Nat) -> Self {
        Self {
            nats: [near, far],
            way,
        }
    }

    pub(super) const fn is_together(self) -> bool {
        matches!(self.way, Way::Together | Way::Isolated)
    }

    /// Returns its NATs as text.
    pub(super) fn nats_text(self) -> String {
        let [near, far] = self.nats;
        match self.is_together() {
            true => near.to_string(),
            false => format!("{near} – {far}"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart => f.pad("apart"),
            Self::Together => f.pad("one LAN"),
            Self::Isolated => f.pad("isolated"),
            Self::Six => f.pad("IPv6"),
            Self::Narrow(mtu) => f.pad(&format!("MTU {mtu}")),
        }
    }
}

const PAIRS: [Place; 8] = [
    Place::apart(Nat::Open, Nat::Open),
    Place::apart(Nat::Easy, Nat::Open),
    Place::apart(Nat::Easy, Nat::Easy),
    Place::apart(Nat::Hard, Nat::Open),
    Place::apart(Nat::Hard, Nat::Easy),
    Place::apart(Nat::Hard, Nat::Hard),
    Place::apart(Nat::Hard, Nat::Mapping),
    Place::apart(Nat::NoUdp, Nat::Easy),
];

/// The places other than pairs of NATs, measured on a home line.
pub(super) const WAYS: [Place; 5] = [
    Place::of(Way::Together, Nat::Easy, Nat::Easy),
    Place::of(Way::Isolated, Nat::Turning, Nat::Turning),
    Place::of(Way::Six, Nat::Hard, Nat::Hard),
    Place::of(Way::Narrow(1400), Nat::Easy, Nat::Easy),
    Place::of(Way::Narrow(1280), Nat::Easy, Nat::Easy),
];

/// Returns the NATs to measure on a line.
pub(super) fn pairs(grade: &Grade) -> &'static [Place] {
    // A local network has no NAT.
    if grade.name == "lan" { &PAIRS[..1] } else { &PAIRS }
}
