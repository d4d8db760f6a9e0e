//! `completions`: prints the completions of a shell.

use clap::CommandFactory as _;
use clap_complete::Shell as ClapShell;
use clap_complete_nushell::Nushell;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{Cli, CompletionsArgs, Shell};
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::Printer;

/// The output of `completions`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    shell: String,
    script: String,
}

pub(super) fn run(args: &CompletionsArgs, printer: Printer) -> Outcome {
    let script = generate(args.shell);
    if printer.is_json() {
        printer.json(Printed {
            shell: format!("{:?}", args.shell).to_lowercase(),
            script,
        })?;
    } else {
        printer.raw(script.trim_end())?;
    }
    Ok(Exit::Ok)
}

fn generate(shell: Shell) -> String {
    let mut command = Cli::command();
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    let mut write =
        |generator: ClapShell| clap_complete::generate(generator, &mut command, &name, &mut script);
    match shell {
        Shell::Bash => write(ClapShell::Bash),
        Shell::Elvish => write(ClapShell::Elvish),
        Shell::Fish => write(ClapShell::Fish),
        Shell::Powershell => write(ClapShell::PowerShell),
        Shell::Zsh => write(ClapShell::Zsh),
        Shell::Nushell => clap_complete::generate(Nushell, &mut command, &name, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}
