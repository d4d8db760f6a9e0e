//! The lines and the NATs that are measured.

use std::fmt;
use std::time::Duration;

use super::line::Quality;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn mbit(mbit: u64) -> u64 {
    mbit * 1_000_000 / 8
}

/// The line of the machine that asks. The other machine and the servers are behind lines that take no time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grade {
    pub(crate) name: &'static str,
    /// In each direction: a round trip takes twice the delay.
    pub(crate) quality: Quality,
    /// What is sent each way to measure throughput, in bytes: some seconds of the line.
    pub(crate) blob: usize,
}

/// From the best to the worst.
pub(crate) const GRADES: [Grade; 5] = [
    Grade {
        name: "lan",
        quality: Quality::perfect(ms(0), mbit(1000), 1 << 20),
        blob: 32 << 20,
    },
    Grade {
        name: "home",
        // Routers queue about 100 ms.
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

/// What stands between a machine and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// A router only.
    Open,
    /// A NAT that gives a socket the same port for all destinations, and a firewall.
    Easy,
    /// A NAT that gives a socket another port for each destination, and a firewall.
    Hard,
    /// An easy NAT that lets no UDP pass.
    NoUdp,
    /// A hard NAT whose router maps a port when it is asked.
    Mapping,
    /// An easy NAT that sends packets for its own address on to the socket that has the port, from inside only.
    Turning,
}

impl Nat {
    /// The rules of the router for nftables, whose device to the internet is `wan` and has this address.
    pub(super) fn rules(self, address: &str) -> String {
        let (masquerade, udp) = match self {
            Self::Open => return String::new(),
            Self::Easy | Self::Turning => ("masquerade", ""),
            Self::Hard | Self::Mapping => ("masquerade fully-random", ""),
            Self::NoUdp => ("masquerade", "ip protocol udp drop"),
        };
        // The program that maps ports fills chains of its own, in a table for both families.
        let turned = format!("iifname lan oifname lan ct status dnat snat to {address}");
        let [family, mapped, leaving, passing] = match self {
            // Which socket a port belongs to is seen when a packet leaves.
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
        // What comes from the internet unasked must leave no trace in the table of connections: it would take the
        // port that the other end expects.
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

/// Where the machines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Each behind a router of its own.
    Apart,
    /// Both behind the first router.
    Together,
    /// The same, and the switch lets nothing pass from one to the other.
    Isolated,
    /// Apart, and there is IPv6 without NAT and firewall too.
    Six,
    /// Apart, and the line takes no larger packets, and no router says so.
    Narrow(usize),
}

/// What is between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The second counts only if they are apart.
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

    /// Its NATs.
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

/// Ways that are no pair of NATs, each measured on a line as at home.
pub(super) const WAYS: [Place; 5] = [
    Place::of(Way::Together, Nat::Easy, Nat::Easy),
    Place::of(Way::Isolated, Nat::Turning, Nat::Turning),
    Place::of(Way::Six, Nat::Hard, Nat::Hard),
    Place::of(Way::Narrow(1400), Nat::Easy, Nat::Easy),
    Place::of(Way::Narrow(1280), Nat::Easy, Nat::Easy),
];

/// The NATs that are measured on a line.
pub(super) fn pairs(grade: &Grade) -> &'static [Place] {
    // Within a local network there is no NAT.
    if grade.name == "lan" { &PAIRS[..1] } else { &PAIRS }
}
