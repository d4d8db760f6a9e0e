//! `sync --reconcile` and `sync --check`.

use std::time::{Duration, Instant};

use nara_local_api::model::Reconciled;
use nara_mesh::client::{MeshClient, PeerRef, ReconcileOptions, SyncError};
use nara_mesh::ledger::Ledger;
use nara_proto::event::Service;
use nara_proto::reconcile::Scope;
use nara_proto::time::UnixSeconds;
use serde::Deserialize;
use serde_json::json;

use super::failure;
use super::progress::Bar;
use crate::cli::SyncArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::listing::Counts;
use crate::printer::{Printer, count, human, micros};

/// What `--services`, `--from` and `--until` say.
pub(super) fn scope(args: &SyncArgs) -> Outcome<Scope> {
    let mut scope = Scope::all();
    if !args.reconcile && !args.check {
        if args.from.is_some() || args.until.is_some() {
            return Err(Failure::usage(
                "--from and --until go with --reconcile or --check",
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
    let checked = match client.peer(peer).check_in_sync(ledger, scope).await {
        Ok(check) => Checked {
            in_sync: check.in_sync,
            events_here: check.events_here,
            bytes_sent: check.bytes_sent,
            bytes_received: check.bytes_received,
        },
        Err(SyncError::Peer(error)) if error.status().is_some_and(|status| status == 404) => {
            return Err(Failure::from(error).hint(
                "the peer does not support reconciliation: sync without --check \
                     to fetch its events",
            ));
        }
        Err(error) => return Err(failure(error)),
    };
    tell_check(checked, start.elapsed(), args, printer)
}

/// Whether both have the same events.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Checked {
    in_sync: bool,
    events_here: usize,
    bytes_sent: u64,
    bytes_received: u64,
}

pub(super) fn tell_check(check: Checked, elapsed: Duration, args: &SyncArgs, printer: Printer) -> Outcome {
    let bytes = check.bytes_sent + check.bytes_received;
    let events = count(check.events_here, "event");
    printer.line(if check.in_sync {
        format!("in sync: {events} here and there, compared with {bytes} bytes")
    } else {
        format!("not in sync: {events} here, others there, compared with {bytes} bytes")
    })?;
    printer.json(json!({
        "peer": args.peer.to_string(),
        "in_sync": check.in_sync,
        "events_here": check.events_here,
        "bytes_sent": check.bytes_sent,
        "bytes_received": check.bytes_received,
        "elapsed_us": micros(elapsed),
    }))?;
    Ok(if check.in_sync { Exit::Ok } else { Exit::Partial })
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
    let (options, progress) = ReconcileOptions::default().push(args.push).watched();
    let peer_handle = client.peer(peer);
    let reconciled = peer_handle.reconcile(ledger, scope, options);
    let report = bar.follow(progress, reconciled).await;
    bar.finish();
    let report = report.map_err(failure)?;
    tell(&Reconciled::of(&report, start.elapsed()), args, printer)
}

pub(super) fn tell(report: &Reconciled, args: &SyncArgs, printer: Printer) -> Outcome {
    let counts = Counts::from(report.counts.clone());
    printer.line(if report.fell_back {
        "the peer does not support reconciliation: its events were fetched page by page".to_owned()
    } else {
        format!(
            "{} missing here, {} missing there; compared with {} bytes in {}",
            report.missing_here,
            report.missing_there,
            report.bytes_sent + report.bytes_received,
            count(report.rounds, "round"),
        )
    })?;
    if report.rejected_before > 0 {
        printer.line(format_args!(
            "{} of them not fetched, because they were rejected before",
            report.rejected_before
        ))?;
    }
    if report.gone > 0 {
        printer.line(format_args!("{} no longer at the peer", report.gone))?;
    }
    if args.push {
        printer.line(format_args!(
            "{} offered to the peer",
            count(report.pushed, "event")
        ))?;
    }
    printer.line(format_args!(
        "{} in {}",
        counts.summary(true),
        human(Duration::from_micros(report.elapsed_us))
    ))?;
    if !report.complete {
        printer.warn("the ledgers differ too much to find everything at once: run it again, or sync without --reconcile");
    }
    counts.warn_refused(printer);
    let mut object = counts.to_json();
    object["peer"] = json!(args.peer.to_string());
    object["rounds"] = json!(report.rounds);
    object["bytes_sent"] = json!(report.bytes_sent);
    object["bytes_received"] = json!(report.bytes_received);
    object["missing_here"] = json!(report.missing_here);
    object["missing_there"] = json!(report.missing_there);
    object["rejected_before"] = json!(report.rejected_before);
    object["gone"] = json!(report.gone);
    object["pushed"] = json!(report.pushed);
    object["fell_back"] = json!(report.fell_back);
    object["complete"] = json!(report.complete);
    object["elapsed_us"] = json!(report.elapsed_us);
    printer.json(object)?;
    let whole = report.complete && counts.refused_count == 0;
    Ok(if whole { Exit::Ok } else { Exit::Partial })
}
