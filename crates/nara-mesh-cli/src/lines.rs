//! The lines that commands print with `--json` for as long as they run.

use std::path::Path;

use nara_local_api::model::Reloaded;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::peer_events::PeerLine;

/// A line of `serve` or `up`. Steps, and what is found on a network, are of `up` alone.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum DaemonLine {
    Found(FoundLine),
    Nara(NaraLine),
    Peer(PeerLine),
    Step(StepLine),
}

/// A line about the nara that runs, or about what came in for it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum NaraLine {
    /// The nara has another address, on its network or by `--listen`, and serves there.
    AddressChanged {
        address: Option<String>,
        before: Option<String>,
        /// Where v1 peers reach it now, too.
        v1_address: Option<String>,
    },
    /// A peer sent a direct message.
    DirectMessage {
        /// The verified sender.
        sender: String,
        /// The event, in the form of docs/protocol/v1.md, section 8.
        #[schema(value_type = Object)]
        message: Value,
    },
    /// The nara serves: the first line, unless it waits for its address or converts its ledger.
    Listening {
        name: String,
        id: String,
        address: String,
        /// Where v1 peers reach it, too.
        v1_address: Option<String>,
        public_key: String,
        key_id: String,
        /// Where metrics are served.
        metrics: Option<String>,
        /// The sockets of the local API.
        sockets: Vec<String>,
        /// Where the local API also listens.
        api_listen: Option<String>,
        /// Its stanza for the peers files of others.
        stanza: String,
    },
    /// The network interface or the host of `--listen` has another address now, where the nara cannot listen: it listens where
    /// it did, and tries again.
    ListenMoved {
        listen: String,
        now: String,
        /// The address on which it listens.
        bound: String,
        /// Why it cannot listen there.
        reason: Option<String>,
    },
    /// Configuration, peers and decisions were read again.
    Reloaded(Reloaded),
    /// A peer sent a runtime message.
    RuntimeMessage {
        kind: String,
        /// The verified nara id of the sender.
        from_id: String,
    },
    /// The nara ends: the last line.
    Stopped {
        /// Whether all requests in progress were answered.
        graceful: bool,
    },
    /// The address to listen on is not there yet.
    Waiting { listen: String, reason: String },
    /// A postcard came by, or home.
    WorldMessage {
        id: String,
        originator: String,
        message: String,
        hops: Vec<Hop>,
        /// Whether it is one of this nara, and came home.
        complete: bool,
    },
    /// A peer sent its recent events.
    Zine {
        /// The verified sender.
        sender: String,
        events: usize,
    },
    /// An older program left the ledger: its events are converted before the nara serves.
    Converting {
        /// Events that are converted.
        done: u64,
        /// All events.
        all: u64,
    },
    /// Somebody deleted, moved or replaced the file of the ledger: what the nara stores is lost when it ends.
    LedgerGone { ledger: String, problem: String },
}

/// A nara that stamped a postcard.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hop {
    pub(crate) nara: String,
    pub(crate) stamp: String,
    pub(crate) timestamp_s: i64,
}

/// A line about the network, or about what was found there.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum FoundLine {
    /// A node claims the name of a nara that is elsewhere, and was refused.
    Contested {
        host_name: String,
        name: String,
        /// Where the nara of that name is.
        holder: String,
    },
    /// A nara was found.
    Found {
        name: Option<String>,
        address: Option<String>,
        /// How its key was learned.
        key_source: Option<String>,
        /// Whether the host name is that of the nara.
        host_name_fits: bool,
    },
    /// A node left the network.
    Left { host_name: String },
    /// A node claims to be this nara, and was refused.
    Namesake { host_name: String, same_key: bool },
    /// The node of this nara is in touch with its network again.
    NetworkBack,
    /// The node of this nara lost its network.
    NetworkLost { reason: String },
    /// A node went offline.
    Offline { host_name: String },
    /// What a node answered was refused.
    Refused { host_name: String, reason: String },
}

/// A step of `up`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// It looks for naras.
    Discovery,
    /// Who this nara is.
    Identity {
        name: String,
        id: String,
        key_id: String,
    },
    /// It is on the network.
    Joined {
        granted_name: Option<String>,
        addresses: Vec<String>,
        control_url: Option<String>,
        version: Option<String>,
    },
    /// The network to join.
    Network {
        /// `loopback`, `tailscaled`, `managed` or `embedded`.
        network: String,
        /// The socket of the daemon.
        #[serde(skip_serializing_if = "Option::is_none")]
        socket: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        host_name: Option<String>,
    },
    /// Where it serves.
    Serving { address: Option<String> },
}

impl Step {
    pub(crate) fn on(network: &str, socket: Option<&Path>, host_name: Option<&str>) -> Self {
        Self::Network {
            network: network.to_owned(),
            socket: socket.map(|socket| socket.display().to_string()),
            host_name: host_name.map(str::to_owned),
        }
    }

    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Identity { .. } => "identity",
            Self::Joined { .. } => "joined",
            Self::Network { .. } => "network",
            Self::Serving { .. } => "serving",
        }
    }
}

/// A step of `up` that is done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StepLine {
    event: StepEvent,
    #[serde(flatten)]
    step: Step,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StepEvent {
    Step,
}

impl From<Step> for DaemonLine {
    fn from(step: Step) -> Self {
        Self::Step(StepLine {
            event: StepEvent::Step,
            step,
        })
    }
}

impl From<FoundLine> for DaemonLine {
    fn from(line: FoundLine) -> Self {
        Self::Found(line)
    }
}

impl From<NaraLine> for DaemonLine {
    fn from(line: NaraLine) -> Self {
        Self::Nara(line)
    }
}

impl From<PeerLine> for DaemonLine {
    fn from(line: PeerLine) -> Self {
        Self::Peer(line)
    }
}
