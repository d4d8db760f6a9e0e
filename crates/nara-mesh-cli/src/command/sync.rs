//! `sync`: fetches the events of a peer, verified, into a ledger or as JSON lines.

mod progress;
mod reconcile;
mod through;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nara_local_api::model::Counts;
use nara_mesh::client::{CheckedEvents, MeshClient, PeerRef, SyncError, SyncOptions, SyncReport};
use nara_mesh::ledger::Ledger;
use nara_proto::sync::{EventFilter, SyncRequest};
use serde::Serialize;
use utoipa::ToSchema;

use self::progress::Bar;
use crate::cli::{SyncArgs, SyncModeArg};
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file;
use crate::listing::{self, jsonl};
use crate::printer::{Printer, count, human, micros};
use crate::running;
use crate::settings::Settings;

/// The output of `sync`, by mode.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Printed {
    Compared(reconcile::InSync),
    Fetched(Fetched),
    Reconciled(reconcile::Told),
}

/// Fetched events.
#[derive(Serialize, ToSchema)]
pub(super) struct Fetched {
    #[serde(flatten)]
    counts: Counts,
    /// The ledger that stores them; `null`: that of the running nara, or none.
    ledger: Option<String>,
    peer: String,
    answers: usize,
    elapsed_us: u64,
    complete: bool,
}

/// Events per page if they are printed.
const SHOWN_PAGE: usize = 1000;

/// Events per page if they are stored.
const STORED_PAGE: usize = 5000;

pub(super) fn run(args: &SyncArgs, settings: &Settings, printer: Printer) -> Outcome {
    if args.resume && args.mode != SyncModeArg::Page {
        return Err(Failure::usage("only --mode page can be resumed").hint("omit --resume or --mode"));
    }
    let scope = reconcile::scope(args)?;
    // For another ledger or stdout, this process fetches itself.
    let apart = args.to.as_ref().map(|_| "--to");
    let apart = apart.or_else(|| args.jsonl.then_some("--jsonl"));
    if apart.is_none()
        && let Some(nara) = running::find(&args.running, settings)?
    {
        return connect::block_on(through::run(&nara, args, printer));
    }
    let client = connect::client(running::instead(&args.running, settings, apart)?, settings)?;
    let peer = &args.peer;
    connect::block_on_keeping(&client, settings, async {
        // By default, events go into the ledger of this nara.
        let own = || settings.ledger_path().ok().flatten().filter(|_| !args.jsonl);
        let path = args.to.clone().or_else(own);
        let ledger = match &path {
            Some(path) => {
                make_folder_of(path)?;
                Some(ledger_file::open(path).await?)
            }
            None => None,
        };
        if ledger.is_none() && (args.check || args.reconcile || args.resume) {
            return Err(Failure::usage("there is no ledger to compare with")
                .hint("pass --to LEDGER or --data-dir DIR"));
        }
        if let Some(ledger) = &ledger {
            ledger_file::load_peers(ledger, client.registry()).await?;
            if args.check {
                return reconcile::check(&client, peer, &**ledger, scope, args, printer).await;
            }
            if args.reconcile {
                return reconcile::fetch(&client, peer, &**ledger, scope, args, printer).await;
            }
        }
        let mut sync = Sync {
            args,
            printer,
            path,
            ledger,
            counts: Counts::default(),
            answers: 0,
            bar: Bar::new(printer),
        };
        let start = Instant::now();
        let ended = sync.fetch(&client, peer).await;
        sync.bar.finish();
        sync.report(start.elapsed(), ended)
    })
}

struct Sync<'a> {
    args: &'a SyncArgs,
    printer: Printer,
    path: Option<PathBuf>,
    ledger: Option<Arc<dyn Ledger>>,
    counts: Counts,
    answers: usize,
    bar: Bar,
}

impl Sync<'_> {
    async fn fetch(&mut self, client: &MeshClient, peer: &PeerRef) -> Outcome<()> {
        let size = self.args.size.map_or(SHOWN_PAGE, |size| size as usize);
        let request = match self.args.mode {
            SyncModeArg::Page => return self.fetch_pages(client, peer).await,
            SyncModeArg::Recent => SyncRequest::recent(size),
            SyncModeArg::Sample => SyncRequest::sample(size),
            SyncModeArg::Legacy => SyncRequest {
                max_events: i64::try_from(size).unwrap_or(i64::MAX),
                ..SyncRequest::default()
            },
        };
        let request = request
            .services(self.args.services.clone())
            .subjects(self.args.subjects.clone());
        let answer = client.fetch_sync_events(peer, request).await?;
        self.take(answer.into_inner().events).await
    }

    async fn fetch_pages(&mut self, client: &MeshClient, peer: &PeerRef) -> Outcome<()> {
        let filter = EventFilter {
            services: self.args.services.clone(),
            subjects: self.args.subjects.clone(),
        };
        let asked = self.args.size;
        let size = |default| asked.map_or(default, |size| size as usize);
        if let Some(ledger) = self.ledger.clone().filter(|_| !self.args.jsonl) {
            let options = SyncOptions::default()
                .page_size(size(STORED_PAGE))
                .resume(self.args.resume);
            return self.store_pages(client, peer, &*ledger, filter, options).await;
        }
        let place = client.peer(peer).cursor_place(&filter);
        let resume = match &self.ledger {
            Some(ledger) if self.args.resume => {
                ledger.cursor(place.clone()).await.map_err(ledger_file::failed)?
            }
            _ => None,
        };
        let mut pages = client.peer(peer).sync_pages(filter, size(SHOWN_PAGE), resume);
        while let Some(page) = pages.next().await {
            let page = page?;
            self.take(page.events).await?;
            if let Some(ledger) = &self.ledger {
                // Stored after its events, so that the next sync resumes there even if this one is
                // interrupted.
                let stored = ledger.store_cursor(place.clone(), page.cursor).await;
                stored.map_err(ledger_file::failed)?;
            }
        }
        Ok(())
    }

    async fn store_pages(
        &mut self,
        client: &MeshClient,
        peer: &PeerRef,
        ledger: &dyn Ledger,
        filter: EventFilter,
        options: SyncOptions,
    ) -> Outcome<()> {
        let (options, progress) = options.watched();
        let peer_handle = client.peer(peer);
        let sync = peer_handle.sync_into(ledger, filter, options);
        let (report, ended) = match self.bar.follow(progress, sync).await {
            Ok(report) => (report, Ok(())),
            Err(interrupted) => (interrupted.report, Err(failure(interrupted.error))),
        };
        self.count(report);
        ended
    }

    fn count(&mut self, report: SyncReport) {
        if let Some(cursor) = &report.resumed {
            self.printer.note(format_args!("resumed after {cursor}"));
        }
        self.answers = report.progress.pages;
        self.counts = Counts::of(&report.progress, &report.refused);
    }

    async fn take(&mut self, events: CheckedEvents) -> Outcome<()> {
        if self.args.jsonl {
            for checked in &events.accepted {
                self.printer.jsonl(jsonl(checked))?;
            }
        }
        self.counts += listing::take(events, self.ledger.as_ref()).await?;
        self.answers += 1;
        self.bar.show(self.counts.received, None);
        Ok(())
    }

    fn report(&self, elapsed: Duration, ended: Outcome<()>) -> Outcome {
        let summary = format!(
            "{} in {} from {} {}",
            listing::summary(&self.counts, self.ledger.is_some()),
            human(elapsed),
            self.answers,
            if self.answers == 1 { "answer" } else { "answers" }
        );
        if self.args.jsonl {
            self.printer.note(&summary);
        } else {
            self.printer.line(&summary)?;
        }
        listing::warn_refused(&self.counts, self.printer);
        if let Some(path) = &self.path {
            self.printer.note(format_args!(
                "stored {} in {}",
                count(self.counts.stored, "new event"),
                path.display()
            ));
        }
        let object = Printed::Fetched(Fetched {
            counts: self.counts.clone(),
            ledger: self.path.as_ref().map(|path| path.display().to_string()),
            peer: self.args.peer.to_string(),
            answers: self.answers,
            elapsed_us: micros(elapsed),
            complete: ended.is_ok(),
        });
        if self.args.jsonl {
            self.printer.json_line(object)?;
        } else {
            self.printer.json(object)?;
        }
        match ended {
            Err(failure) if self.counts.received > 0 => Err(Failure {
                exit: Exit::Partial,
                hint: Some("received events are stored; with --to, --resume continues from there".to_owned()),
                ..failure
            }),
            Err(failure) => Err(failure),
            Ok(()) => Ok(listing::exit_of(&self.counts)),
        }
    }
}

/// The failure for an error of a transfer.
fn failure(error: SyncError) -> Failure {
    match error {
        SyncError::Peer(error) => error.into(),
        SyncError::Ledger(error) => ledger_file::failed(error),
        error => Failure::failed("the transfer failed").caused_by(error),
    }
}
