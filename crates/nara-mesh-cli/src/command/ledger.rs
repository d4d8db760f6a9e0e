//! `backup`, `restore`, `ledger check`: operate on the ledger file.

use std::path::Path;

use nara_mesh::ledger::{ArrivalLog as _, EventSize, LedgerError, ReadLimit, SqliteLedger};
use nara_proto::sync::EventFilter;
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

/// The output of `backup`.
#[derive(Serialize, ToSchema)]
pub(super) struct BackedUp {
    file: String,
    events: usize,
    peers: usize,
    file_bytes: u64,
}

/// The output of `restore`.
#[derive(Serialize, ToSchema)]
pub(super) struct Restored {
    ledger: String,
    events: usize,
    peers: usize,
    file_bytes: u64,
}

/// The output of `ledger check`.
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

/// The number of events of a service or of a sender.
#[derive(Serialize, ToSchema)]
struct Size {
    name: String,
    events: usize,
    bytes: usize,
}

/// Copies the ledger of a nara to a new file, whether or not the nara runs.
pub(super) fn backup(args: &BackupArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = running::ledger_path(&args.running, settings)?;
    let shown = args.file.display();
    let exists = args.file.symlink_metadata().is_ok();
    if exists && !args.replace {
        return Err(Failure::failed(format!("{shown} exists")).hint(
            "write to another file, for instance with the date in its name, or pass --replace to replace it",
        ));
    }
    let to = if exists {
        ledger_file::beside(&args.file, ".replacing")
    } else {
        args.file.clone()
    };
    let copy = block_on(async {
        let ledger = ledger_file::open_to_read(&path).await?;
        if exists {
            // Remove the leftover of an earlier attempt.
            let _ = std::fs::remove_file(&to);
        }
        let copied = ledger.backup(&to).await;
        copied.map_err(|error| not_backed_up(&args.file, error))
    })?;
    if exists {
        std::fs::rename(&to, &args.file).map_err(|error| {
            Failure::failed(format!("{shown} cannot be replaced by {}", to.display())).caused_by(error)
        })?;
    }
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

/// Replaces the ledger of this nara, which must not run, by a backup.
pub(super) fn restore(args: &RestoreArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = settings.running_folder()?.join("ledger.db");
    if path.exists() && !args.replace {
        return Err(Failure::usage(format!("{} exists", path.display()))
            .hint("pass --replace to overwrite it; `nara-mesh backup FILE` saves it first"));
    }
    // If only the service manager can read the soul, the owner of the backup cannot be compared.
    if settings.has_soul()
        && let Ok(own) = settings.local_nara()
    {
        let kept_by = block_on(keeper(&args.file))?;
        if let Some(kept_by) = kept_by.filter(|name| name != own.name().as_str()) {
            return Err(Failure::usage(format!(
                "{} is a backup of {}, but the soul belongs to {}",
                args.file.display(),
                harmless(&kept_by),
                own.name()
            ))
            .hint(
                "pass the soul and the data folder of the nara that it belongs to (--soul-file, --data-dir)",
            ));
        }
    }
    // Its lock cannot tell if the ledger was removed.
    let folder = settings.running_folder()?;
    if running::runs_on(&folder) {
        return Err(running::runs_already(&folder));
    }
    make_folder_of(&path)?;
    let copy = SqliteLedger::restore(&args.file, &path).map_err(|error| not_restored(&args.file, error))?;
    printer.line(format_args!(
        "restored {} and the data about {} to {}",
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

/// Returns the nara that owns a ledger: the one that recorded its own joining. `None` if there is none, or if
/// the file is not a readable ledger, which is reported when it is restored.
async fn keeper(file: &Path) -> Outcome<Option<String>> {
    let Ok(ledger) = SqliteLedger::open_to_read(file) else {
        return Ok(None);
    };
    let greetings = EventFilter {
        services: vec!["hey-there".to_owned()],
        subjects: Vec::new(),
    };
    let mut after = 0;
    loop {
        let limit = ReadLimit::events(1000);
        let Ok(page) = ledger.arrived_after(greetings.clone(), after, limit).await else {
            return Ok(None);
        };
        let own = page.events.iter().find(|arrival| arrival.origin.is_none());
        if let Some(own) = own {
            return Ok(Some(own.event.emitter.clone()));
        }
        if page.is_newest {
            return Ok(None);
        }
        after = page.end;
    }
}

/// Checks the integrity of the whole ledger of a nara, and prints its contents by service and by sender.
pub(super) fn check(args: &RunningArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = running::ledger_path(args, settings)?;
    let check = block_on(async {
        let ledger = ledger_file::open_to_read(&path).await?;
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
        match teller.as_str() {
            "" => row("from this nara".to_owned(), *size),
            teller => row(format!("from {}", harmless(teller)), *size),
        }
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
            "restore a backup with `nara-mesh restore FILE --replace`, or move the file aside and sync again, which loses the decisions about peers",
        ),
    )
}

fn not_backed_up(file: &Path, error: LedgerError) -> Failure {
    let shown = file.display();
    match error {
        LedgerError::File { source, .. } => {
            Failure::failed(format!("the backup {shown} cannot be written")).caused_by(source)
        }
        LedgerError::Full(source) => Failure::failed(format!("not enough space for the backup {shown}"))
            .caused_by(source)
            .hint("free space on the disk, or write the backup to another one"),
        error => failed(error),
    }
}

fn not_restored(file: &Path, error: LedgerError) -> Failure {
    let shown = file.display();
    let failure = Failure::failed(format!("{shown} cannot be restored"));
    match error {
        LedgerError::Corrupt { .. } => failure
            .caused_by(error)
            .hint("this backup is damaged: restore another one; the ledger is unchanged"),
        LedgerError::Full(_) => failure
            .caused_by(error)
            .hint("free space on the disk of the ledger; the ledger is unchanged"),
        error => ledger_file::because(failure, error),
    }
}
