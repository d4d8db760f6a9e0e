//! `sync --reconcile` and `sync --check`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nara_local_api::model::{Comparison, Counts, Reconciled};
use nara_mesh::client::{MeshClient, PeerHandle, PeerRef, SyncError, SyncOptions};
use nara_mesh::ledger::Ledger;
use nara_proto::event::Service;
use nara_proto::reconcile::{ItemId, Scope};
use nara_proto::sync::{Cursor, EventFilter, MAX_EVENTS};
use nara_proto::time::UnixSeconds;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::progress::Bar;
use super::{Printed, failure};
use crate::cli::SyncArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::listing;
use crate::printer::{Printer, count, human, micros};

const NANOSECOND: Duration = Duration::from_nanos(1);

/// Returns the scope given by `--services`, `--from` and `--until`.
pub(super) fn scope(args: &SyncArgs) -> Outcome<Scope> {
    let mut scope = Scope::all();
    if !args.reconcile && !args.check {
        if args.from.is_some() || args.until.is_some() {
            return Err(Failure::usage(
                "--from and --until require --reconcile or --check",
            ));
        }
        return Ok(scope);
    }
    for name in &args.services {
        let service = Service::from_wire(name).ok_or_else(|| {
            let known: Vec<_> = Service::ALL.iter().map(|service| service.as_str()).collect();
            Failure::usage(format!("{name} is not a service")).hint(format!("one of: {}", known.join(", ")))
        })?;
        scope.services.insert(service);
    }
    scope.from = args.from.map(UnixSeconds::new);
    scope.to = args.until.map(UnixSeconds::new);
    Ok(scope)
}

pub(super) async fn check(
    client: &MeshClient,
    peer: &PeerRef,
    ledger: &dyn Ledger,
    scope: Scope,
    args: &SyncArgs,
    printer: Printer,
) -> Outcome {
    let start = Instant::now();
    let peer = client.peer(peer);
    let compared = match peer.check_in_sync(ledger, scope.clone()).await {
        Ok(check) => Compared {
            in_sync: check.in_sync,
            events_here: check.events_here,
            bytes_sent: check.bytes_sent,
            bytes_received: check.bytes_received,
            pages: None,
        },
        // A v1 peer may answer 405: its router has the path with another method.
        Err(SyncError::Peer(error))
            if error
                .status()
                .is_some_and(|status| status == 404 || status == 405) =>
        {
            compare_pages(&peer, ledger, &scope, printer).await?
        }
        Err(error) => return Err(failure(error)),
    };
    tell_check(&compared, start.elapsed(), args, printer)
}

/// Prints the result of a comparison.
pub(super) fn tell_check(
    compared: &Compared,
    elapsed: Duration,
    args: &SyncArgs,
    printer: Printer,
) -> Outcome {
    let events = count(compared.events_here, "event");
    let cost = match &compared.pages {
        None => format!(
            "compared with {} bytes",
            compared.bytes_sent + compared.bytes_received
        ),
        Some(pages) => format!(
            "compared with {} on {}, {} bytes",
            count(pages.events, "event"),
            count(pages.fetched, "page"),
            compared.bytes_received
        ),
    };
    printer.line(match (compared.in_sync, &compared.pages) {
        (true, _) => format!("in sync: {events} here and there; {cost}"),
        (false, None) => format!("not in sync: {events} here, different ones there; {cost}"),
        (false, Some(pages)) => format!(
            "not in sync: {events} here, {} missing here, {} missing there; {cost}",
            pages.missing_here, pages.missing_there
        ),
    })?;
    printer.json(Printed::Compared(InSync {
        peer: args.peer.to_string(),
        in_sync: compared.in_sync,
        events_here: compared.events_here,
        bytes_sent: compared.bytes_sent,
        bytes_received: compared.bytes_received,
        by_pages: compared.pages.as_ref().map(|pages| ByPages {
            pages: pages.fetched,
            events_there: pages.events,
            missing_here: pages.missing_here,
            missing_there: pages.missing_there,
        }),
        elapsed_us: micros(elapsed),
    }))?;
    Ok(if compared.in_sync { Exit::Ok } else { Exit::Partial })
}

/// The output of `sync --check`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct InSync {
    peer: String,
    in_sync: bool,
    events_here: usize,
    bytes_sent: u64,
    bytes_received: u64,
    /// `true` if the peer does not support reconciliation.
    by_pages: Option<ByPages>,
    elapsed_us: u64,
}

/// A comparison page by page.
#[derive(Serialize, ToSchema)]
struct ByPages {
    pages: usize,
    events_there: usize,
    missing_here: usize,
    missing_there: usize,
}

/// The output of `sync --reconcile`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct Told {
    #[serde(flatten)]
    counts: Counts,
    peer: String,
    #[serde(flatten)]
    comparison: Comparison,
}

/// The result and the cost of a comparison.
#[derive(Deserialize)]
pub(super) struct Compared {
    in_sync: bool,
    events_here: usize,
    /// Bytes of frames sent: 0 for a comparison page by page.
    bytes_sent: u64,
    bytes_received: u64,
    /// `true` if the peer does not support reconciliation.
    #[serde(skip)]
    pages: Option<Pages>,
}

/// A comparison with all events of a peer.
#[derive(Default)]
struct Pages {
    fetched: usize,
    events: usize,
    missing_here: usize,
    missing_there: usize,
}

/// Compares with a peer that does not support reconciliation: fetches all its events without storing them.
async fn compare_pages(
    peer: &PeerHandle,
    ledger: &dyn Ledger,
    scope: &Scope,
    printer: Printer,
) -> Outcome<Compared> {
    printer.note("the peer does not support reconciliation: fetching all its events without storing them");
    let items = ledger
        .items(scope.clone())
        .await
        .map_err(crate::ledger_file::failed)?;
    let events_here = items.len();
    let mut not_seen: BTreeSet<ItemId> = items.ids().collect();
    let filter = EventFilter {
        services: scope
            .services
            .iter()
            .map(|service| service.as_str().to_owned())
            .collect(),
        subjects: Vec::new(),
    };
    // The last nanosecond before the scope, because the cursor is exclusive.
    let begin = scope
        .from
        .map(|from| Cursor::after_time(from.to_nanos().saturating_sub(NANOSECOND)));
    let end = |cursor: &Cursor| scope.to.is_some_and(|to| cursor.ts().to_seconds() >= to);
    let mut found = Pages::default();
    let mut bytes_received = 0;
    let mut pages = peer.sync_pages(filter, MAX_EVENTS, begin);
    while let Some(page) = pages.next().await {
        let page = page?;
        found.fetched += 1;
        bytes_received += page.bytes as u64;
        let verified = page
            .events
            .accepted
            .iter()
            .filter(|checked| checked.trust.is_verified());
        let in_scope = verified.filter(|checked| {
            let at = checked.event.ts.to_seconds();
            scope.from.is_none_or(|from| at >= from) && scope.to.is_none_or(|to| at < to)
        });
        for item in in_scope.filter_map(|checked| ItemId::of_event(&checked.event.id)) {
            found.events += 1;
            if !not_seen.remove(&item) {
                found.missing_here += 1;
            }
        }
        if end(&page.cursor) {
            break;
        }
    }
    found.missing_there = not_seen.len();
    Ok(Compared {
        in_sync: found.missing_here == 0 && found.missing_there == 0,
        events_here,
        bytes_sent: 0,
        bytes_received,
        pages: Some(found),
    })
}

pub(super) async fn fetch(
    client: &MeshClient,
    peer: &PeerRef,
    ledger: &dyn Ledger,
    scope: Scope,
    args: &SyncArgs,
    printer: Printer,
) -> Outcome {
    let bar = Bar::new(printer);
    let start = Instant::now();
    let (options, progress) = SyncOptions::default().push(args.push).watched();
    let peer_handle = client.peer(peer);
    let reconciled = peer_handle.reconcile(ledger, scope, options);
    let report = bar.follow(progress, reconciled).await;
    bar.finish();
    let report = report.map_err(failure)?;
    tell(Reconciled::of(&report, start.elapsed()), args, printer)
}

pub(super) fn tell(report: Reconciled, args: &SyncArgs, printer: Printer) -> Outcome {
    let Reconciled { counts, comparison } = report;
    printer.line(if comparison.fell_back {
        "the peer does not support reconciliation: its events were fetched page by page".to_owned()
    } else {
        format!(
            "{} missing here, {} missing there; compared with {} bytes in {}",
            comparison.missing_here,
            comparison.missing_there,
            comparison.bytes_sent + comparison.bytes_received,
            count(comparison.rounds, "round"),
        )
    })?;
    if comparison.rejected_before > 0 {
        printer.line(format_args!(
            "{} of them not fetched, because they were rejected earlier",
            comparison.rejected_before
        ))?;
    }
    if comparison.gone > 0 {
        printer.line(format_args!("{} no longer at the peer", comparison.gone))?;
    }
    if args.push {
        printer.line(format_args!(
            "{} offered to the peer",
            count(comparison.pushed, "event")
        ))?;
    }
    printer.line(format_args!(
        "{} in {}",
        listing::summary(&counts, true),
        human(Duration::from_micros(comparison.elapsed_us))
    ))?;
    if !comparison.complete {
        printer.warn("the ledgers differ too much for one run: run it again, or sync without --reconcile");
    }
    listing::warn_refused(&counts, printer);
    let exit = if comparison.complete {
        listing::exit_of(&counts)
    } else {
        Exit::Partial
    };
    printer.json(Printed::Reconciled(Told {
        counts,
        peer: args.peer.to_string(),
        comparison,
    }))?;
    Ok(exit)
}
