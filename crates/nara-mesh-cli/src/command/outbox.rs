//! `outbox`: lists and drops messages that wait for their recipients.

use nara_local_api::model::{OutboxEntry, OutboxState};
use nara_proto::time::UnixMillis;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{OutboxCommand, OutboxDropArgs, OutboxListArgs};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless, render, table};
use crate::running;
use crate::settings::Settings;

/// The output of `outbox drop`.
#[derive(Serialize, ToSchema)]
pub(super) struct Dropped {
    messages: Vec<OutboxEntry>,
}

pub(super) fn run(
    command: &OutboxCommand,
    settings: &Settings,
    printer: impl Fn(&'static str) -> Printer,
) -> Outcome {
    match command {
        OutboxCommand::List(args) => list(args, settings, printer("outbox-list")),
        OutboxCommand::Drop(args) => take_back(args, settings, printer("outbox-drop")),
    }
}

/// The failure if no running nara can keep a message.
pub(super) fn no_outbox(what: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("no running nara can keep the {what}"))
        .hint("start it with `nara-mesh up` or `nara-mesh serve`, or send without --later")
}

/// Reports that a message waits for its recipient.
pub(super) fn say_that_it_waits(entry: &OutboxEntry, printer: Printer) -> Outcome {
    let peer = harmless(&entry.peer);
    printer.line(format_args!(
        "{peer} cannot be reached now: message {} waits until {peer} is seen, or {}",
        entry.id,
        explain::date(UnixMillis::new(entry.expires_at_ms))
    ))?;
    if let Some(problem) = &entry.problem {
        printer.note(harmless(&problem.detail));
    }
    if !entry.is_durable {
        printer.warn("the outbox of this nara is in memory: the message is lost when the nara stops");
    }
    Ok(Exit::Ok)
}

fn list(args: &OutboxListArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let outbox = block_on(async { Ok(nara.outbox().await?) })?;
    let mut rows = table([
        "ID", "PEER", "KIND", "STATE", "WRITTEN", "EXPIRES", "TRIES", "WHY",
    ]);
    for entry in &outbox.messages {
        rows.add_row([
            entry.id.to_string(),
            harmless(&entry.peer),
            entry.kind.as_str().to_owned(),
            entry.state.as_str().to_owned(),
            explain::date(UnixMillis::new(entry.queued_at_ms)),
            explain::date(UnixMillis::new(entry.expires_at_ms)),
            entry.attempts.to_string(),
            entry
                .problem
                .as_ref()
                .map_or_else(|| "-".to_owned(), |problem| harmless(&problem.detail)),
        ]);
    }
    printer.line(render(&rows))?;
    if !outbox.is_durable {
        printer.note("The outbox of this nara is in memory: waiting messages are lost when the nara stops.");
    }
    printer.json(&outbox)?;
    Ok(Exit::Ok)
}

fn take_back(args: &OutboxDropArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let mut dropped: Vec<OutboxEntry> = Vec::new();
    let mut failures: Vec<Failure> = Vec::new();
    for &id in &args.ids {
        match block_on(async { Ok(nara.drop_message(id).await?) }) {
            Ok(entry) => {
                printer.line(described(&entry))?;
                dropped.push(entry);
            }
            // Continue with the other messages.
            Err(failure) => failures.push(failure),
        }
    }
    let codes: Vec<Exit> = failures.iter().map(|failure| failure.exit).collect();
    let exit = Exit::of_many(dropped.len(), &codes);
    printer.json(Dropped { messages: dropped })?;
    let Some(last) = failures.pop() else {
        return Ok(exit);
    };
    for earlier in failures {
        printer.warn(earlier.message);
    }
    Err(Failure {
        hint: Some("`nara-mesh outbox list` shows the messages".to_owned()),
        exit,
        ..last
    })
}

fn described(entry: &OutboxEntry) -> String {
    let (id, peer) = (entry.id, harmless(&entry.peer));
    match (entry.state, entry.may_have_arrived) {
        (OutboxState::Waiting, false) => format!("message {id} is withdrawn: {peer} did not receive it"),
        (OutboxState::Waiting, true) => {
            format!(
                "message {id} is withdrawn; {peer} may have received it, because an attempt ended without an answer"
            )
        }
        (state, _) => format!(
            "message {id} to {peer} ({}) is removed from the list",
            state.as_str()
        ),
    }
}
