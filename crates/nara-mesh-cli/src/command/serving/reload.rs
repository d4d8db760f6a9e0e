//! Reloads the configuration, the peers and the trust decisions.

use std::ffi::OsString;

use nara_local_api::model::Reloaded;
use nara_mesh::Nara;
use nara_mesh::peers_file::PeerEntry;
use tokio::sync::watch;

use super::work::Work;
use crate::arguments::{self, Refused};
use crate::failure::{Failure, Outcome};
use crate::keeping;
use crate::lines::NaraLine;
use crate::printer::Printer;
use crate::service_manager;
use crate::settings::Settings;

/// The sources of a reload, and the tasks to notify.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    /// The settings at the start.
    pub(super) started: &'a Settings,
    /// The peers whose host names are resolved.
    pub(super) hosts: &'a watch::Sender<Vec<PeerEntry>>,
    pub(super) printer: Printer,
}

/// Reads the configuration and the peers again and applies them. An error in one part does not prevent the
/// others, so that a ban always takes effect. Returns the effective state.
pub(super) async fn reload(nara: &Nara, files: &Files<'_>, work: &Work<'_>) -> Outcome<Reloaded> {
    service_manager::reloading();
    let in_force = apply(nara, files).await;
    // Also after an error: the rest is in force, and the nara serves.
    service_manager::ready(work.status());
    in_force
}

async fn apply(nara: &Nara, files: &Files<'_>) -> Outcome<Reloaded> {
    let Files {
        started,
        hosts,
        printer,
    } = *files;
    let mut problems = Vec::new();
    let fresh = match read_again() {
        Ok(fresh) => Some(fresh),
        Err(failure) => {
            problems.push(failure.message);
            None
        }
    };
    let settings = fresh.as_ref().unwrap_or(started);
    let mut configured = None;
    let applied = match settings.peers_of(nara.local()) {
        Ok(peers) => {
            configured = Some(peers.len());
            let infos = peers.iter().map(PeerEntry::to_info).collect();
            hosts.send_replace(peers);
            nara.reconfigure(infos).await.map_err(Failure::from)
        }
        Err(failure) => {
            problems.push(failure.message);
            nara.apply_decisions().await.map_err(crate::ledger_file::failed)
        }
    };
    let mut decided = Vec::new();
    let mut decisions_hold = true;
    match applied {
        Ok(recalled) => {
            keeping::log(&recalled);
            decided = recalled.decided;
        }
        Err(failure) => {
            decisions_hold = false;
            problems.push(failure.message);
        }
    }
    for problem in &problems {
        printer.warn(format_args!("not reloaded: {problem}"));
    }
    let peers = nara.registry().peers();
    let untrusted = peers
        .iter()
        .map(|peer| peer.info())
        .filter(|info| info.is_untrusted());
    let is_configuration = fresh.is_some();
    let restart = fresh.map(|fresh| changed(started, &fresh)).unwrap_or_default();
    let in_force = Reloaded {
        configured,
        decided: decided.iter().map(ToString::to_string).collect(),
        untrusted: untrusted.map(|info| info.label()).collect(),
        problems,
        restart: restart.into_iter().map(str::to_owned).collect(),
    };
    printer.note(summary([
        ("configuration", is_configuration),
        ("peers", in_force.configured.is_some()),
        ("decisions", decisions_hold),
    ]));
    printer.json_line(NaraLine::Reloaded(in_force.clone()))?;
    Ok(in_force)
}

/// Describes which parts were reloaded.
fn summary(parts: [(&str, bool); 3]) -> String {
    let named = |is: bool| {
        let parts: Vec<&str> = parts
            .iter()
            .filter(|part| part.1 == is)
            .map(|part| part.0)
            .collect();
        parts.join(" and ")
    };
    match (named(true), named(false)) {
        (done, left) if left.is_empty() => format!("reloaded: {}", done.replacen(" and ", ", ", 1)),
        (done, left) if done.is_empty() => {
            format!("nothing reloaded: {left} unchanged")
        }
        (done, left) => format!("reloaded: {done}; {left} unchanged"),
    }
}

/// Reads the settings from the files again.
pub(super) fn read_again() -> Outcome<Settings> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments::parse(&arguments) {
        Ok((cli, sources)) => Ok(Settings::new(cli.global, sources, false)),
        Err(Refused::Setting(failure)) => Err(failure),
        Err(Refused::CommandLine(error)) => Err(Failure::usage(error.to_string())),
    }
}

/// Returns the changed settings that need a restart.
fn changed(started: &Settings, fresh: &Settings) -> Vec<&'static str> {
    let before = started.sources.in_force();
    let fresh = fresh.sources.in_force();
    let differs = |(before, now): (&arguments::InForce, &arguments::InForce)| {
        (before.values != now.values && now.key != "peers").then_some(now.key)
    };
    before.iter().zip(&fresh).filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_reloaded_is_said_and_what_was_not() {
        let summary = |parts: [bool; 3]| {
            let names = ["configuration", "peers", "decisions"];
            super::summary(std::array::from_fn(|at| (names[at], parts[at])))
        };
        assert_eq!(summary([true; 3]), "reloaded: configuration, peers and decisions");
        assert_eq!(
            summary([true, false, true]),
            "reloaded: configuration and decisions; peers unchanged"
        );
        assert_eq!(
            summary([false, true, false]),
            "reloaded: peers; configuration and decisions unchanged"
        );
        assert!(summary([false; 3]).starts_with("nothing reloaded"));
    }
}
