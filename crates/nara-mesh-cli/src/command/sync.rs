//! `sync`: the events of a peer, verified, into a ledger or as JSON lines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use nara_mesh::client::{CheckedEvents, MeshClient, PeerRef};
use nara_mesh::ledger::Ledger;
use nara_proto::sync::{Cursor, EventFilter, SyncRequest};
use serde_json::json;

use crate::cli::{SyncArgs, SyncModeArg};
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::ledger_file;
use crate::listing::{Counts, jsonl};
use crate::printer::{Printer, human, micros};
use crate::settings::Settings;

pub(super) fn run(args: &SyncArgs, settings: &Settings, printer: Printer) -> Outcome {
    if args.resume && args.mode != SyncModeArg::Page {
        return Err(Failure::usage("only the mode page can be resumed").hint("leave out --resume or --mode"));
    }
    let client = connect::client(settings.local_nara()?, settings)?;
    let peer = connect::peer_ref(&args.peer)?;
    block_on(async {
        let ledger = match &args.to {
            Some(path) => Some(ledger_file::open(path).await?),
            None => None,
        };
        if let Some(ledger) = &ledger {
            ledger_file::load_keys(&**ledger, client.registry()).await?;
        }
        let mut sync = Sync {
            args,
            printer,
            ledger,
            counts: Counts::default(),
            pages: 0,
            bar: progress(printer),
        };
        let start = Instant::now();
        let ended = sync.fetch(&client, &peer).await;
        sync.bar.finish_and_clear();
        sync.report(start.elapsed(), ended)
    })
}

struct Sync<'a> {
    args: &'a SyncArgs,
    printer: Printer,
    ledger: Option<Arc<dyn Ledger>>,
    counts: Counts,
    pages: usize,
    bar: ProgressBar,
}

impl Sync<'_> {
    async fn fetch(&mut self, client: &MeshClient, peer: &PeerRef) -> Outcome<()> {
        let size = self.args.size as usize;
        let request = match self.args.mode {
            SyncModeArg::Page => return self.fetch_pages(client, peer, size).await,
            SyncModeArg::Recent => SyncRequest::recent(size),
            SyncModeArg::Sample => SyncRequest::sample(size),
        };
        let request = request
            .services(self.args.services.clone())
            .subjects(self.args.subjects.clone());
        let answer = client.fetch_sync_events(peer, request).await?;
        self.take(answer.into_inner().events).await
    }

    async fn fetch_pages(&mut self, client: &MeshClient, peer: &PeerRef, size: usize) -> Outcome<()> {
        let filter = EventFilter {
            services: self.args.services.clone(),
            subjects: self.args.subjects.clone(),
        };
        let place = cursor_place(client, peer, &filter);
        let resume = match &self.ledger {
            Some(ledger) if self.args.resume => {
                ledger.cursor(place.clone()).await.map_err(ledger_file::failed)?
            }
            _ => None,
        };
        if let Some(cursor) = &resume {
            self.printer.note(format_args!("resuming behind {cursor}"));
        }
        let mut pages = client.sync_pages(peer, filter, size, resume);
        while let Some(page) = pages.next().await {
            let page = page?;
            self.take(page.events).await?;
            self.store_cursor(&place, page.cursor).await?;
        }
        Ok(())
    }

    async fn take(&mut self, events: CheckedEvents) -> Outcome<()> {
        if self.args.jsonl {
            for checked in &events.accepted {
                self.printer.raw(jsonl(checked))?;
            }
        }
        self.counts.take(events, self.ledger.as_ref()).await?;
        self.pages += 1;
        self.bar.set_position(self.counts.received as u64);
        self.bar.set_message(format!(
            "{} pages, {} refused",
            self.pages,
            self.counts.refused.len()
        ));
        Ok(())
    }

    /// Behind what is stored, so that the next sync goes on there even if this one breaks off.
    async fn store_cursor(&self, place: &str, cursor: Cursor) -> Outcome<()> {
        match &self.ledger {
            Some(ledger) => ledger
                .store_cursor(place.to_owned(), cursor)
                .await
                .map_err(ledger_file::failed),
            None => Ok(()),
        }
    }

    fn report(&self, elapsed: Duration, ended: Outcome<()>) -> Outcome {
        let summary = format!(
            "{} in {} from {} {}",
            self.counts.summary(self.ledger.is_some()),
            human(elapsed),
            self.pages,
            if self.pages == 1 { "answer" } else { "answers" }
        );
        if self.args.jsonl {
            self.printer.note(&summary);
        } else {
            self.printer.line(&summary)?;
        }
        self.counts.warn_refused(self.printer);
        let mut object = self.counts.to_json();
        object["peer"] = json!(self.args.peer);
        object["answers"] = json!(self.pages);
        object["elapsed_us"] = json!(micros(elapsed));
        object["complete"] = json!(ended.is_ok());
        if self.args.jsonl {
            self.printer.json_line(object)?;
        } else {
            self.printer.json(object)?;
        }
        match ended {
            Err(failure) if self.counts.received > 0 => Err(Failure {
                exit: Exit::Partial,
                hint: Some("what came is kept; with --to, --resume goes on from there".to_owned()),
                ..failure
            }),
            Err(failure) => Err(failure),
            Ok(()) if self.counts.refused.is_empty() => Ok(Exit::Ok),
            Ok(()) => Ok(Exit::Partial),
        }
    }
}

/// Under which name a ledger remembers how far this sync came: another filter is another sync.
fn cursor_place(client: &MeshClient, peer: &PeerRef, filter: &EventFilter) -> String {
    let label = client
        .peer(peer)
        .map_or_else(|| peer.to_string(), |peer| peer.info().label());
    if filter.is_empty() {
        label
    } else {
        format!("{label} {:?} {:?}", filter.services, filter.subjects)
    }
}

fn progress(printer: Printer) -> ProgressBar {
    if !printer.may_animate() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {human_pos} events ({per_sec})  {msg}") {
        bar.set_style(style);
    }
    bar
}
