//! Data that the page shows in addition to peers and events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Conflict;

/// The address of the page.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DashboardLink {
    /// The address, with a token after `#` that is valid once.
    pub url: String,
    /// How long the token is valid, in milliseconds.
    pub expires_in_ms: u64,
}

impl std::fmt::Debug for DashboardLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DashboardLink")
            .field("expires_in_ms", &self.expires_in_ms)
            .finish_non_exhaustive()
    }
}

/// A key conflict that the operator has not decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenConflict {
    /// The two keys.
    pub conflict: Conflict,
    /// Whether the pinned key is configured: then it can be changed only there.
    pub configured: bool,
    /// When it was first found, in Unix milliseconds.
    pub first_seen_ms: i64,
    /// When it was last found, in Unix milliseconds.
    pub last_seen_ms: i64,
    /// How often it was found.
    pub times: u64,
}

/// A warning about the identity of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// `address_mismatch`, `downgrade`, `key_refused`, `look_alike` or `succession`.
    pub kind: String,
    /// The name of the peer.
    pub name: String,
    /// What happened, as one sentence.
    pub text: String,
    /// The key id of the key to trust, if that is a possible decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// The key id of the pinned key that would be replaced: it identifies the peer in the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_key_id: Option<String>,
    /// Whether the pinned key is configured: then it can be changed only there.
    #[serde(default)]
    pub configured: bool,
    /// When it last happened, in Unix milliseconds.
    pub last_seen_ms: i64,
    /// How often it happened.
    pub times: u64,
}

/// Undecided conflicts and warnings since the start of the nara.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConflictList {
    /// Key conflicts, newest first.
    pub conflicts: Vec<OpenConflict>,
    /// Other warnings, newest first.
    pub warnings: Vec<Warning>,
}

/// The contents of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerSummary {
    /// Events.
    pub events: u64,
    /// Their bytes as JSON.
    pub bytes: u64,
    /// By service, largest first: 1000 at most.
    pub services: Vec<ServiceSize>,
    /// When they were counted, in Unix milliseconds.
    #[serde(default)]
    pub counted_at_ms: i64,
}

/// The events of one service in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceSize {
    /// The name of the service: the field `svc` of its events.
    pub service: String,
    /// Events.
    pub events: u64,
    /// Their bytes as JSON.
    pub bytes: u64,
}

/// Samples of the last hour of the nara.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The interval of the samples, in milliseconds.
    pub every_ms: u64,
    /// The samples, oldest first.
    pub samples: Vec<Sample>,
    /// Refused requests by reason, since the nara started.
    pub refusals: Vec<Refusals>,
}

/// The figures at one time. Totals count from the start of the nara; a figure that is not measured is
/// missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[non_exhaustive]
pub struct Sample {
    /// The time, in Unix milliseconds.
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

/// Requests refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusals {
    /// The reason, in one word.
    pub reason: String,
    /// The number since the start of the nara.
    pub count: u64,
}
