//! `reload`: makes the running nara read its files again, and prints the effective settings.

use nara_local_api::model::Reloaded;

use crate::cli::RunningArgs;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::printer::{Printer, count};
use crate::running;
use crate::settings::Settings;

pub(super) fn run(args: &RunningArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = running::required(args, settings)?;
    let answer = block_on(async { Ok(client.reload().await?) })?;
    for line in in_words(&answer) {
        printer.line(line)?;
    }
    printer.json(&answer)?;
    Ok(if answer.problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// Formats the answer of a nara that reloaded.
pub(super) fn in_words(answer: &Reloaded) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(peers) = answer.configured {
        lines.push(format!("peers file: {} in force", count(peers, "peer")));
    }
    lines.extend(answer.untrusted.iter().map(|name| format!("banned: {name}")));
    lines.extend(
        answer
            .problems
            .iter()
            .map(|problem| format!("not in force: {problem}")),
    );
    lines.extend(
        answer
            .restart
            .iter()
            .map(|setting| format!("needs a restart: {setting}")),
    );
    lines
}
