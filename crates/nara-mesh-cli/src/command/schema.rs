//! `schema`: prints the JSON Schemas of the --json output.

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

/// The commands whose `--json` output has a published schema in docs/schemas.
const PRINTED: &[Printed] = &[
    Printed::of::<ledger::BackedUp>("backup"),
    Printed::of::<checkpoints::Printed>("checkpoints"),
    Printed::of::<completions::Printed>("completions"),
    Printed::of::<config::Checked>("config-check"),
    Printed::of::<config::Shown>("config-show"),
    Printed::of::<DashboardLink>("dashboard"),
    Printed::of::<demo::Printed>("demo"),
    Printed::of::<dm::Printed>("dm"),
    Printed::of::<doctor::Printed>("doctor"),
    Printed::of::<events::Printed>("events"),
    Printed::events("events-export"),
    Printed::of::<events::Imported>("events-import"),
    Printed::of::<health::Printed>("health"),
    Printed::of::<id::NewNara>("id-new"),
    Printed::of::<succeed::Printed>("id-retire"),
    Printed::of::<id::ShownNara>("id-show"),
    Printed::of::<succeed::Printed>("id-succeed"),
    Printed::of::<ledger::Checked>("ledger-check"),
    Printed::of::<man::Printed>("man"),
    Printed::of::<outbox::Dropped>("outbox-drop"),
    Printed::of::<OutboxList>("outbox-list"),
    Printed::of::<peers::Listed>("peers"),
    Printed::of::<peers::Decided>("peers-reset"),
    Printed::of::<peers::Decided>("peers-trust"),
    Printed::of::<peers::Decided>("peers-untrust"),
    Printed::lines_of::<peers::WatchedLine>("peers-watch"),
    Printed::of::<ping::Printed>("ping"),
    Printed::of::<query::Printed>("query"),
    Printed::of::<Reloaded>("reload"),
    Printed::of::<request::Printed>("request"),
    Printed::of::<ledger::Restored>("restore"),
    Printed::lines_of::<DaemonLine>("serve"),
    Printed::of::<sign::Printed>("sign"),
    Printed::of::<stash::Forgotten>("stash-drop"),
    Printed::of::<stash::Fetched>("stash-get"),
    Printed::of::<StashList>("stash-list"),
    Printed::of::<stash::Left>("stash-put"),
    Printed::of::<sync::Printed>("sync"),
    Printed::of::<TokenList>("token-list"),
    Printed::of::<MadeToken>("token-new"),
    Printed::of::<token::Revoked>("token-revoke"),
    Printed::lines_of::<DaemonLine>("up"),
    Printed::of::<verify::Printed>("verify"),
    Printed::lines_of::<watch::WatchLine>("watch"),
    Printed::of::<JourneyList>("world-list"),
    Printed::of::<world::SentPostcard>("world-send"),
    Printed::of::<zine::Printed>("zine"),
];

pub(super) fn run(args: &SchemaArgs, printer: Printer) -> Outcome {
    let command = args.command.join(" ");
    if command.is_empty() {
        for printed in PRINTED {
            printer.raw(printed.command.replace('-', " "))?;
        }
        return Ok(Exit::Ok);
    }
    let printed = of_command(&command).ok_or_else(|| {
        Failure::usage(format!("{command:?} has no published schema"))
            .hint("`nara-mesh schema` lists the commands that have one")
    })?;
    printer.raw(format_args!("{:#}", printed.schema()))?;
    Ok(Exit::Ok)
}

/// Finds an output by the name of its command: `peers list` or `peers-list`.
fn of_command(command: &str) -> Option<Printed> {
    let name = command.split_whitespace().collect::<Vec<_>>().join("-");
    PRINTED.iter().copied().find(|printed| printed.command == name)
}
