//! Commands that write a secret or a decision, on a disk that takes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{new_soul, run, text};

/// Runs the program where no file may grow: each write fails as on a full disk. Returns what it says.
fn full(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("sh")
        .env_clear()
        .env("HOME", folder)
        .current_dir(folder)
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_nara-mesh"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_ne!(output.status.code(), Some(0), "{args:?}\n{said}");
    // It fails by itself, and says why.
    assert!(
        output.status.code().is_some() && said.contains("error:"),
        "{args:?}\n{said}"
    );
    said
}

/// All files with content, and what they contain.
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
    // Nothing is in the way of the next try.
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
