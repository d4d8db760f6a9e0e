//! Checks of this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nara_local_api::model::ClockStep;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, LedgerError};
use nara_mesh::registry::PeerEvent;
use nara_proto::identity::KeyId;
use nara_proto::time::UnixMillis;

use super::report::{Check, Report};
use crate::explain;
use crate::failure::Outcome;
use crate::hosts;
use crate::ledger_file::{self, InUse};
use crate::peer_events::{self, PeerLine};
use crate::permissions::{self, TooWide};
use crate::printer::{count, first_of};
use crate::settings::{Settings, SoulSource};

/// How long `doctor` warns about a clock that was set.
const RECENT: Duration = Duration::from_secs(24 * 3_600);

/// The start of 2026, in milliseconds: no release is older.
const OLDEST_MS: i64 = 1_767_225_600_000;

pub(super) fn version(report: &mut Report) -> Outcome<()> {
    let why = "naras of very different versions may be incompatible";
    let found = format!("nara-mesh {}", env!("CARGO_PKG_VERSION"));
    report.add(Check::ok("version", found, why))
}

pub(super) fn clock(report: &mut Report) -> Outcome<()> {
    let now = SystemClock.now_millis();
    let why = "peers refuse requests whose time is off by more than 30 s";
    let check = Check::ok("clock", explain::date(now), why);
    report.add(if now.get() < OLDEST_MS {
        check.failed("set the clock of the machine, or let NTP do it (`timedatectl set-ntp true`)")
    } else {
        check
    })
}

/// The most peers that refuse our key to list.
const OWN_KEY_SHOWN: usize = 5;

/// Why a soul matters.
const SOUL: &str = "a nara signs everything with its soul; without one it can only ping";

/// Why a port matters.
pub(super) const PORT: &str = "peers find a nara on this port of its address";

/// Why a ledger matters.
const LEDGER: &str = "the ledger holds the events of a nara and the keys of its peers";

pub(super) fn identity(nara: &LocalNara, report: &mut Report) -> Outcome<()> {
    let key_id = KeyId::from(&nara.public_key());
    let found = format!("{}, id {}, key {key_id}", nara.name(), nara.id());
    report.add(Check::ok("soul", found, SOUL))
}

/// Why what only a running nara knows is not known.
pub(super) const HANGS: &str = "not known while the nara hangs";
pub(super) const NOT_RUNNING: &str = "not known: no nara runs on this data folder";

/// Checks that the key of this nara is still accepted. `against`: evidence that a running nara collected
/// since its start, or why there is none.
pub(super) fn own_key(against: Result<&[PeerEvent], &str>, report: &mut Report) -> Outcome<()> {
    let why = "peers refuse signatures of a replaced key";
    let check = |found: String| Check::ok("own key", found, why);
    let against = match against {
        Ok(against) => against,
        Err(why) => return report.add(check(why.to_owned()).skipped()),
    };
    let told: Vec<(String, PeerLine)> = against.iter().filter_map(peer_events::line).collect();
    let Some((_, first)) = told.first() else {
        return report.add(check(
            "no peer refuses it, and no statement replaces it".to_owned(),
        ));
    };
    let next = first.remedy().unwrap_or_default().to_owned();
    let found: Vec<&str> = told
        .iter()
        .filter_map(|(text, line)| {
            let text = text.trim_start_matches("own key").trim_start();
            text.strip_suffix(line.remedy()?)
        })
        .map(|said| said.trim_end_matches(": "))
        .collect();
    report.add(check(first_of(&found, OWN_KEY_SHOWN, "; ")).failed(next))
}

/// Checks the ledger of a running nara.
pub(super) async fn running_ledger(ledger: &dyn Ledger, file: &InUse, report: &mut Report) -> Outcome<()> {
    if let Some(problem) = file.problem() {
        return report.add(Check::ok("ledger", problem, LEDGER).failed(
            "restore the old file if you moved it; else restart the nara, which then uses the current file",
        ));
    }
    let check = match ledger.count().await {
        Ok(events) => {
            let check = Check::ok("ledger", format!("in use, {}", count(events, "event")), LEDGER);
            with_room(check, file.path()).await
        }
        Err(error) => {
            let next = match error {
                LedgerError::Corrupt { .. } | LedgerError::Damaged { .. } => {
                    "stop the nara, examine the damage with `nara-mesh ledger check`, and restore a backup with `nara-mesh \
                     restore FILE --replace`"
                }
                _ => "check the disk of the data folder",
            };
            Check::ok("ledger", error.to_string(), LEDGER).failed(next)
        }
    };
    report.add(check)
}

/// Free space below this causes a warning, as in the alerts.
const ALMOST_FULL: u64 = 256 << 20;

/// Adds the free disk space to a check of a ledger.
async fn with_room(check: Check, file: &Path) -> Check {
    let folder = file.parent().unwrap_or_else(|| Path::new(".")).to_owned();
    let shown = folder.display().to_string();
    let room = tokio::task::spawn_blocking(move || ledger_file::room_in(&folder)).await;
    if let Ok(Err(error)) = room {
        let found = format!("{}; but nothing can be written to {shown}: {error}", check.found);
        return Check { found, ..check }.failed(format!(
            "free space on the disk of {shown}, or make it writable; stored data is safe, and no restart is needed"
        ));
    }
    match ledger_file::disk_free(file).filter(|free| *free < ALMOST_FULL) {
        Some(free) => {
            let found = format!("{}; {} MiB are free on its disk", check.found, free >> 20);
            Check { found, ..check }.warning("free space there before the disk is full")
        }
        None => check,
    }
}

/// Checks the address of a running nara. `of_machine`: the address is one of this machine, not of a node in
/// the process.
pub(super) fn serving(address: Option<SocketAddr>, of_machine: bool, report: &mut Report) -> Outcome<()> {
    let why = PORT;
    report.add(match address {
        Some(address) if of_machine && hosts::is_missing(address.ip()) => {
            let found = format!("this nara serves on {address}, but no interface of this machine has that address now");
            Check::ok("port", found, why).failed(
                "assign an address to the interface: with `--listen INTERFACE`, `serve` follows it; else start \
                 the nara again with another --listen",
            )
        }
        Some(address) => Check::ok("port", format!("this nara serves on {address}"), why),
        None => Check::ok("port", "this nara does not listen", why).warning("run it with `nara-mesh serve`"),
    })
}

/// Skips the check of the port of a nara that hangs: nothing answers there, and no other program is in its way.
pub(super) fn port_of_hanging(report: &mut Report) -> Outcome<()> {
    report.add(Check::ok("port", HANGS, PORT).skipped())
}

/// Checks whether the clock was set while the nara ran. `step`: the last step that a running nara detected, or
/// why it is not known.
pub(super) fn clock_steps(step: Result<Option<ClockStep>, &str>, report: &mut Report) -> Outcome<()> {
    let why =
        "peers with correct clocks refuse signatures made with a wrong time, and theirs are refused here";
    let check = |found: String| Check::ok("clock steps", found, why);
    let step = match step {
        Ok(step) => step,
        Err(why) => return report.add(check(why.to_owned()).skipped()),
    };
    let Some(step) = step else {
        return report.add(check("the clock was not set while the nara ran".to_owned()));
    };
    let at = UnixMillis::new(step.at_ms);
    let check = check(format!("the clock was {} on {}", step.text, explain::date(at)));
    let age = SystemClock.now_millis().abs_diff(at);
    report.add(if age < RECENT {
        check.warning(
            "let NTP set the clock before the nara starts (`systemctl enable systemd-time-wait-sync`), and find the program that set it",
        )
    } else {
        check
    })
}

/// Checks the soul. Without one, a nara that `hangs` may have it.
pub(super) fn soul(settings: &Settings, hangs: bool, report: &mut Report) -> Outcome<Option<LocalNara>> {
    match settings.local_nara() {
        Err(_) if hangs && !settings.has_soul() => {
            report.add(Check::ok("soul", HANGS, SOUL).skipped())?;
            Ok(None)
        }
        Ok(nara) => {
            identity(&nara, report)?;
            Ok(Some(nara))
        }
        Err(failure) => {
            report.add(Check::not_usable("soul", failure, SOUL, UNREADABLE))?;
            Ok(None)
        }
    }
}

/// The hint for a file that this user cannot read.
const UNREADABLE: &str = "check --soul-file and --name, and run this command as the owner of the file";

pub(super) fn soul_file(settings: &Settings, report: &mut Report) -> Outcome<()> {
    let why = "a user who can read the soul can impersonate this nara";
    let check = |found: String| Check::ok("soul file", found, why);
    report.add(match settings.soul_source() {
        None => check("no soul was given".to_owned()).skipped(),
        Some(SoulSource::Environment) => check("the soul is in the environment".to_owned())
            .warning("other processes of this user can read it; use a file with mode 0600 (--soul-file)"),
        Some(SoulSource::File(path) | SoulSource::Credential(path)) => match settings.soul_and_nara() {
            Ok(_) => check(path.display().to_string()),
            Err(failure) => Check::not_usable("soul file", failure, why, UNREADABLE),
        },
    })
}

/// Checks that other users can neither read nor change protected files.
pub(super) fn permissions(settings: &Settings, report: &mut Report) -> Outcome<()> {
    let why = "read access to an auth key allows adding nodes; write access to the peers file or the ledger allows changing whom to trust";
    let problems = permissions::problems(settings);
    let check = |found: String| Check::ok("permissions", found, why);
    if problems.is_empty() {
        return report.add(check("no other user can read or change secrets".to_owned()));
    }
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let remedies: Vec<String> = problems.iter().map(TooWide::remedy).collect();
    report.add(check(found.join("; ")).warning(remedies.join("; ")))
}

/// Returns whether the file can be used.
pub(super) fn peers_file(
    settings: &Settings,
    nara: Option<&LocalNara>,
    report: &mut Report,
) -> Outcome<bool> {
    let why = "it pins the keys of peers, and has the addresses of peers that no network reports";
    let Some(path) = settings.peers_path() else {
        let check = Check::ok(
            "peers file",
            "no peers file: peers are found only on the network",
            why,
        );
        report.add(check)?;
        return Ok(true);
    };
    match settings.peers_of(nara) {
        Ok(peers) => {
            let found = format!("{}, {}", path.display(), count(peers.len(), "peer"));
            report.add(Check::ok("peers file", found, why))?;
            Ok(true)
        }
        Err(failure) => {
            let next = "`nara-mesh peers --help` shows the form of the file";
            report.add(Check::not_usable("peers file", failure, why, next))?;
            Ok(false)
        }
    }
}

pub(super) async fn ledger(
    settings: &Settings,
    nara: Option<&LocalNara>,
    report: &mut Report,
) -> Outcome<()> {
    let check = |found: String| Check::ok("ledger", found, LEDGER);
    let folder = match (settings.given_data_dir(), nara) {
        (Some(folder), _) => Ok(folder.to_owned()),
        (None, Some(nara)) => settings.data_dir(nara),
        (None, None) => {
            return report.add(check("without a soul, the ledger is unknown".to_owned()).skipped());
        }
    };
    let path = match folder {
        Ok(folder) => folder.join("ledger.db"),
        Err(failure) => {
            return report.add(Check::not_usable(
                "ledger",
                failure,
                LEDGER,
                "pass --data-dir DIR",
            ));
        }
    };
    let mut shown = path.display().to_string();
    if settings.given_data_dir().is_none() {
        shown += " (the default data folder)";
    }
    // Other errors are reported below.
    if matches!(path.try_exists(), Ok(false)) {
        return report.add(if ledger_file::beside(&path, ".lock").exists() {
            check(format!(
                "{shown} is missing, but a nara ran here before: its events, pinned keys and bans are lost"
            ))
            .warning("put it back, or restore a backup with `nara-mesh restore FILE --replace`; else the next start makes a new one")
        } else {
            check(format!("{shown} does not exist yet: `serve` creates it"))
        });
    }
    let opened = match ledger_file::open(&path).await {
        Ok(ledger) => ledger.count().await.map_err(ledger_file::failed),
        Err(failure) => Err(failure),
    };
    report.add(match opened {
        Ok(events) => with_room(check(format!("{shown}, {}", count(events, "event"))), &path).await,
        Err(failure) => {
            let next = "check its owner and the disk space; if it is damaged, restore a backup with `nara-mesh restore FILE --replace`";
            Check::not_usable("ledger", failure, LEDGER, next)
        }
    })
}
