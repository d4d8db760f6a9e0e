//! `peers`: lists peers and the operator's trust decisions.

mod decide;
mod list;
mod watch;

pub(super) use decide::Printed as Decided;
pub(super) use list::Printed as Listed;
pub(super) use watch::WatchedLine;

use crate::cli::{PeersArgs, PeersCommand};
use crate::failure::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(
    args: &PeersArgs,
    settings: &Settings,
    printer: impl Fn(&'static str) -> Printer,
) -> Outcome {
    match &args.command {
        None => list::run(&args.list, settings, printer("peers")),
        Some(PeersCommand::List(args)) => list::run(args, settings, printer("peers")),
        Some(PeersCommand::Trust(args)) => decide::trust(args, settings, printer("peers-trust")),
        Some(PeersCommand::Untrust(args)) => decide::untrust(args, settings, printer("peers-untrust")),
        Some(PeersCommand::Reset(args)) => decide::reset(args, settings, printer("peers-reset")),
    }
}
