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

#[test]
fn a_nara_is_not_its_own_peer() {
    let scene = Scene::new();
    for args in [&["ping", "bob"][..], &["dm", "bob", "hello"]] {
        let (_, told) = scene.run(2, args);
        assert!(told.contains("bob: this nara itself"), "{args:?}: {told}");
    }
    // One peers file serves several naras.
    let path = scene.path();
    new_soul(path, "carol");
    let stanza = [
        "id",
        "show",
        "--soul-file",
        "carol.soul",
        "--stanza",
        "127.0.0.1:1",
    ];
    let peers = fs::read_to_string(path.join("known.toml")).unwrap() + &text(&run(path, 0, &stanza).stdout);
    fs::write(path.join("both.toml"), peers).unwrap();
    let carol = [
        "--soul-file",
        "carol.soul",
        "--data-dir",
        "carol",
        "--peers",
        "both.toml",
        "--direct",
    ];
    for args in [&["ping", "--all"][..], &["peers"]] {
        let listed = run_json(path, 0, &[args, &["--json"], &carol].concat());
        assert_eq!(listed["peers"].as_array().unwrap().len(), 1, "{listed}");
    }
}
