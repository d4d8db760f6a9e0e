//! `config check`, `config show`: the settings of a nara.

use std::fs;

use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::ConfigArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::permissions;
use crate::printer::{Printer, count, render, table};
use crate::settings::Settings;

/// The output of `config show`.
#[derive(Serialize, ToSchema)]
pub(super) struct Shown {
    settings: Vec<Setting>,
}

/// An effective setting.
#[derive(Serialize, ToSchema)]
struct Setting {
    key: String,
    values: Vec<String>,
    /// The origin of the value.
    from: String,
}

/// The output of `config check`.
#[derive(Serialize, ToSchema)]
pub(super) struct Checked {
    ok: bool,
    problems: Vec<Fault>,
}

/// An invalid setting.
#[derive(Serialize, ToSchema)]
struct Fault {
    message: String,
    hint: Option<String>,
}

pub(super) fn show(settings: &Settings, printer: Printer) -> Outcome {
    let settings = settings.sources.in_force();
    let mut table = table(["KEY", "VALUE", "FROM"]);
    for setting in &settings {
        let value = match &setting.values[..] {
            [] => "-".to_owned(),
            values => values.join(", "),
        };
        table.add_row([setting.key, &value, &setting.origin]);
    }
    printer.line(render(&table))?;
    let settings = settings.into_iter().map(|setting| Setting {
        key: setting.key.to_owned(),
        values: setting.values,
        from: setting.origin,
    });
    printer.json(Shown {
        settings: settings.collect(),
    })?;
    Ok(Exit::Ok)
}

/// Reads what a nara would read at its start. Creates and changes nothing.
pub(super) fn check(args: &ConfigArgs, settings: &Settings, printer: Printer) -> Outcome {
    let mut problems = Vec::new();
    let mut note = |what: &str, checked: Outcome<String>| -> Outcome<()> {
        match checked {
            Ok(found) => printer.line(format_args!("{what:<12} {found}")),
            Err(failure) => {
                printer.line(format_args!("{what:<12} {}", failure.message))?;
                problems.push(failure);
                Ok(())
            }
        }
    };
    if let Some(file) = settings.sources.config_file() {
        note("settings", Ok(file.display().to_string()))?;
    }
    let nara = settings.local_nara();
    let folder = match &nara {
        Ok(nara) => settings.data_dir(nara).map(Some),
        Err(_) => Ok(None),
    };
    note(
        "soul",
        nara.map(|nara| format!("{}, id {}", nara.name(), nara.id())),
    )?;
    note("peers", peers.map(|peers| count(peers.len(), "peer")))?;
    note(
        "metrics",
        args.up
            .serving
            .metrics()
            .map(|at| at.map_or_else(|| "off".to_owned(), |at| at.to_string())),
    )?;
    note(
        "auth key",
        settings
            .auth_key(&args.up)
            .map(|key| if key.is_some() { "given" } else { "none" }.to_owned()),
    )?;
    if let Some(folder) = folder.transpose() {
        note("data folder", folder.and_then(|folder| usable(&folder)))?;
    }
    for problem in permissions::problems(settings) {
        printer.warn(format_args!("{problem}; run: {}", problem.remedy()));
    }
    let messages = problems.iter().map(|problem| Fault {
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    });
    printer.json(Checked {
        ok: problems.is_empty(),
        problems: messages.collect(),
    })?;
    match problems.len() {
        0 => Ok(Exit::Ok),
        1 => problems.pop().map_or(Ok(Exit::Usage), Err),
        several => Err(Failure::usage(format!("{several} settings are invalid"))),
    }
}

fn usable(folder: &std::path::Path) -> Outcome<String> {
    let shown = folder.display();
    let peers = settings.peers_of(nara.as_ref().ok());
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => Err(Failure::usage(format!("{shown} is not a folder"))),
        Ok(metadata) if metadata.permissions().readonly() => {
            Err(Failure::usage(format!("{shown} is read-only"))
                .hint("pass --data-dir DIR with a folder to write to"))
        }
        Ok(_) => Ok(shown.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(format!("{shown} (created at the first start)"))
        }
        Err(error) => Err(Failure::usage(format!("{shown} cannot be used")).caused_by(error)),
    }
}
