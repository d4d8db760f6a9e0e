//! `schema`: prints the JSON Schemas of the --json output.

#[cfg(test)]
mod tests;

use nara_local_api::model::{
    DashboardLink, JourneyList, MadeToken, OutboxList, Reloaded, StashList, TokenList,
};

use super::{
    checkpoints, completions, config, demo, dm, doctor, events, health, id, ledger, man, outbox, peers, ping,
    query, request, sign, stash, succeed, sync, token, verify, watch, world, zine,
};
use crate::cli::SchemaArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::lines::DaemonLine;
use crate::printer::Printer;
use crate::schema::Printed;

/// Declares the commands whose `--json` output has a published schema, with that schema. The file of a new one is empty
/// at first.
macro_rules! published {
    ($($command:literal: $declare:expr,)+) => {
        const PUBLISHED: &[Printed] = &[
            $($declare($command, include_str!(concat!("../../../../docs/schemas/", $command, ".json")))),+
        ];
    };
}

published! {
    "backup": Printed::of::<ledger::BackedUp>,
    "checkpoints": Printed::of::<checkpoints::Printed>,
    "completions": Printed::of::<completions::Printed>,
    "config-check": Printed::of::<config::Checked>,
    "config-show": Printed::of::<config::Shown>,
    "dashboard": Printed::of::<DashboardLink>,
    "demo": Printed::of::<demo::Printed>,
    "dm": Printed::of::<dm::Printed>,
    "doctor": Printed::of::<doctor::Printed>,
    "events": Printed::of::<events::Printed>,
    "events-export": Printed::events,
    "events-import": Printed::of::<events::Imported>,
    "health": Printed::of::<health::Printed>,
    "id-new": Printed::of::<id::NewNara>,
    "id-retire": Printed::of::<succeed::Printed>,
    "id-show": Printed::of::<id::ShownNara>,
    "id-succeed": Printed::of::<succeed::Printed>,
    "ledger-check": Printed::of::<ledger::Checked>,
    "man": Printed::of::<man::Printed>,
    "outbox-drop": Printed::of::<outbox::Dropped>,
    "outbox-list": Printed::of::<OutboxList>,
    "peers": Printed::of::<peers::Listed>,
    "peers-reset": Printed::of::<peers::Decided>,
    "peers-trust": Printed::of::<peers::Decided>,
    "peers-untrust": Printed::of::<peers::Decided>,
    "peers-watch": Printed::lines_of::<peers::WatchedLine>,
    "ping": Printed::of::<ping::Printed>,
    "query": Printed::of::<query::Printed>,
    "reload": Printed::of::<Reloaded>,
    "request": Printed::of::<request::Printed>,
    "restore": Printed::of::<ledger::Restored>,
    "serve": Printed::lines_of::<DaemonLine>,
    "sign": Printed::of::<sign::Printed>,
    "stash-drop": Printed::of::<stash::Forgotten>,
    "stash-get": Printed::of::<stash::Fetched>,
    "stash-list": Printed::of::<StashList>,
    "stash-put": Printed::of::<stash::Left>,
    "sync": Printed::of::<sync::Printed>,
    "token-list": Printed::of::<TokenList>,
    "token-new": Printed::of::<MadeToken>,
    "token-revoke": Printed::of::<token::Revoked>,
    "up": Printed::lines_of::<DaemonLine>,
    "verify": Printed::of::<verify::Printed>,
    "watch": Printed::lines_of::<watch::WatchLine>,
    "world-list": Printed::of::<JourneyList>,
    "world-send": Printed::of::<world::SentPostcard>,
    "zine": Printed::of::<zine::Printed>,
}

/// The schema of `conformance`, which is written by hand.
const WRITTEN: (&str, &str) = (
    "conformance",
    include_str!("../../../../docs/schemas/conformance.json"),
);

pub(super) fn run(args: &SchemaArgs, printer: Printer) -> Outcome {
    let command = args.command.join(" ");
    let mut schemas: Vec<(&str, &str)> = PUBLISHED
        .iter()
        .map(|printed| (printed.command, printed.schema))
        .chain([WRITTEN])
        .collect();
    schemas.sort_unstable();
    if command.is_empty() {
        for (name, _) in schemas {
            printer.raw(name.replace('-', " "))?;
        }
        return Ok(Exit::Ok);
    }
    // `peers list` or `peers-list`.
    let name = command.split_whitespace().collect::<Vec<_>>().join("-");
    let (_, schema) = schemas.iter().find(|schema| schema.0 == name).ok_or_else(|| {
        Failure::usage(format!("{command:?} has no published schema"))
            .hint("`nara-mesh schema` lists the commands that have one")
    })?;
    printer.raw(schema.trim_end())?;
    Ok(Exit::Ok)
}
