//! The running nara itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The running nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Its nara id.
    pub id: String,
    /// Its public key, base64.
    pub public_key: String,
    /// The same key, as a key id.
    pub key_id: String,
    /// The address at which peers reach it.
    pub address: Option<String>,
    /// How it joined the mesh, such as `embedded`; missing on plain sockets.
    pub network: Option<String>,
    /// The version of the program.
    pub version: String,
    /// The process id.
    pub pid: u32,
    /// Its data folder, with the ledger and the sockets.
    #[serde(default)]
    pub data_dir: Option<String>,
    /// When it started, in Unix milliseconds.
    pub started_at_ms: i64,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// How many peers it knows.
    pub peers: usize,
    /// How many events its ledger has.
    pub events: usize,
    /// Open connections to this API.
    pub connections: usize,
    /// The most connections to this API.
    pub max_connections: usize,
    /// Gossip; missing if it is off.
    pub gossip: Option<Gossip>,
    /// The peers to which streams are sent: live events, or an answer of a route.
    #[serde(default)]
    pub stream_readers: Vec<String>,
    /// The limits of this API and their current use.
    #[serde(default)]
    pub limits: Vec<LimitInUse>,
}

/// A limit of this API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitInUse {
    /// `connections`, `transfers`, `services`, `uploads` (streamed bodies) or `body_bytes` (bodies on their
    /// way to peers).
    pub name: String,
    /// The amount in use.
    pub used: usize,
    /// The maximum.
    pub most: usize,
}

/// The state of gossip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gossip {
    /// The peers.
    pub links: Vec<GossipLink>,
    /// Zines exchanged.
    pub zines: u64,
    /// Zine exchanges that failed.
    pub failed_zines: u64,
}

/// A peer of gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GossipLink {
    /// Its label.
    pub peer: String,
    /// How its events arrive, in words.
    pub link: String,
}

/// The effective state after a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Configured peers in force; missing if their file could not be read.
    pub configured: Option<usize>,
    /// Peers with a new decision of the operator.
    pub decided: Vec<String>,
    /// Banned peers.
    pub untrusted: Vec<String>,
    /// Errors that kept something from being applied.
    pub problems: Vec<String>,
    /// Changed settings that need a restart.
    pub restart: Vec<String>,
}

/// The clock of the nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockStatus {
    /// The time of day, in Unix milliseconds.
    pub now_ms: i64,
    /// The last time that the clock was set while the nara ran.
    pub step: Option<ClockStep>,
}

/// A discontinuous change of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockStep {
    /// In words, such as `set back by 5m0s`.
    pub text: String,
    /// How far it was set forward, in nanoseconds; negative if back.
    pub nanos: i64,
    /// When it was noticed, in Unix milliseconds of the new clock.
    pub at_ms: i64,
}

impl From<nara_mesh::clock::ClockStep> for ClockStep {
    fn from(step: nara_mesh::clock::ClockStep) -> Self {
        Self {
            text: step.to_string(),
            nanos: step.nanos,
            at_ms: step.at.get(),
        }
    }
}

/// The network coordinates of the nara, in milliseconds of round trip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Coordinates {
    /// First axis.
    pub x: f64,
    /// Second axis.
    pub y: f64,
    /// Height above the plane.
    pub height: f64,
    /// Estimated error: 1 for a new nara, smaller is better.
    pub error: f64,
}

impl From<nara_proto::peer::Coordinates> for Coordinates {
    fn from(own: nara_proto::peer::Coordinates) -> Self {
        let nara_proto::peer::Coordinates { x, y, height, error } = own;
        Self { x, y, height, error }
    }
}

impl From<Coordinates> for nara_proto::peer::Coordinates {
    fn from(Coordinates { x, y, height, error }: Coordinates) -> Self {
        Self { x, y, height, error }
    }
}

/// Exposes a local program to peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The program: `http://127.0.0.1:PORT` or `unix:/SOCKET`.
    pub backend: String,
    /// How long it is exposed unless the lease is renewed, in seconds: 1 to 86400.
    #[serde(default = "Lease::default_seconds")]
    pub lease_s: u32,
}

impl Lease {
    fn default_seconds() -> u32 {
        60
    }
}

/// A local program that peers can reach until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The prefix of its paths, such as `/notes`.
    pub prefix: String,
    /// Its backend address.
    pub backend: String,
    /// When its lease ends unless it is renewed, in milliseconds from now.
    pub expires_in_ms: u64,
    /// The number of requests that it was sent.
    #[serde(default)]
    pub requests: u64,
    /// The name of the nara that sent the last one.
    #[serde(default)]
    pub last_sender: Option<String>,
}

/// A local program that the settings of the nara expose permanently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastingService {
    /// The prefix of its paths, such as `/notes`.
    pub prefix: String,
    /// Its backend address.
    pub backend: String,
    /// The number of requests that it was sent.
    pub requests: u64,
    /// The name of the nara that sent the last one.
    pub last_sender: Option<String>,
}

/// Local programs that peers can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceList {
    /// The programs with a lease, by prefix.
    pub services: Vec<Service>,
    /// The programs that the settings expose (`serve --expose`), by prefix.
    #[serde(default)]
    pub lasting: Vec<LastingService>,
}

/// One check of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// The subject of the check.
    pub what: String,
    /// `ok`, `warning`, `failed` or `skipped`.
    pub result: String,
    /// The finding.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do next.
    pub next: Option<String>,
}
