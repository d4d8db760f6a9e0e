//! The commands, one file each.

mod checkpoints;
mod completions;
mod config;
mod conformance;
mod dashboard;
mod demo;
mod dm;
mod doctor;
mod events;
mod health;
mod id;
mod ledger;
mod man;
mod outbox;
mod peers;
mod ping;
mod query;
mod reload;
mod request;
mod schema;
mod serve;
mod serving;
mod sign;
mod stash;
mod succeed;
mod sync;
mod token;
mod up;
mod verify;
mod watch;
mod world;
mod zine;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nara_proto::event::SyncEvent;
use nara_proto::go_json;

use crate::cli::{Command, ConfigCommand, EventsArgs, EventsCommand, IdCommand, LedgerCommand, WorldCommand};
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

/// Runs a command.
pub(crate) fn run(command: &Command, settings: &Settings) -> Outcome {
    let printer = |name| Printer::new(name, settings.json, settings.quiet);
    match command {
        Command::Completions(args) => completions::run(args, printer("completions")),
        Command::Config(ConfigCommand::Check(args)) => config::check(args, settings, printer("config-check")),
        Command::Config(ConfigCommand::Show(_)) => config::show(settings, printer("config-show")),
        Command::Conformance(args) => {
            let name = if args.list {
                "conformance-list"
            } else {
                "conformance"
            };
            conformance::run(args, settings, printer(name))
        }
        Command::Dashboard(args) => dashboard::run(args, settings, printer("dashboard")),
        Command::Demo(args) => demo::run(args, printer("demo")),
        Command::Dm(args) => dm::run(args, settings, printer("dm")),
        Command::Doctor(args) => doctor::run(args, settings, printer("doctor")),
        Command::Backup(args) => ledger::backup(args, settings, printer("backup")),
        Command::Restore(args) => ledger::restore(args, settings, printer("restore")),
        Command::Ledger(LedgerCommand::Check(args)) => ledger::check(args, settings, printer("ledger-check")),
        Command::Checkpoints(args) => checkpoints::run(args, settings, printer("checkpoints")),
        Command::Events(EventsArgs {
            command: Some(EventsCommand::Export(args)),
            ..
        }) => events::export(args, settings, printer("events-export")),
        Command::Events(EventsArgs {
            command: Some(EventsCommand::Import(args)),
            ..
        }) => events::import(args, settings, printer("events-import")),
        Command::Events(args) => events::run(&args.show, settings, printer("events")),
        Command::Query(args) => query::run(args, settings, printer("query")),
        Command::Request(args) => request::run(args, settings, printer("request")),
        Command::Reload(args) => reload::run(args, settings, printer("reload")),
        Command::Health(args) => health::run(args, settings, printer("health")),
        Command::Id(IdCommand::New(args)) => id::new(args, settings, printer("id-new")),
        Command::Id(IdCommand::Retire(args)) => succeed::retire(args, settings, printer("id-retire")),
        Command::Id(IdCommand::Succeed(args)) => succeed::succeed(args, settings, printer("id-succeed")),
        Command::Id(IdCommand::Show(args)) => id::show(args, settings, printer("id-show")),
        Command::Man(args) => man::run(args, printer("man")),
        Command::Outbox(command) => outbox::run(command, settings, printer),
        Command::Peers(args) => peers::run(args, settings, printer),
        Command::Ping(args) => ping::run(args, settings, printer("ping")),
        Command::Serve(args) => serve::run(args, settings, printer("serve").of_daemon()),
        Command::Sign(args) => sign::run(args, settings, printer("sign")),
        Command::Sync(args) => sync::run(args, settings, printer("sync")),
        Command::Schema(args) => schema::run(args, printer("schema")),
        Command::Stash(command) => stash::run(command, settings, printer),
        Command::Token(command) => token::run(command, settings, printer),
        Command::Up(args) => up::run(args, settings, printer("up").of_daemon()),
        Command::Verify(args) => verify::run(args, settings, printer("verify")),
        Command::World(WorldCommand::Send(args)) => world::send(args, settings, printer("world-send")),
        Command::World(WorldCommand::List(args)) => world::list(args, settings, printer("world-list")),
        Command::Watch(args) => watch::run(args, settings, printer("watch")),
        Command::Zine(args) => zine::run(args, settings, printer("zine")),
    }
}

/// The largest input file: an event, headers or a body.
const MAX_INPUT: u64 = 16 << 20;

/// Reads a file, or stdin for `-`.
fn read_input(path: &Path, what: &str) -> Outcome<Vec<u8>> {
    let shown = path.display();
    let unreadable =
        |error: io::Error| Failure::usage(format!("the {what} file {shown} cannot be read")).caused_by(error);
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(unreadable)?)
    };
    let mut bytes = Vec::new();
    input
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// Reads an event from a file, or from stdin for `-`.
fn read_event(path: &Path) -> Outcome<SyncEvent> {
    let shown = path.display();
    let json = read_input(path, "event")?;
    go_json::from_slice(&json).map_err(|error| {
        Failure::usage(format!("{shown} is not an event: {error}"))
            .hint("an event is a JSON object with id, ts (nanoseconds), svc and the payload of its service")
    })
}
