//! The program `nara-mesh`: run a nara, and talk to naras on a mesh.
#![forbid(unsafe_code)]

mod address;
mod cli;
mod command;
mod connect;
mod exit;
mod explain;
mod failure;
mod keeping;
mod ledger_file;
mod listing;
mod network;
mod peer_events;
mod peers_file;
mod printer;
mod run;
mod settings;
mod soul_file;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run()
}
