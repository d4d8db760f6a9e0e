//! `zine`: recent events for recent events.

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::defaults;
use nara_mesh::ledger::ReadLimit;
use nara_proto::sync::MAX_EVENTS;
use serde_json::{Value, json};

use crate::cli::ZineArgs;
use crate::connect;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::ledger_file;
use crate::listing::{Counts, event_line, jsonl, trust};
use crate::printer::{Printer, count, harmless};
use crate::settings::Settings;

pub(super) fn run(args: &ZineArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::client(settings.local_nara()?, settings)?;
    let peer = &args.peer;
    connect::block_on_keeping(&client, settings, async {
        let own = || settings.ledger_path().ok().flatten().filter(|path| path.exists());
        let ledger = match args.ledger.clone().or_else(own) {
            Some(path) => Some(ledger_file::open(&path).await?),
            None => None,
        };
        let mut ours = Vec::new();
        if let Some(ledger) = &ledger {
            ledger_file::load_peers(ledger, client.registry()).await?;
            let since = SystemClock.now_nanos().saturating_sub(defaults::ZINE_WINDOW);
            ours = ledger
                .since(since, ReadLimit::events(MAX_EVENTS))
                .await
                .map_err(ledger_file::failed)?;
        }
        let sent = ours.len();
        let zine = client.peer(peer).exchange_zine(ours).await?.into_inner();
        let mut counts = Counts::default();
        let events: Vec<Value> = zine.events.accepted.iter().map(jsonl).collect();
        for checked in &zine.events.accepted {
            printer.line(format_args!(
                "{}  [{}]",
                event_line(&checked.event),
                trust(checked.trust)
            ))?;
        }
        counts.take(zine.events, ledger.as_ref()).await?;
        printer.note(format_args!(
            "sent {}, {} answered with {}",
            count(sent, "event"),
            harmless(&zine.from),
            counts.summary(ledger.is_some())
        ));
        counts.warn_refused(printer);
        let mut object = counts.to_json();
        object["from"] = json!(zine.from);
        object["created_at_s"] = json!(zine.created_at.get());
        object["sent"] = json!(sent);
        object["events"] = json!(events);
        printer.json(object)?;
        Ok(if counts.refused.is_empty() {
            Exit::Ok
        } else {
            Exit::Partial
        })
    })
}
