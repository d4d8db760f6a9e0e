//! `reload`: the nara that runs reads its files again, and says what is in force.

use serde_json::Value;

use crate::connect::block_on;
use crate::control::{self, Question};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(settings: &Settings, printer: Printer) -> Outcome {
    let folder = settings.running_folder()?;
    let Some(answer) = block_on(control::ask(&folder, Question::Reload))? else {
        return Err(
            Failure::new(Exit::Unreachable, format!("no nara runs on {}", folder.display()))
                .hint("its `serve` or `up` reads the files when it starts; check --data-dir and --soul-file"),
        );
    };
    for line in in_words(&answer) {
        printer.line(line)?;
    }
    let failed = answer["problems"]
        .as_array()
        .is_none_or(|problems| !problems.is_empty());
    printer.json(answer)?;
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

/// The answer of a nara that reloaded, as lines.
pub(super) fn in_words(answer: &Value) -> Vec<String> {
    let texts = |key: &str| -> Vec<String> {
        let values = answer[key].as_array();
        values
            .into_iter()
            .flatten()
            .filter_map(|text| Some(text.as_str()?.to_owned()))
            .collect()
    };
    let mut lines = Vec::new();
    if let Some(error) = answer["error"].as_str() {
        lines.push(format!("the nara that runs could not reload: {error}"));
    }
    if let Some(peers) = answer["configured"].as_u64() {
        lines.push(format!("peers file: {peers} peers in force"));
    }
    for name in texts("untrusted") {
        lines.push(format!("banned: {name}"));
    }
    for problem in texts("problems") {
        lines.push(format!("not in force: {problem}"));
    }
    for setting in texts("restart") {
        lines.push(format!("takes a restart: {setting}"));
    }
    lines
}
