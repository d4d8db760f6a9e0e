//! The ledger that a command reads, whether or not its nara runs.

use std::path::{Path, PathBuf};

use super::{END_IT, find, folder_behind, hanging, status_of};
use crate::cli::RunningArgs;
use crate::connect::block_on;
use crate::failure::{Failure, Outcome};
use crate::settings::Settings;

/// Returns the path of the ledger of a command, whether or not its nara runs.
///
/// # Errors
/// It is ambiguous, or it does not exist.
pub(crate) fn ledger_path(args: &RunningArgs, settings: &Settings) -> Outcome<PathBuf> {
    let path = meant_ledger(args, settings)?;
    // Other errors are reported when it is opened.
    if !matches!(path.try_exists(), Ok(false)) {
        return Ok(path);
    }
    Err(Failure::usage(format!("there is no ledger {}", path.display()))
        .hint("it is created when the nara first runs, or by the first `sync`"))
}

/// Returns the ledger of the nara from [`find`], else the one of the soul or the data folder.
fn meant_ledger(args: &RunningArgs, settings: &Settings) -> Outcome<PathBuf> {
    const WHOSE: &str = "pass --data-dir DIR or --soul-file FILE, as for its `serve`";
    const BY_FOLDER: &str = "pass --data-dir DIR to read its ledger";
    let by_socket = settings.sources.is_on_command_line("api_socket");
    if let Some(folder) = settings.given_data_dir().filter(|_| !by_socket) {
        return Ok(folder.join("ledger.db"));
    }
    let asked = find(args, settings).and_then(|nara| {
        let status = nara.map(|nara| block_on(status_of(&nara, settings)));
        status.transpose()
    });
    let status = match asked {
        Ok(status) => status,
        Err(failure) => {
            let Some(socket) = hanging(&failure) else {
                return Err(failure);
            };
            // A nara that hangs has a ledger that can be read.
            let folder = block_on(async { Ok(folder_behind(socket).await) })?;
            let folder = folder.ok_or_else(|| failure.hint(format!("{END_IT}, or {BY_FOLDER}")))?;
            return Ok(folder.join("ledger.db"));
        }
    };
    let Some(status) = status else {
        if settings.has_identity() {
            return Ok(settings.running_folder()?.join("ledger.db"));
        }
        let problem = "no nara runs for this user, and no soul or data folder selects a ledger";
        return Err(Failure::usage(problem).hint(WHOSE));
    };
    let Some(folder) = status.data_dir else {
        return Err(Failure::failed("the running nara has no data folder").hint(WHOSE));
    };
    Ok(Path::new(&folder).join("ledger.db"))
}
