//! Lists events for people, one line each, with the results of their verification.

use std::sync::Arc;

use nara_local_api::model::{Counts, Event, trust_word};
use nara_mesh::client::{CheckedEvent, CheckedEvents};
use nara_mesh::ledger::Ledger;
use nara_proto::event::{EventTrust, SyncEvent};
use owo_colors::OwoColorize as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::exit::Exit;
use crate::explain;
use crate::failure::Outcome;
use crate::ledger_file;
use crate::printer::{Printer, count, harmless, harmless_text};

/// The most refused events that are listed; further ones are counted.
const MOST_NAMED: usize = 10;

/// Counts events, and stores the acceptable ones if there is a ledger.
pub(crate) async fn take(events: CheckedEvents, ledger: Option<&Arc<dyn Ledger>>) -> Outcome<Counts> {
    let counts = Counts::of_answer(&events);
    let Some(ledger) = ledger else {
        return Ok(counts);
    };
    let inserted = ledger.insert(events.accepted, None).await;
    Ok(counts.with_outcomes(&inserted.map_err(ledger_file::failed)?))
}

/// Formats the counts as one line.
pub(crate) fn summary(counts: &Counts, stored: bool) -> String {
    let mut text = format!(
        "{}: {} verified, {} with unknown keys, {} unsigned, {} refused",
        count(counts.received, "event"),
        counts.verified,
        counts.unknown_key,
        counts.unsigned,
        counts.refused_count
    );
    if stored {
        text.push_str(&format!(
            "; {} stored, {} known already",
            counts.stored, counts.duplicates
        ));
        if counts.not_kept > 0 {
            text.push_str(&format!(", {} not kept", counts.not_kept));
        }
    }
    text
}

/// Lists the refused events on stderr.
pub(crate) fn warn_refused(counts: &Counts, printer: Printer) {
    if counts.refused_unsigned > 0 {
        printer.note(format_args!(
            "{} of naras with known keys skipped: old ledgers of v1 peers contain some",
            count(counts.refused_unsigned, "unsigned event")
        ));
    }
    for refused in counts.refused.iter().take(MOST_NAMED) {
        printer.warn(format_args!(
            "event {} of {} is refused: {}",
            harmless(&refused.id),
            if refused.emitter.is_empty() {
                "an unnamed emitter".to_owned()
            } else {
                harmless(&refused.emitter)
            },
            refused.problem
        ));
    }
    let named = counts.refused.len().min(MOST_NAMED);
    let more = counts.refused_count - counts.refused_unsigned - named;
    if more > 0 {
        printer.warn(format_args!(
            "{more} more events are refused (--json names up to a thousand)"
        ));
    }
}

/// Returns the code for partial success if the peer sent invalid events.
pub(crate) const fn exit_of(counts: &Counts) -> Exit {
    if counts.is_faultless() {
        Exit::Ok
    } else {
        Exit::Partial
    }
}

/// Formats an event as one line, with its text if any, and its trust unless `verified`.
pub(crate) fn event_line(event: &SyncEvent, trust: &str) -> String {
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
        harmless_text(text),
    );
    let line = line.trim_end();
    if trust == trust_word(EventTrust::Verified) {
        return line.to_owned();
    }
    let mark = format!("unverified ({})", harmless(trust));
    format!("{line}  {}", mark.yellow())
}

fn or_dash(name: &str) -> String {
    if name.is_empty() {
        "-".to_owned()
    } else {
        harmless(name)
    }
}

/// Formats an event as a line of `sync --jsonl`.
pub(crate) fn jsonl(checked: &CheckedEvent) -> ToldEvent {
    ToldEvent::new(&checked.event, trust_word(checked.trust))
}

/// An event and its trust.
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
