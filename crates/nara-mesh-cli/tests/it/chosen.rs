//! Which nara a command is about.

use std::fs;

use crate::local_api::Scene;
use crate::{nara_mesh, new_soul, run, run_json, text};

#[test]
fn a_soul_in_the_default_place_does_not_exclude_the_nara_that_is_named() {
    let scene = Scene::new();
    let path = scene.path();
    let program = |args: &[&str]| {
        let mut command = nara_mesh(path);
        command
            .env("HOME", path)
            .env("XDG_RUNTIME_DIR", path.join("run"))
            .args(args);
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    assert_eq!(program(&["id", "new", "--name", "me"]).0, Some(0));
    let (exit, _, told) = program(&["ping", "alice", "--name", "bob"]);
    assert_eq!(exit, Some(0), "{told}");
    let (exit, events, told) = program(&["events", "--name", "bob"]);
    assert_eq!(exit, Some(0), "{told}");
    assert!(events.contains("bob"), "{events}");
    // A soul that is named does.
    let (exit, _, told) = program(&[
        "ping",
        "alice",
        "--name",
        "bob",
        "--soul-file",
        ".config/nara-mesh/soul.toml",
    ]);
    assert_eq!(exit, Some(2), "{told}");
}

#[test]
fn a_nara_that_does_not_serve_yet_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = nara_mesh(folder.path());
    let output = command
        .env("NARA_MESH_SOCKET", "bob/nara.sock")
        .args(["ping", "--all"])
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("wait until `nara-mesh health"), "{told}");
}
