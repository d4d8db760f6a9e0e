//! The program `nara-mesh`: run a nara, and talk to naras on a mesh.
#![forbid(unsafe_code)]

mod arguments;
mod cli;
mod command;
mod config_file;
mod connect;
mod exit;
mod explain;
mod failure;
mod found;
mod hosts;
mod journal;
mod keeping;
mod ledger_file;
mod lines;
mod listing;
mod log;
mod network;
mod network_choice;
mod open_files;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod panics;
mod peer_events;
mod permissions;
mod places;
mod printer;
mod remedy;
mod run;
mod running;
mod schema;
mod service_manager;
mod settings;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run()
}
