//! `backup`, `restore`, `ledger check`: the ledger as a file.

use nara_mesh::ledger::{EventSize, LedgerError, SqliteLedger};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{BackupArgs, RestoreArgs, RunningArgs};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file::{self, failed};
use crate::printer::{Printer, count, harmless, render, table};
use crate::running;
use crate::settings::Settings;

/// What `backup` prints.
#[derive(Serialize, ToSchema)]
pub(super) struct BackedUp {
    file: String,
    events: usize,
    peers: usize,
    file_bytes: u64,
}

/// What `restore` prints.
#[derive(Serialize, ToSchema)]
pub(super) struct Restored {
    ledger: String,
    events: usize,
    peers: usize,
    file_bytes: u64,
}

/// What `ledger check` prints.
#[derive(Serialize, ToSchema)]
pub(super) struct Checked {
    sound: bool,
    damage: Vec<String>,
    schema_version: i64,
    events: usize,
    bytes: usize,
    unverified: usize,
    file_bytes: u64,
    peers: usize,
    services: Vec<Size>,
    tellers: Vec<Size>,
}

/// The events of a service, or of a nara that told them.
#[derive(Serialize, ToSchema)]
struct Size {
    name: String,
    events: usize,
    bytes: usize,
}

/// Copies the ledger of a nara to a new file, whether the nara runs or not.
pub(super) fn backup(args: &BackupArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = running::ledger_path(&args.running, settings)?;
    let copy = block_on(async {
        let ledger = SqliteLedger::open_to_read(&path).map_err(|error| unusable(&path, error))?;
        ledger.backup(&args.file).await.map_err(failed)
    })?;
    let shown = args.file.display();
    printer.line(format_args!(
        "copied {} of {} to {shown}",
        count(copy.events, "event"),
        path.display()
    ))?;
    printer.json(BackedUp {
        file: args.file.display().to_string(),
        events: copy.events,
        peers: copy.peers,
        file_bytes: copy.file_bytes,
    })?;
    Ok(Exit::Ok)
}

/// Puts a backup in the place of the ledger of this nara, which must not run.
pub(super) fn restore(args: &RestoreArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = settings.running_folder()?.join("ledger.db");
    if path.exists() && !args.replace {
        return Err(Failure::usage(format!("{} exists", path.display()))
            .hint("pass --replace to lose what it has; `nara-mesh backup FILE` keeps it"));
    }
    make_folder_of(&path)?;
    let copy = SqliteLedger::restore(&args.file, &path).map_err(|error| {
        Failure::failed(format!("{} cannot be restored", args.file.display())).caused_by(error)
    })?;
    printer.line(format_args!(
        "restored {} and what is known of {} to {}",
        count(copy.events, "event"),
        count(copy.peers, "nara"),
        path.display()
    ))?;
    printer.json(Restored {
        ledger: path.display().to_string(),
        events: copy.events,
        peers: copy.peers,
        file_bytes: copy.file_bytes,
    })?;
    Ok(Exit::Ok)
}

/// Reads the whole ledger of a nara, and says whether it is sound and what it holds.
pub(super) fn check(args: &RunningArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = running::ledger_path(args, settings)?;
    let check = block_on(async {
        let ledger = SqliteLedger::open_to_read(&path).map_err(|error| unusable(&path, error))?;
        ledger.check().await.map_err(failed)
    })?;
    let mut table = table(["WHAT", "EVENTS", "BYTES"]);
    let mut row = |what: String, size: EventSize| {
        table.add_row([what, size.events.to_string(), size.bytes.to_string()]);
    };
    row("all".to_owned(), check.events);
    row("not verified".to_owned(), check.unverified);
    for (service, size) in &check.services {
        row(format!("service {}", harmless(service)), *size);
    }
    for (teller, size) in &check.tellers {
        row(format!("told by {}", harmless(teller)), *size);
    }
    printer.line(render(&table))?;
    for damage in &check.damage {
        printer.warn(format_args!("damaged: {damage}"));
    }
    let sizes = |sizes: &[(String, EventSize)]| -> Vec<Size> {
        let size = |(name, size): &(String, EventSize)| Size {
            name: name.clone(),
            events: size.events,
            bytes: size.bytes,
        };
        sizes.iter().map(size).collect()
    };
    printer.json(Checked {
        sound: check.damage.is_empty(),
        damage: check.damage.clone(),
        schema_version: check.schema,
        events: check.events.events,
        bytes: check.events.bytes,
        unverified: check.unverified.events,
        file_bytes: check.file_bytes,
        peers: check.peers,
        services: sizes(&check.services),
        tellers: sizes(&check.tellers),
    })?;
    if check.damage.is_empty() {
        printer.line("the ledger is sound")?;
        return Ok(Exit::Ok);
    }
    Err(
        Failure::failed(format!("the ledger {} is damaged", path.display())).hint(
            "restore a backup with `nara-mesh restore FILE --replace`, or move it aside and sync again",
        ),
    )
}

fn unusable(path: &std::path::Path, error: LedgerError) -> Failure {
    let failure = Failure::failed(format!("the ledger {} cannot be opened", path.display()));
    ledger_file::because(failure, error)
}
