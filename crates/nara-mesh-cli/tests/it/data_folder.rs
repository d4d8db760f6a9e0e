//! Data folders from which something was removed, or that are protected.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::serve::{Serving, folder_that_others_enter, give_away};
use crate::{nara_mesh, new_soul, run, text};

const ALICE: [&str; 4] = ["--soul-file", "alice.soul", "--data-dir", "alice"];

/// Runs a command of alice that must fail, and returns stderr.
fn refused(folder: &Path, args: &[&str]) -> String {
    let mut command = nara_mesh(folder);
    // Only a nara that is not refused takes as long.
    command.timeout(Duration::from_secs(60)).args(args).args(ALICE);
    let output = command.output().unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
    told
}

fn remove_ledger(folder: &Path) {
    for suffix in ["", ".lock", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.join(format!("alice/ledger.db{suffix}")));
    }
}

#[test]
fn a_folder_has_one_nara_even_if_its_ledger_and_lock_were_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, _) = Serving::start(path, "alice");
    run(path, 0, &[&["backup", "copy.db"][..], &ALICE].concat());
    remove_ledger(path);
    let serve = ["serve", "--peers", "known.toml", "--listen", "127.0.0.1:0"];
    for args in [&["restore", "copy.db"][..], &serve] {
        let told = refused(path, args);
        assert!(told.contains("a nara runs on alice already"), "{args:?}: {told}");
    }
    alice.kill();
}

#[test]
fn a_ledger_that_was_lost_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    Serving::start(path, "alice").0.end();
    run(path, 0, &[&["backup", "copy.db"][..], &ALICE].concat());

    // It ends at once, since it cannot listen there.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let serve = ["serve", "--peers", "known.toml", "--listen", &taken];
    fs::write(path.join("alice/ledger.db"), "").unwrap();
    let told = refused(path, &serve);
    assert!(
        told.contains("alice/ledger.db is empty") && told.contains("`nara-mesh restore FILE --replace "),
        "{told}"
    );
    run(
        path,
        0,
        &[&["restore", "copy.db", "--replace"][..], &ALICE].concat(),
    );
    let ledger = || {
        let args = [&["doctor", "--json", "--peers", "known.toml"][..], &ALICE].concat();
        let report: serde_json::Value =
            serde_json::from_slice(&nara_mesh(path).args(args).output().unwrap().stdout).unwrap();
        let mut checks = report["checks"].as_array().unwrap().iter();
        checks.find(|check| check["what"] == "ledger").unwrap().clone()
    };
    assert_eq!(ledger()["result"], "ok");
    fs::remove_file(path.join("alice/ledger.db")).unwrap();
    let missing = ledger();
    assert_eq!(missing["result"], "warning", "{missing}");
    let told = refused(path, &serve);
    assert!(
        told.contains("alice/ledger.db is new") && told.contains("bans"),
        "{told}"
    );
    // Once is enough.
    let told = refused(path, &serve);
    assert!(!told.contains("is new"), "{told}");

    fs::write(path.join("alice/inbox.db"), "").unwrap();
    fs::write(path.join("alice/stash.db"), "").unwrap();
    let told = refused(path, &serve);
    for file in ["inbox.db", "stash.db"] {
        let lost = told.lines().find(|line| line.contains(file));
        assert!(lost.is_some_and(|line| line.contains("empty")), "{told}");
    }
}

#[test]
fn decisions_in_a_ledger_that_can_only_be_read_are_obeyed() {
    let folder = folder_that_others_enter();
    let path = folder.path();
    new_soul(path, "bob");
    let (bob, stanza) = Serving::start(path, "bob");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let own = |args: &[&str]| {
        let args = [args, &["--peers", "peers.toml"], &ALICE].concat();
        let output = nara_mesh(path).args(args).output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    assert_eq!(own(&["ping", "bob"]).0, Some(0));
    run(path, 0, &[&["peers", "untrust", "bob"][..], &ALICE].concat());
    let (banned, told) = own(&["ping", "bob"]);
    assert_ne!(banned, Some(0), "{told}");
    fs::set_permissions(path.join("alice/ledger.db"), Permissions::from_mode(0o400)).unwrap();
    give_away(&path.join("alice"));
    let (code, told) = own(&["ping", "bob"]);
    assert_eq!(code, banned, "{told}");
    assert!(told.contains("not stored"), "{told}");
    bob.kill();
}

/// Another user left the log of the ledger behind.
#[test]
fn the_file_that_keeps_a_nara_from_writing_its_ledger_is_named() {
    let folder = folder_that_others_enter();
    let path = folder.path();
    let log = path.join("alice/ledger.db-wal");
    fs::write(&log, "").unwrap();
    give_away(&path.join("alice"));
    if std::os::unix::fs::lchown(&log, Some(0), Some(0)).is_err() {
        // Only root can make such a file.
        return;
    }
    fs::set_permissions(&log, Permissions::from_mode(0o444)).unwrap();
    let told = refused(
        path,
        &["serve", "--peers", "known.toml", "--listen", "127.0.0.1:0"],
    );
    assert!(told.contains("ledger.db-wal"), "{told}");
}
