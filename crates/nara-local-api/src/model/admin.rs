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
    /// The peers to which streams go: live events, or an answer of a route.
    #[serde(default)]
    pub stream_readers: Vec<String>,
    /// Limits of this API, and what is in use of them.
    #[serde(default)]
    pub limits: Vec<LimitInUse>,
}

/// A limit of this API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitInUse {
    /// `connections`, `transfers`, `services`, `uploads` that are streamed, or `body_bytes` on their way to peers.
    pub name: String,
    /// What is in use.
    pub used: usize,
    /// How much there may be.
    pub most: usize,
}

/// How gossip goes.
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

/// What a reload brought into force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Configured peers in force; missing if their file could not be read.
    pub configured: Option<usize>,
    /// Peers about which the operator decided something that is new.
    pub decided: Vec<String>,
    /// Banned peers.
    pub untrusted: Vec<String>,
    /// Faults that keep something from being in force.
    pub problems: Vec<String>,
    /// Settings that changed, and take a restart.
    pub restart: Vec<String>,
}

/// The clock of the nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockStatus {
    /// The time of day, in Unix milliseconds.
    pub now_ms: i64,
    /// The last time that somebody set the clock while the nara ran.
    pub step: Option<ClockStep>,
}

/// A change of the clock that is not the passing of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClockStep {
    /// In words, such as `set back by 5m0s`.
    pub text: String,
    /// How far ahead it was set, in nanoseconds; negative: back.
    pub nanos: i64,
    /// When that was noticed, in Unix milliseconds of the new time.
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

/// Where the nara places itself in the network, in milliseconds of round trip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Coordinates {
    /// First axis.
    pub x: f64,
    /// Second axis.
    pub y: f64,
    /// Height above the plane.
    pub height: f64,
    /// Confidence: 1 for a new nara, smaller is better.
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

/// To expose a local program to peers.
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

/// A local program that peers reach until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// The prefix of its paths, such as `/notes`.
    pub prefix: String,
    /// Where it is.
    pub backend: String,
    /// When its lease ends unless it is renewed, in milliseconds from now.
    pub expires_in_ms: u64,
    /// How many requests of peers it was given.
    #[serde(default)]
    pub requests: u64,
    /// The name of the nara that sent the last one.
    #[serde(default)]
    pub last_sender: Option<String>,
}

/// A local program that the settings of the nara expose for as long as the nara runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastingService {
    /// The prefix of its paths, such as `/notes`.
    pub prefix: String,
    /// Where it is.
    pub backend: String,
    /// How many requests of peers it was given.
    pub requests: u64,
    /// The name of the nara that sent the last one.
    pub last_sender: Option<String>,
}

/// Local programs that peers reach.
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
    /// What is looked at.
    pub what: String,
    /// `ok`, `warning`, `failed` or `skipped`.
    pub result: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do next.
    pub next: Option<String>,
}
