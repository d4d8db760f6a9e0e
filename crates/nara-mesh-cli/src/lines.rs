//! The JSON lines of long-running commands.

use std::path::Path;

use nara_local_api::model::Reloaded;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::peer_events::PeerLine;

/// A line of `serve` or `up`. Steps and discovery lines are printed by `up` only.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum DaemonLine {
    Found(FoundLine),
    Nara(NaraLine),
    Peer(PeerLine),
    Step(StepLine),
}

/// A line about the running nara or about a message that it received.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum NaraLine {
    /// The address of the nara changed, on its network or through `--listen`; it serves on the new one.
    AddressChanged {
        address: Option<String>,
        before: Option<String>,
        /// The address for v1 peers, if any.
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
    /// The nara serves. This is the first line, unless it waits for its address or converts its ledger.
    Listening {
        name: String,
        id: String,
        address: String,
        /// The address for v1 peers, if any.
        v1_address: Option<String>,
        public_key: String,
        key_id: String,
        /// The address of the metrics endpoint.
        metrics: Option<String>,
        /// The sockets of the local API.
        sockets: Vec<String>,
        /// The loopback address of the local API, if any.
        api_listen: Option<String>,
        /// The stanza of this nara for the peers files of others.
        stanza: String,
    },
    /// The network interface or host of `--listen` has a new address on which the nara cannot listen: it
    /// keeps the old one and retries.
    ListenMoved {
        listen: String,
        now: String,
        /// The address on which it listens.
        bound: String,
        /// Why listening on the new address failed.
        reason: Option<String>,
    },
    /// Configuration, peers and trust decisions were reloaded.
    Reloaded(Reloaded),
    /// A peer sent a runtime message.
    RuntimeMessage {
        kind: String,
        /// The verified nara id of the sender.
        from_id: String,
    },
    /// The nara stopped. This is the last line.
    Stopped {
        /// Whether all requests in progress were answered.
        graceful: bool,
    },
    /// The address to listen on does not exist yet.
    Waiting { listen: String, reason: String },
    /// A postcard passed through, or came home.
    WorldMessage {
        id: String,
        originator: String,
        message: String,
        hops: Vec<Hop>,
        /// Whether this nara sent it and it came home.
        complete: bool,
    },
    /// A peer sent its recent events.
    Zine {
        /// The verified sender.
        sender: String,
        events: usize,
    },
    /// The ledger is of an older version: its events are converted before the nara serves.
    Converting {
        /// Events converted so far.
        done: u64,
        /// Events to convert in total.
        all: u64,
    },
    /// The ledger file was deleted, moved or replaced: what the nara stores is lost when it stops.
    LedgerGone { ledger: String, problem: String },
}

/// A nara that stamped a postcard.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hop {
    pub(crate) nara: String,
    pub(crate) stamp: String,
    pub(crate) timestamp_s: i64,
}

/// A line about the network or about discovery.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum FoundLine {
    /// A node claims the name of a nara that has another address, and was refused.
    Contested {
        host_name: String,
        name: String,
        /// The address of the nara of that name.
        holder: String,
    },
    /// A nara was found.
    Found {
        name: Option<String>,
        address: Option<String>,
        /// How its key was learned.
        key_source: Option<String>,
        /// Whether the host name equals the name of the nara.
        host_name_fits: bool,
    },
    /// A node left the network.
    Left { host_name: String },
    /// A node claims to be this nara, and was refused.
    Namesake { host_name: String, same_key: bool },
    /// The node of this nara is connected to its network again.
    NetworkBack,
    /// The node of this nara lost its network.
    NetworkLost { reason: String },
    /// A node went offline.
    Offline { host_name: String },
    /// The answer of a node was refused.
    Refused { host_name: String, reason: String },
}

/// A step of `up`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// Discovery started.
    Discovery,
    /// The identity of this nara.
    Identity {
        name: String,
        id: String,
        key_id: String,
    },
    /// The node joined the network.
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
    /// The address on which it serves.
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

/// A completed step of `up`.
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
