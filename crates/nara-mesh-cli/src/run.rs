//! From the command line to the exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::command;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::print_failure;
use crate::settings::{Color, Settings};

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with code 0, the rest to stderr with code 2.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let verbose = cli.global.verbose > 0;
    match try_run(&cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            print_failure(&failure, verbose);
            failure.exit.into()
        }
    }
}

fn try_run(cli: &Cli) -> Outcome {
    // The demo provokes what servers warn about, and the doctor says itself what is wrong.
    let quiet_log = matches!(cli.command, Command::Demo(_) | Command::Doctor(_));
    let settings = Settings::resolve(&cli.global, quiet_log)?;
    let choice = match settings.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
    start_log(&settings)?;
    command::run(&cli.command, &settings)
}

fn start_log(settings: &Settings) -> Outcome<()> {
    let filter = EnvFilter::try_new(&settings.log).map_err(|error| {
        Failure::usage(format!("{:?} is not a log filter", settings.log))
            .caused_by(error)
            .hint("NARA_MESH_LOG and RUST_LOG take level or module=level, separated by commas")
    })?;
    let ansi = match settings.color {
        Color::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        Color::Always => true,
        Color::Never => false,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(settings.verbose)
        .init();
    Ok(())
}
