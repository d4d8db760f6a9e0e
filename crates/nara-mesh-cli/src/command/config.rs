//! `config check`, `config show`: the settings of a nara.

use std::fs;
use std::path::Path;

use serde::Serialize;
use utoipa::ToSchema;

use crate::arguments::InForce;
use crate::cli::ConfigArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::permissions;
use crate::printer::{Printer, count, render, table};
use crate::settings::{Settings, SoulSource};

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
    let settings = in_force(settings);
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

/// Returns the effective settings, with files and folders that are used without being named.
fn in_force(settings: &Settings) -> Vec<InForce> {
    let mut all = settings.sources.in_force();
    let mut set = |key: &str, value: Option<&Path>, origin: &str| {
        if let Some(setting) = all.iter_mut().find(|setting| setting.key == key) {
            setting.values = value.map(|path| path.display().to_string()).into_iter().collect();
            origin.clone_into(&mut setting.origin);
        }
    };
    let is_unset = |id: &str| settings.sources.path(id).is_none();
    const DEFAULT: &str = "the default";
    match settings.soul_source() {
        // A secret.
        Some(SoulSource::Environment) => set("soul_file", None, "the environment variable NARA_MESH_SOUL"),
        Some(SoulSource::Credential(file)) => set("soul_file", Some(file), "the credential soul"),
        Some(SoulSource::File(file)) if is_unset("soul_file") => set("soul_file", Some(file), DEFAULT),
        _ => {}
    }
    if is_unset("peers_file") {
        set("peers", settings.peers_path(), DEFAULT);
    }
    if is_unset("data_dir") {
        match settings.given_data_dir() {
            Some(folder) => set(
                "data_dir",
                Some(folder),
                "the environment variable STATE_DIRECTORY",
            ),
            None => set("data_dir", settings.running_folder().ok().as_deref(), DEFAULT),
        }
    }
    if is_unset("auth_key_file")
        && let Some(file) = settings.auth_key_file()
    {
        set("network.auth_key_file", Some(&file), "the credential auth-key");
    }
    all
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
    let peers = settings.peers_of(nara.as_ref().ok());
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

fn usable(folder: &Path) -> Outcome<String> {
    let shown = folder.display();
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
