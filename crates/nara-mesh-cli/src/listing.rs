//! Events for people: one line each, and what the checks gave.

use std::sync::Arc;

use nara_local_api::model::{self, Event, RefusedEvent, trust_word};
use nara_mesh::client::{self, CheckedEvent, CheckedEvents, SyncProgress};
use nara_mesh::ledger::{Insertion, Ledger};
use nara_proto::event::{EventTrust, SyncEvent};
use serde::Serialize;
use utoipa::ToSchema;

use crate::explain;
use crate::failure::Outcome;
use crate::ledger_file;
use crate::printer::{Printer, count, harmless};

/// Refused events that are named; the rest is counted.
const MOST_NAMED: usize = 10;

/// How many events came, and what became of them.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Counts {
    pub(crate) received: usize,
    pub(crate) verified: usize,
    pub(crate) unknown_key: usize,
    pub(crate) unsigned: usize,
    pub(crate) stored: usize,
    pub(crate) duplicates: usize,
    pub(crate) not_kept: usize,
    pub(crate) refused_count: usize,
    /// The first of them, if they are many.
    pub(crate) refused: Vec<RefusedEvent>,
}

impl Counts {
    /// Counts events, and stores those that may be stored, if there is a ledger.
    pub(crate) async fn take(
        &mut self,
        events: CheckedEvents,
        ledger: Option<&Arc<dyn Ledger>>,
    ) -> Outcome<()> {
        self.received += events.received();
        for checked in &events.accepted {
            match checked.trust {
                EventTrust::Verified => self.verified += 1,
                EventTrust::UnknownKey => self.unknown_key += 1,
                _ => self.unsigned += 1,
            }
        }
        self.refused_count += events.refused.len();
        self.refused.extend(events.refused.iter().map(RefusedEvent::of));
        let Some(ledger) = ledger else {
            return Ok(());
        };
        let outcomes = ledger
            .insert(events.accepted, None)
            .await
            .map_err(ledger_file::failed)?;
        for outcome in outcomes {
            match outcome {
                Insertion::Stored => self.stored += 1,
                Insertion::Duplicate => self.duplicates += 1,
                _ => self.not_kept += 1,
            }
        }
        Ok(())
    }

    /// The counts of a transfer into a ledger.
    pub(crate) fn of(progress: &SyncProgress, refused: &[client::RefusedEvent]) -> Self {
        Self {
            received: progress.received,
            verified: progress.verified,
            unknown_key: progress.unknown_key,
            unsigned: progress.unsigned,
            stored: progress.stored,
            duplicates: progress.duplicates,
            not_kept: progress.not_retained,
            refused_count: progress.refused,
            refused: refused.iter().map(RefusedEvent::of).collect(),
        }
    }

    /// One line.
    pub(crate) fn summary(&self, stored: bool) -> String {
        let mut text = format!(
            "{}: {} verified, {} with unknown keys, {} unsigned, {} refused",
            count(self.received, "event"),
            self.verified,
            self.unknown_key,
            self.unsigned,
            self.refused_count
        );
        if stored {
            text.push_str(&format!(
                "; {} stored, {} known already",
                self.stored, self.duplicates
            ));
            if self.not_kept > 0 {
                text.push_str(&format!(", {} not kept", self.not_kept));
            }
        }
        text
    }

    /// Names the refused events on stderr.
    pub(crate) fn warn_refused(&self, printer: Printer) {
        for refused in self.refused.iter().take(MOST_NAMED) {
            printer.warn(format_args!(
                "event {} of {} is refused: {}",
                harmless(&refused.id),
                if refused.emitter.is_empty() {
                    "nobody".to_owned()
                } else {
                    harmless(&refused.emitter)
                },
                refused.problem
            ));
        }
        let named = self.refused.len().min(MOST_NAMED);
        let more = self.refused_count - named;
        if more > 0 {
            printer.warn(format_args!(
                "{more} more events are refused (--json names up to a thousand)"
            ));
        }
    }
}

impl From<model::Counts> for Counts {
    fn from(counts: model::Counts) -> Self {
        Self {
            received: counts.received,
            verified: counts.verified,
            unknown_key: counts.unknown_key,
            unsigned: counts.unsigned,
            stored: counts.stored,
            duplicates: counts.duplicates,
            not_kept: counts.not_kept,
            refused_count: counts.refused_count,
            refused: counts.refused,
        }
    }
}

/// One line about an event, with its text if it has one.
pub(crate) fn event_line(event: &SyncEvent) -> String {
    let text = event
        .social
        .as_deref()
        .map_or("", |social| social.reason.as_str());
    let line = format!(
        "{}  {:<11}  {} → {}  {}",
        explain::date(event.ts.to_millis()),
        harmless(&event.svc),
        or_dash(event.actor()),
        or_dash(event.target()),
        harmless(text),
    );
    line.trim_end().to_owned()
}

fn or_dash(name: &str) -> String {
    if name.is_empty() {
        "-".to_owned()
    } else {
        harmless(name)
    }
}

/// An event as a line of `sync --jsonl`.
pub(crate) fn jsonl(checked: &CheckedEvent) -> ToldEvent {
    ToldEvent::new(&checked.event, trust_word(checked.trust))
}

/// An event, and how far to trust it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ToldEvent {
    schema: &'static str,
    /// `verified`, `unknown-key` or `unsigned`.
    trust: String,
    event: Event,
}

impl ToldEvent {
    pub(crate) fn new(event: &SyncEvent, trust: &str) -> Self {
        Self {
            schema: "nara-mesh/sync-event/1",
            trust: trust.to_owned(),
            event: Event::of(event),
        }
    }
}
