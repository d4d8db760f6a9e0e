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
}

impl Nat {
    /// The rules of the router for nftables, whose device to the internet is `wan`.
    pub(super) fn rules(self) -> String {
        let (masquerade, udp) = match self {
            Self::Open => return String::new(),
            Self::Easy => ("masquerade", ""),
            Self::Hard | Self::Mapping => ("masquerade fully-random", ""),
            Self::NoUdp => ("masquerade", "ip protocol udp drop"),
        };
        // The program that maps ports fills chains of its own, in a table for both families.
        let [family, mapped, leaving, passing] = match self {
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
        })
    }
}

/// The NATs of both machines that are measured on a line.
pub(super) fn nats(grade: &Grade) -> &'static [(Nat, Nat)] {
    match grade.name {
        "home" => &[
            (Nat::Open, Nat::Open),
            (Nat::Easy, Nat::Open),
            (Nat::Easy, Nat::Easy),
            (Nat::Hard, Nat::Open),
            (Nat::Hard, Nat::Easy),
            (Nat::Hard, Nat::Hard),
            (Nat::Hard, Nat::Mapping),
            (Nat::NoUdp, Nat::Easy),
        ],
        "lan" => &[(Nat::Open, Nat::Open)],
        _ => &[(Nat::Easy, Nat::Easy)],
    }
}
