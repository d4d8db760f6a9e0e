//! Commands that write a secret or a decision, on a full disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{new_soul, run, text};

/// Runs the program with a file size limit of zero: each write fails as on a full disk. Returns stderr.
fn full(folder: &Path, args: &[&str]) -> String {
    let output = limited(folder, args);
    let said = text(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{args:?}\n{said}");
    // It fails with a message, not by a signal.
    assert!(
        output.status.code().is_some() && said.contains("error:"),
        "{args:?}\n{said}"
    );
    said
}

/// Returns a command with a file size limit of zero.
fn limited(folder: &Path, args: &[&str]) -> Output {
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
    shell(folder, script, args).output().unwrap()
}

fn shell(folder: &Path, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .env_clear()
        .env("HOME", folder)
        .current_dir(folder)
        .args(["-c", script, "sh"])
        .arg(env!("CARGO_BIN_EXE_nara-mesh"))
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Returns all non-empty files and their contents.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let content = fs::read(&path).unwrap();
            if !content.is_empty() {
                found.insert(path.display().to_string(), content);
            }
        }
    }
    found
}

#[test]
fn a_soul_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let new = ["id", "new", "--name", "alice", "--out", "alice.soul"];
    let said = full(path, &new);
    assert!(said.contains("alice.soul"), "{said}");
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
    run(path, 0, &new);
}

#[test]
fn decisions_backups_and_statements_are_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let next = ["id", "new", "--name", "alice", "--out", "next.soul"];
    run(path, 0, &next);
    let bob = new_soul(path, "bob");
    let key = bob["public_key"].as_str().unwrap();
    let by_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let trust = [&["peers", "trust", "bob", "--key", key][..], &by_alice].concat();
    full(path, &trust);
    // The next attempt succeeds.
    run(path, 0, &trust);
    let before = contents(path);
    for args in [
        &["peers", "untrust", "bob"][..],
        &["peers", "reset", "bob"],
        &["backup", "copy.db"],
        &["id", "succeed", "--to", "next.soul"],
        &["id", "retire"],
    ] {
        full(path, &[args, &by_alice].concat());
        assert_eq!(contents(path), before, "{args:?}");
    }
    assert!(!path.join("copy.db").exists());
    let listed = run(
        path,
        0,
        &[&["peers", "--offline", "--json"][..], &by_alice].concat(),
    );
    assert!(text(&listed.stdout).contains("\"verdict\": \"trusted\""));
}

#[test]
fn a_nara_that_cannot_write_its_ledger_does_not_start_and_starts_once_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
    ];
    let said = full(path, &serve);
    assert!(said.contains("in the data folder cannot be used"), "{said}");
    fs::write(path.join("known.toml"), "").unwrap();
    let (serving, _) = crate::serve::Serving::start(path, "alice");
    serving.kill();
}

#[test]
fn the_memory_of_a_nara_is_read_where_nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (serving, _) = crate::serve::Serving::start(path, "alice");
    serving.end();
    let by_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let events = [&["events"][..], &by_alice].concat();
    let shown = text(&run(path, 0, &events).stdout);
    assert!(shown.contains("hey-there"), "{shown}");
    let output = limited(path, &events);
    assert_eq!(text(&output.stdout), shown, "{}", text(&output.stderr));
}

#[test]
fn doctor_says_that_a_running_nara_has_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let serve = [
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
    ];
    let mut serving = shell(path, "trap '' XFSZ; exec \"$@\"", &serve)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut lines = BufReader::new(serving.stdout.take().unwrap());
    lines.read_line(&mut line).unwrap();
    assert!(line.contains("listening"), "{line}");
    let doctor = [
        "doctor",
        "--data-dir",
        "alice",
        "--soul-file",
        "alice.soul",
        "--json",
    ];
    let row = |expected: &str| {
        let output = crate::nara_mesh(path).args(doctor).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        let row = checks.iter().find(|check| check["what"] == "ledger").unwrap();
        assert_eq!(row["result"], expected, "{row}");
        row.to_string()
    };
    row("ok");
    let pid = serving.id().to_string();
    let limit = |size: &str| {
        let limits = Command::new("prlimit")
            .args(["--pid", &pid, size])
            .status()
            .unwrap();
        assert!(limits.success());
    };
    limit("--fsize=0:");
    let told = row("failed");
    assert!(
        told.contains("nothing can be written") && told.contains("free space"),
        "{told}"
    );
    limit("--fsize=unlimited:");
    row("ok");
    let _ = serving.kill();
    let _ = serving.wait();
}
