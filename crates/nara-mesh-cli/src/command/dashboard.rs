//! `dashboard`: opens the page of the running nara.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cli::DashboardArgs;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;

/// The program that opens a file in the browser.
const OPENER: &str = if cfg!(target_os = "macos") {
    "open"
} else {
    "xdg-open"
};

pub(super) fn run(args: &DashboardArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let link = block_on(async { Ok(nara.dashboard().await?) })?;
    let seconds = link.expires_in_ms / 1000;
    printer.note(format_args!(
        "This address opens the page once, within {seconds} s:"
    ));
    printer.line(&link.url)?;
    printer.json(&link)?;
    if args.open {
        let folder = nara.socket().parent().unwrap_or_else(|| Path::new("."));
        open(folder, &link.url)?;
    }
    Ok(Exit::Ok)
}

/// Opens the page through a file that only this user can read, because the arguments of a process are public.
fn open(folder: &Path, url: &str) -> Outcome<()> {
    let failed = |error: std::io::Error| {
        Failure::failed("the browser cannot be opened")
            .caused_by(error)
            .hint("open the address yourself: `nara-mesh dashboard` prints another one")
    };
    let file = write(folder, url).map_err(failed)?;
    let opened = Command::new(OPENER)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(failed)?;
    if opened.success() {
        return Ok(());
    }
    Err(failed(std::io::Error::other(format!("{OPENER}: {opened}"))))
}

fn write(folder: &Path, url: &str) -> std::io::Result<PathBuf> {
    // Not deleted: the browser reads it after this command has exited. Its token is invalid after the first
    // use.
    let file = folder.join("dashboard.html");
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>nara</title>\
         <meta http-equiv=\"refresh\" content=\"0;url={url}\"><a href=\"{url}\">Open the page</a></html>\n"
    );
    written.write_all(page.as_bytes())?;
    written.persist(&file).map_err(|error| error.error)?;
    Ok(file)
}
