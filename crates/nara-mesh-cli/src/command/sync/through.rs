//! `sync` through a running nara, into its ledger.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::LocalClient;
use nara_local_api::model::{Progress, Reconciled, Synced};
use serde::de::DeserializeOwned;

use super::progress::Bar;
use super::{Fetched, Printed, reconcile};
use crate::cli::{SyncArgs, SyncModeArg};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::listing;
use crate::printer::{Printer, human};
use crate::running;

pub(super) async fn run(nara: &LocalClient, args: &SyncArgs, printer: Printer) -> Outcome {
    let peer = args.peer.to_string();
    let services = args.services.join(",");
    let subjects = args.subjects.join(",");
    let (from, until) = (
        args.from.map(|from| from.to_string()),
        args.until.map(|until| until.to_string()),
    );
    let mut query = vec![("services", services.as_str())];
    query.extend(from.as_deref().map(|from| ("from_s", from)));
    query.extend(until.as_deref().map(|until| ("until_s", until)));
    if args.check {
        let begun = Instant::now();
        let checked = nara.get(&nara.peer_path(&peer, "in-sync", &query)).await?;
        return reconcile::tell_check(&checked, begun.elapsed(), args, printer);
    }
    let word = |is: bool| if is { "true" } else { "false" };
    if args.reconcile {
        query.push(("push", word(args.push)));
        let report: Reconciled = follow(nara, &nara.peer_path(&peer, "reconcile", &query), printer).await?;
        return reconcile::tell(report, args, printer);
    }
    let size = args.size.map(|size| size.to_string());
    query.push(("subjects", &subjects));
    query.push(("resume", word(args.resume)));
    query.push(("mode", mode(args.mode)));
    query.extend(size.as_deref().map(|size| ("size", size)));
    let synced = follow(nara, &nara.peer_path(&peer, "sync", &query), printer).await?;
    tell(synced, args, printer)
}

const fn mode(mode: SyncModeArg) -> &'static str {
    match mode {
        SyncModeArg::Page => "page",
        SyncModeArg::Recent => "recent",
        SyncModeArg::Sample => "sample",
        SyncModeArg::Legacy => "legacy",
    }
}

/// Shows the progress of a transfer until it ends.
async fn follow<T: DeserializeOwned>(nara: &LocalClient, path: &str, printer: Printer) -> Outcome<T> {
    let bar = Bar::new(printer);
    let mut events = nara.events(Method::POST, path).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if event.name == "done" {
            bar.finish();
            return running::decoded(&event);
        }
        let now: Progress = running::decoded(&event)?;
        bar.show(
            now.received,
            now.remaining.map(|remaining| remaining + now.received as u64),
        );
    }
    Err(Failure::new(
        Exit::Unreachable,
        "the running nara stopped before the transfer was complete",
    )
    .hint(
        "received events are stored; once the nara runs again, continue with `nara-mesh sync NAME --resume`",
    ))
}

fn tell(synced: Synced, args: &SyncArgs, printer: Printer) -> Outcome {
    let counts = synced.counts;
    if let Some(cursor) = &synced.resumed {
        printer.note(format_args!("resumed after {cursor}"));
    }
    printer.line(format_args!(
        "{} in {} from {} {}",
        listing::summary(&counts, true),
        human(Duration::from_micros(synced.elapsed_us)),
        synced.answers,
        if synced.answers == 1 { "answer" } else { "answers" }
    ))?;
    listing::warn_refused(&counts, printer);
    printer.json(Printed::Fetched(Fetched {
        counts: counts.clone(),
        ledger: None,
        peer: args.peer.to_string(),
        answers: synced.answers,
        elapsed_us: synced.elapsed_us,
        complete: synced.problem.is_none(),
    }))?;
    match synced.problem {
        Some(problem) if counts.received > 0 => Err(Failure {
            exit: Exit::Partial,
            hint: Some("received events are stored; --resume continues from there".to_owned()),
            ..problem.into()
        }),
        Some(problem) => Err(problem.into()),
        None => Ok(listing::exit_of(&counts)),
    }
}
