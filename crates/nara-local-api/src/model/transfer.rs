//! Transfers of events from a peer into the ledger.

use std::ops::AddAssign;
use std::time::Duration;

use nara_mesh::client::{self, CheckedEvents, SyncProgress, SyncReport};
use nara_mesh::ledger::Insertion;
use nara_proto::event::{EventProblem, EventTrust};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RefusedEvent;

/// The most refused events that are listed.
const MOST_REFUSED: usize = 1000;

/// The number of received events, by result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// All events.
    pub received: usize,
    /// Events whose signature was verified.
    pub verified: usize,
    /// Events signed with an unknown key.
    pub unknown_key: usize,
    /// Events without a signature.
    pub unsigned: usize,
    /// New events.
    pub stored: usize,
    /// Events that were already stored.
    pub duplicates: usize,
    /// Events that the ledger does not keep.
    pub not_kept: usize,
    /// Events that must not be stored.
    pub refused_count: usize,
    /// Refused events that only lack a signature, as in old ledgers of v1 peers: not a fault of the peer.
    pub refused_unsigned: usize,
    /// The first of the other refused events.
    pub refused: Vec<RefusedEvent>,
}

impl Counts {
    /// Counts the events of a transfer into a ledger.
    pub fn of(progress: &SyncProgress, refused: &[client::RefusedEvent]) -> Self {
        Self {
            received: progress.received,
            verified: progress.verified,
            unknown_key: progress.unknown_key,
            unsigned: progress.unsigned,
            stored: progress.stored,
            duplicates: progress.duplicates,
            not_kept: progress.not_retained,
            refused_count: progress.refused,
            refused_unsigned: progress.refused_unsigned,
            refused: named(refused),
        }
    }

    /// Returns whether the peer sent no invalid events.
    pub const fn is_faultless(&self) -> bool {
        self.refused_count == self.refused_unsigned
    }

    /// Counts the events of an answer, none of them stored.
    pub fn of_answer(events: &CheckedEvents) -> Self {
        let trusted = |wanted: EventTrust| {
            events
                .accepted
                .iter()
                .filter(|event| event.trust == wanted)
                .count()
        };
        let (verified, unknown_key) = (trusted(EventTrust::Verified), trusted(EventTrust::UnknownKey));
        Self {
            received: events.received(),
            verified,
            unknown_key,
            unsigned: events.accepted.len() - verified - unknown_key,
            refused_count: events.refused.len(),
            refused_unsigned: events
                .refused
                .iter()
                .filter(|event| lacks_signature(event))
                .count(),
            refused: named(&events.refused),
            ..Self::default()
        }
    }

    /// Adds the results of storing the accepted events.
    #[must_use]
    pub fn with_outcomes(mut self, outcomes: &[Insertion]) -> Self {
        let became = |wanted: Insertion| outcomes.iter().filter(|outcome| **outcome == wanted).count();
        self.stored = became(Insertion::Stored);
        self.duplicates = became(Insertion::Duplicate);
        self.not_kept = outcomes.len() - self.stored - self.duplicates;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.verified += other.verified;
        self.unknown_key += other.unknown_key;
        self.unsigned += other.unsigned;
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.not_kept += other.not_kept;
        self.refused_count += other.refused_count;
        self.refused_unsigned += other.refused_unsigned;
        let room = MOST_REFUSED.saturating_sub(self.refused.len());
        self.refused.extend(other.refused.into_iter().take(room));
    }
}

fn lacks_signature(event: &client::RefusedEvent) -> bool {
    event.problem == EventProblem::MustBeSigned
}

fn named(refused: &[client::RefusedEvent]) -> Vec<RefusedEvent> {
    let at_fault = refused.iter().filter(|event| !lacks_signature(event));
    at_fault.take(MOST_REFUSED).map(RefusedEvent::of).collect()
}

/// The result of fetching checkpoints: the server-sent event `done` after them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoints {
    /// The received events, none of them stored.
    pub counts: Counts,
    /// Whether the peer has more than one request returns.
    pub more: bool,
}

/// The progress of a transfer: a server-sent event `progress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Received events.
    pub received: usize,
    /// Remaining events, if known.
    pub remaining: Option<u64>,
    /// Refused events.
    pub refused: usize,
    /// Received bytes.
    pub bytes: u64,
}

impl Progress {
    pub(crate) fn of(progress: &SyncProgress) -> Self {
        Self {
            received: progress.received,
            remaining: progress.remaining,
            refused: progress.refused,
            bytes: progress.bytes,
        }
    }
}

/// The kind of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransferKind {
    /// The checkpoints of a peer, which are not stored.
    Checkpoints,
    /// A comparison only.
    Compare,
    /// A comparison that also fetches missing events.
    Reconcile,
    /// Events of a peer, in its order.
    Sync,
}

/// A transfer in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Transfer {
    /// Its id in this run of the nara.
    pub id: u64,
    /// Its kind.
    pub kind: TransferKind,
    /// The peer, as its caller named it.
    pub peer: String,
    /// When it began, in Unix milliseconds.
    pub begun_at_ms: i64,
    /// Its progress.
    pub progress: Progress,
}

/// Transfers in progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferList {
    /// The transfers, oldest first.
    pub transfers: Vec<Transfer>,
}

/// A finished sync: a server-sent event `done`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Synced {
    /// The events.
    pub counts: Counts,
    /// Answers of the peer.
    pub answers: usize,
    /// The cursor at which the sync resumed, if it did.
    pub resumed: Option<String>,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
    /// Why it broke off, if it did. Events received before are stored.
    pub problem: Option<crate::Problem>,
}

/// A finished reconciliation: a server-sent event `done`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciled {
    /// The fetched events.
    pub counts: Counts,
    /// The comparison.
    #[serde(flatten)]
    pub comparison: Comparison,
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Rounds of comparison.
    pub rounds: usize,
    /// Bytes sent to compare.
    pub bytes_sent: u64,
    /// Bytes received to compare.
    pub bytes_received: u64,
    /// Events that only the peer had.
    pub missing_here: usize,
    /// Events that only we have.
    pub missing_there: usize,
    /// Missing events that were rejected earlier, and not fetched again.
    pub rejected_before: usize,
    /// Missing events that the peer no longer has.
    pub gone: usize,
    /// Events that were sent to the peer.
    pub pushed: usize,
    /// Whether the peer does not support reconciliation, so that pages were fetched.
    pub fell_back: bool,
    /// Whether all differences were found.
    pub complete: bool,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
}

impl Reconciled {
    /// Describes the report of a client.
    pub fn of(report: &SyncReport, elapsed: Duration) -> Self {
        Self {
            counts: Counts::of(&report.progress, &report.refused),
            comparison: Comparison {
                rounds: report.rounds,
                bytes_sent: report.bytes_sent,
                bytes_received: report.bytes_received,
                missing_here: report.missing_here,
                missing_there: report.missing_there,
                rejected_before: report.rejected_before,
                gone: report.gone,
                pushed: report.pushed,
                fell_back: report.fell_back,
                complete: report.complete,
                elapsed_us: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            },
        }
    }
}
