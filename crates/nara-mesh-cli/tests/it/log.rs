//! The log of a nara.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{new_soul, signal, text};

/// Runs a nara with a peers file whose name contains a line break, which the log warns about. Returns its
/// output.
fn serve(folder: &Path, arguments: &[&str]) -> Output {
    new_soul(folder, "alice");
    let peers = folder.join("peers\n\u{1b}[31mERROR forged.toml");
    fs::write(&peers, "").unwrap();
    fs::set_permissions(&peers, fs::Permissions::from_mode(0o666)).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
        .env_clear()
        .current_dir(folder)
        .args(["serve", "--listen", "127.0.0.1:0", "--soul-file", "alice.soul"])
        .args(["--data-dir", "alice", "--json"])
        .arg("--peers")
        .arg(&peers)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut listening = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut listening)
        .unwrap();
    signal(&child, "-TERM");
    child.wait_with_output().unwrap()
}

#[test]
fn every_line_of_a_json_log_is_an_object_with_the_same_fields() {
    let folder = tempfile::tempdir().unwrap();
    let output = serve(folder.path(), &["--log-format", "json", "-v"]);
    let log = text(&output.stderr);
    let mut lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    let about_the_file = lines
        .by_ref()
        .inspect(|line| {
            for field in ["timestamp", "level", "target"] {
                assert!(line[field].is_string(), "{field}: {line}");
            }
            assert!(line["fields"].is_object(), "{line}");
        })
        .find(|line| {
            line["fields"]["message"]
                .as_str()
                .is_some_and(|message| message.contains("forged"))
        });
    assert_eq!(about_the_file.unwrap()["level"], "WARN", "{log}");
    assert!(lines.all(|line| line["timestamp"].is_string()), "{log}");
}

#[test]
fn an_event_of_a_text_log_is_one_line_whatever_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = serve(folder.path(), &[]);
    let log = text(&output.stderr);
    assert!(log.contains("peers\\n\\x1b[31mERROR forged.toml"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn a_daemon_that_cannot_start_says_so_in_the_format_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let serve = [
        "serve",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
        "--listen",
        &taken,
    ];
    let refused = crate::nara_mesh(path)
        .args(serve)
        .env("NARA_MESH_LOG_FORMAT", "json")
        .output()
        .unwrap();
    let line: Value = serde_json::from_slice(&refused.stderr).unwrap();
    assert_eq!(line["level"], "ERROR", "{line}");
    // Complete: readers of the journal see only the message.
    let message = line["fields"]["message"].as_str().unwrap();
    for part in [taken.as_str(), "Address already in use", "choose another port"] {
        assert!(message.contains(part), "{line}");
    }
    // A one-shot command reports it as an error.
    let refused = crate::nara_mesh(path)
        .args(["ping", "nobody"])
        .env("NARA_MESH_LOG_FORMAT", "json")
        .output()
        .unwrap();
    assert!(text(&refused.stderr).starts_with("error: "));
}
