//! Tests the program from the outside: its output, its streams and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod access;
mod away;
mod chosen;
mod conformance;
mod data_folder;
mod demo;
mod doctor;
mod events;
mod every_output;
mod exhausted;
mod expose;
#[path = "../../../nara-mesh/tests/support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
mod full_disk;
mod health;
mod help;
mod id;
mod inbox;
mod kill;
mod local_api;
mod log;
mod metrics;
#[path = "../../../nara-mesh/tests/support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
#[cfg(feature = "otlp")]
mod otlp;
mod outbox;
mod output;
mod peers;
mod query;
mod recipes;
mod recommended;
mod schemas;
mod serve;
mod service;
mod settings;
mod sign;
mod stash;
mod succession;
mod tailnet;
mod trust;
mod up;
#[path = "../../../nara-mesh/tests/support/v1_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod v1_peer;
mod v1_peers;
mod watch;

use std::path::Path;
use std::process::{Child, Output};

use assert_cmd::Command;
use serde_json::Value;

/// The arguments of every command of alice.
const ALICE: [&str; 6] = [
    "--soul-file",
    "alice.soul",
    "--data-dir",
    "alice",
    "--peers",
    "peers.toml",
];

/// Returns the program in an empty environment and an empty folder.
fn nara_mesh(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("nara-mesh").unwrap();
    command.env_clear().current_dir(folder);
    command
}

/// Runs the program, checks its exit code, and returns its output.
fn run(folder: &Path, expected: i32, args: &[&str]) -> Output {
    let output = nara_mesh(folder).args(args).output().unwrap();
    let stderr = text(&output.stderr);
    let stdout = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{args:?}\n{stdout}\n{stderr}"
    );
    output
}

/// Returns the JSON output of the program.
fn run_json(folder: &Path, expected: i32, args: &[&str]) -> Value {
    let output = run(folder, expected, args);
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    schemas::validate(&json);
    json
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the program as a user who has a runtime folder. Returns stdout and stderr.
fn run_as_user(folder: &Path, expected: i32, args: &[&str]) -> (String, String) {
    let output = nara_mesh(folder)
        .env("XDG_RUNTIME_DIR", folder.join("run"))
        .args(args)
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(expected),
        "{args:?}\n{stdout}\n{stderr}"
    );
    (stdout, stderr)
}

/// Returns the JSON output of the program for such a user.
fn json_as_user(folder: &Path, expected: i32, args: &[&str]) -> Value {
    let (stdout, _) = run_as_user(folder, expected, &[args, &["--json"]].concat());
    let json = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"));
    schemas::validate(&json);
    json
}

/// Sends a signal, such as `-TERM`, to a running program.
fn signal(program: &Child, name: &str) {
    let id = program.id().to_string();
    let sent = std::process::Command::new("kill")
        .args([name, &id])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Creates a soul file, and returns the program's JSON output.
fn new_soul(folder: &Path, name: &str) -> Value {
    run_json(
        folder,
        0,
        &[
            "id",
            "new",
            "--json",
            "--name",
            name,
            "--out",
            &format!("{name}.soul"),
        ],
    )
}
