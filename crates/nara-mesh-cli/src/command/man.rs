//! `man`: prints or writes the manual pages, generated from the command line definition.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{Cli, ManArgs};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;

/// The output of `man`: the page or the files.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<String>>,
}

pub(super) fn run(args: &ManArgs, printer: Printer) -> Outcome {
    let mut command = Cli::command();
    command.build();
    let Some(folder) = &args.out else {
        let page = render(command)?;
        if printer.is_json() {
            printer.json(Printed {
                page: Some(page),
                files: None,
            })?;
        } else {
            printer.raw(page.trim_end())?;
        }
        return Ok(Exit::Ok);
    };
    fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let mut files = Vec::new();
    write_pages(command, "", folder, &mut files)?;
    for file in &files {
        printer.line(file)?;
    }
    printer.json(Printed {
        page: None,
        files: Some(files),
    })?;
    Ok(Exit::Ok)
}

fn write_pages(command: clap::Command, above: &str, folder: &Path, files: &mut Vec<String>) -> Outcome<()> {
    let name = match above {
        "" => command.get_name().to_owned(),
        above => format!("{above}-{}", command.get_name()),
    };
    let below: Vec<_> = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
        .cloned()
        .collect();
    let path = folder.join(format!("{name}.1"));
    fs::write(&path, render(command.name(name.clone()))?).map_err(|error| cannot_write(&path, error))?;
    files.push(path.display().to_string());
    for command in below {
        write_pages(command, &name, folder, files)?;
    }
    Ok(())
}

fn render(command: clap::Command) -> Outcome<String> {
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .map_err(|error| Failure::failed("the manual page cannot be rendered").caused_by(error))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written", path.display())).caused_by(error)
}
