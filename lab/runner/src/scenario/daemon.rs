//! Kills the daemon of a managed node.

use std::path::Path;
use std::time::{Duration, Instant};

use super::naras::{Naras, until_answered};
use crate::kind::Kind;
use crate::network::Network;
use crate::table::{TO, Table, within};

const LIMIT: Duration = Duration::from_secs(90);

/// Checks that the daemon is restarted and that all naras reach its nara again.
pub(super) async fn run(network: &Network, naras: &Naras, table: &mut Table) {
    let Some(nara) = naras.second.iter().find(|nara| nara.kind == Kind::Managed) else {
        return;
    };
    let killed = kill_daemon(&network.folder_of(nara.name.as_str()));
    for first in &naras.first {
        let killed = killed.clone();
        let back = async {
            killed?;
            let begin = Instant::now();
            // Existing connections are dead, which only the timeout of a call reveals.
            until_answered(first, &nara.name, Duration::from_secs(60)).await?;
            Ok(format!("answers after {:.1} s", begin.elapsed().as_secs_f64()))
        };
        let pair = format!("{}{TO}{}", first.kind, nara.kind);
        table.note("daemon killed", &pair, within(LIMIT, back).await);
    }
}

/// Kills the `tailscaled` whose state is in this folder.
fn kill_daemon(folder: &Path) -> Result<(), String> {
    let folder = folder.to_string_lossy();
    let processes = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        let program = command.split('\0').next().unwrap_or_default();
        // Skips the shell that supervises the daemon.
        if program.ends_with("tailscaled") && command.contains(&*folder) {
            let status = std::process::Command::new("kill").args(["-9", pid]).status();
            return match status {
                Ok(status) if status.success() => Ok(()),
                other => Err(format!("kill -9 {pid}: {other:?}")),
            };
        }
    }
    Err(format!("there is no tailscaled with its state in {folder}"))
}
