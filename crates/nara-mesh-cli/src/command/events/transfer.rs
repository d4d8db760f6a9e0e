//! `events export`, `events import`: transfer events as JSON lines.

use futures_util::StreamExt as _;
use nara_local_api::model::{Counts, Event};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::endpoint::EventsImport;
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::import::{ImportRequest, ImportResponse};
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixSeconds;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{EventsExportArgs, EventsImportArgs};
use crate::command::read_input;
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::listing;
use crate::printer::{Printer, count, harmless};
use crate::settings::Settings;

/// Events per import request: well below the limit.
const PART: usize = 1000;

const PAGE: usize = 1000;

/// The output of `events import`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct Imported {
    events: usize,
    imported: i64,
    duplicates: i64,
    refused: i64,
    warnings: i64,
}

/// Prints the accepted events of a peer, oldest first, one bare event per line.
pub(in crate::command) fn export(args: &EventsExportArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::client(settings.local_nara()?, settings)?;
    connect::block_on_keeping(&client, settings, async {
        let filter = EventFilter {
            services: args.services.clone(),
            subjects: Vec::new(),
        };
        let peer = client.peer(&args.peer);
        let mut pages = peer.sync_pages(filter, PAGE, None);
        let (mut exported, mut counts) = (0, Counts::default());
        while let Some(page) = pages.next().await {
            let events = page?.events;
            counts += Counts::of_answer(&events);
            for checked in &events.accepted {
                printer.jsonl(Event::of(&checked.event))?;
                exported += 1;
            }
        }
        listing::warn_refused(&counts, printer);
        printer.note(format_args!(
            "{} exported, {} of them unverified, {} refused",
            count(exported, "event"),
            counts.unknown_key + counts.unsigned,
            counts.refused_count
        ));
        Ok(listing::exit_of(&counts))
    })
}

/// Imports events into the running nara with this soul; a nara accepts imports only from its owner.
pub(in crate::command) fn import(args: &EventsImportArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    let text = read_input(&args.file, "events")?;
    let mut events: Vec<SyncEvent> = Vec::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            let event = go_json::from_slice(line).map_err(|error| {
                Failure::usage(format!("{}: line {}: {error}", args.file.display(), number + 1))
            })?;
            events.push(event);
        }
    }
    let client = connect::client(nara.clone(), settings)?;
    connect::block_on_looking(&client, settings, async {
        let mut total = ImportResponse::default();
        for part in events.chunks(PART) {
            let now = UnixSeconds::new(SystemClock.now_millis().get().div_euclid(1000));
            let request = ImportRequest::signed(part.to_vec(), now, nara.keypair());
            let answer = client.peer(&args.peer).call::<EventsImport>(&request).await?;
            if !answer.success {
                return Err(Failure::failed(format!(
                    "the import was refused: {}",
                    harmless(&answer.error)
                )));
            }
            total.imported += answer.imported;
            total.duplicates += answer.duplicates;
            total.refused += answer.refused;
            total.warnings += answer.warnings;
        }
        let ImportResponse {
            imported,
            duplicates,
            refused,
            warnings,
            ..
        } = total;
        printer.line(format_args!(
            "{imported} of {} imported, {} known already, {refused} refused; {warnings} with an unknown key or without a valid signature",
            count(events.len(), "event"),
            duplicates - refused
        ))?;
        printer.json(Imported {
            events: events.len(),
            imported,
            duplicates,
            refused,
            warnings,
        })?;
        Ok(Exit::Ok)
    })
}
