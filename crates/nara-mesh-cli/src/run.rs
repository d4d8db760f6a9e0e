//! Runs the program from the command line to the exit code.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::{self, Refused};
use crate::cli::Command;
use crate::command;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::{print_failure, written};
use crate::settings::Settings;
use crate::{log, output, panics, permissions, remedy};
use clap::ColorChoice;

/// How long to wait at exit for the reader of our output.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the program.
pub(crate) fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (cli, sources) = match arguments::parse(&arguments) {
        Ok(parsed) => parsed,
        Err(Refused::CommandLine(error)) => {
            // Help and version go to stdout with code 0, errors to stderr with code 2.
            let printed = error.print();
            if error.use_stderr() {
                return Exit::Usage.into();
            }
            return match written(printed.and_then(|()| io::stdout().flush())) {
                Ok(()) => Exit::Ok,
                Err(failure) => {
                    print_failure(&failure, false);
                    failure.exit
                }
            }
            .into();
        }
        Err(Refused::Setting(failure)) => {
            print_failure(&failure, false);
            return failure.exit.into();
        }
    };
    // The demo provokes server warnings, and the doctor reports problems itself.
    let quiet_log = matches!(cli.command, Command::Demo(_) | Command::Doctor(_));
    let settings = Settings::new(cli.global, sources, quiet_log);
    remedy::remember(&settings.sources);
    let exit = panics::caught(|| try_run(&cli.command, &settings)).unwrap_or_else(|failure| {
        print_failure(&failure, settings.verbose);
        failure.exit
    });
    #[cfg(feature = "otlp")]
    crate::otlp::end();
    output::flush(LAST_LINES);
    exit.into()
}

fn try_run(command: &Command, settings: &Settings) -> Outcome {
    let choice = match settings.color {
        ColorChoice::Auto => anstream::ColorChoice::Auto,
        ColorChoice::Always => anstream::ColorChoice::Always,
        ColorChoice::Never => anstream::ColorChoice::Never,
    };
    choice.write_global();
    log::start(settings)?;
    if matches!(command, Command::Serve(_) | Command::Up(_)) {
        log::say_in(settings.log_format);
        become_daemon()?;
        for problem in permissions::problems(settings) {
            tracing::warn!("{problem}; run: {}", problem.remedy());
        }
    }
    command::run(command, settings)
}

/// Makes output non-blocking: a daemon must not depend on who reads its output.
fn become_daemon() -> Outcome<()> {
    output::detach().map_err(panics::refused)?;
    // The default hook writes to stderr and may block.
    panics::tell(|panic| tracing::error!("{panic}"));
    survive_hangups().map_err(panics::refused)
}

/// Without a terminal, SIGHUP means reload: ignore it until the handler is installed.
#[cfg(unix)]
fn survive_hangups() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    if output::on_terminal() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { signal(SignalKind::hangup()).map(drop) })
}

#[cfg(not(unix))]
fn survive_hangups() -> io::Result<()> {
    Ok(())
}
