//! What the page shows beside peers and events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Conflict;

/// Where the page is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DashboardLink {
    /// Its address, with a token behind `#` that opens it once.
    pub url: String,
    /// How long the token can be used, in milliseconds.
    pub expires_in_ms: u64,
}

impl std::fmt::Debug for DashboardLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DashboardLink")
            .field("expires_in_ms", &self.expires_in_ms)
            .finish_non_exhaustive()
    }
}

/// A conflict that the operator has not decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenConflict {
    /// The two keys.
    pub conflict: Conflict,
    /// Whether the pinned key is one of the configuration, which decides: it is changed there.
    pub configured: bool,
    /// When it was first found, in Unix milliseconds.
    pub first_seen_ms: i64,
    /// When it was last found, in Unix milliseconds.
    pub last_seen_ms: i64,
    /// How often it was found.
    pub times: u64,
}

/// Something about the identity of a peer that the operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// `address_mismatch`, `downgrade`, `key_refused`, `look_alike` or `succession`.
    pub kind: String,
    /// The name of the peer.
    pub name: String,
    /// What happened, as one sentence.
    pub text: String,
    /// The key id of the key to trust, if that is what the operator may decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The key id of the pinned key that would be replaced: it names the peer for the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_key_id: Option<String>,
    /// Whether the pinned key is one of the configuration, which decides: it is changed there.
    #[serde(default)]
    pub configured: bool,
    /// When it last happened, in Unix milliseconds.
    pub last_seen_ms: i64,
    /// How often it happened.
    pub times: u64,
}

/// What the operator has to decide, since the nara started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictList {
    /// Conflicts of keys, the newest first.
    pub conflicts: Vec<OpenConflict>,
    /// Other warnings, the newest first.
    pub warnings: Vec<Warning>,
}

/// What the ledger holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerSummary {
    /// Events.
    pub events: u64,
    /// Their bytes as JSON.
    pub bytes: u64,
    /// The same by service, the largest first: 1000 at most.
    pub services: Vec<ServiceSize>,
    /// When they were counted, in Unix milliseconds.
    #[serde(default)]
    pub counted_at_ms: i64,
}

/// The events of one service in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSize {
    /// The name of the service, as `svc` of its events has it.
    pub service: String,
    /// Events.
    pub events: u64,
    /// Their bytes as JSON.
    pub bytes: u64,
}

/// The last hour of the nara, in samples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The time between two samples, in milliseconds.
    pub every_ms: u64,
    /// The samples, the oldest first.
    pub samples: Vec<Sample>,
    /// Refused requests by reason, since the nara started.
    pub refusals: Vec<Refusals>,
}

/// The figures of one moment. Totals count from the start of the nara; a figure that the program does not measure is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Sample {
    /// When, in Unix milliseconds.
    pub at_ms: i64,
    /// Known peers.
    pub peers: u64,
    /// Peers that are online.
    pub online: u64,
    /// Events in the ledger.
    pub events: u64,
    /// The size of the ledger, in bytes.
    pub ledger_bytes: Option<u64>,
    /// Requests answered, in total.
    pub requests: Option<u64>,
    /// Requests refused, in total.
    pub refused: Option<u64>,
    /// Calls to peers, in total.
    pub calls: Option<u64>,
    /// Calls to peers that failed, in total.
    pub failed_calls: Option<u64>,
    /// Signed requests that are remembered against replay.
    pub replay_entries: Option<u64>,
    /// Memory of the process, in bytes.
    pub memory_bytes: Option<u64>,
}

/// Requests that were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusals {
    /// The reason, in one word.
    pub reason: String,
    /// How many, since the nara started.
    pub count: u64,
}
