use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::{nara_mesh, new_soul, run, run_json, text};

#[test]
fn a_new_soul_is_shown_again_and_only_its_owner_can_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_soul(folder.path(), "alice");
    let mode = fs::metadata(folder.path().join("alice.soul"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut shown = run_json(
        folder.path(),
        0,
        &["id", "show", "--json", "--soul-file", "alice.soul"],
    );
    assert_eq!(shown["schema"], "nara-mesh/id-show/1");
    shown["schema"] = made["schema"].clone();
    shown["soul_file"] = made["soul_file"].clone();
    assert_eq!(shown, made);
}

#[test]
fn two_new_souls_differ() {
    let folder = tempfile::tempdir().unwrap();
    let first = new_soul(folder.path(), "alice");
    fs::rename(folder.path().join("alice.soul"), folder.path().join("other.soul")).unwrap();
    assert_ne!(first["id"], new_soul(folder.path(), "alice")["id"]);
}

#[test]
fn a_soul_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let before = fs::read(folder.path().join("alice.soul")).unwrap();
    let output = run(
        folder.path(),
        1,
        &["id", "new", "--name", "bob", "--out", "alice.soul"],
    );
    assert!(text(&output.stderr).contains("never overwritten"));
    assert_eq!(fs::read(folder.path().join("alice.soul")).unwrap(), before);
}

#[test]
fn a_soul_that_others_can_read_is_refused_with_the_command_to_run() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    for mode in [0o644, 0o640, 0o602] {
        let path = folder.path().join("alice.soul");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let output = run(folder.path(), 2, &["id", "show", "--soul-file", "alice.soul"]);
        assert!(text(&output.stderr).contains("chmod 600 alice.soul"));
    }
}

#[test]
fn the_soul_is_shown_only_when_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let show = ["id", "show", "--json", "--soul-file", "alice.soul"];
    let soul = run_json(folder.path(), 0, &[&show[..], &["--reveal-soul"]].concat())["soul"].clone();
    let soul = soul.as_str().unwrap();
    for more in [&[][..], &["-vvv"]] {
        let output = run(folder.path(), 0, &[&show[..], more].concat());
        assert!(!text(&output.stdout).contains(soul) && !text(&output.stderr).contains(soul));
    }
}

#[test]
fn a_soul_in_the_environment_needs_its_name_and_keeps_the_bond() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_soul(folder.path(), "alice");
    let args = [
        "id",
        "show",
        "--json",
        "--soul-file",
        "alice.soul",
        "--reveal-soul",
    ];
    let soul = run_json(folder.path(), 0, &args)["soul"]
        .as_str()
        .unwrap()
        .to_owned();
    let show = |name: &[&str]| {
        let mut command = nara_mesh(folder.path());
        command
            .args(["id", "show"])
            .args(name)
            .env("NARA_MESH_SOUL", &soul)
            .output()
            .unwrap()
    };
    assert!(text(&show(&["--name", "alice"]).stdout).contains(made["id"].as_str().unwrap()));
    for (name, word) in [(&["--name", "bob"][..], "another name"), (&[], "--name")] {
        let output = show(name);
        assert_eq!(output.status.code(), Some(2));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(word) && !stderr.contains(&soul), "{stderr}");
    }
}

#[test]
fn the_stanza_is_read_back_as_a_peer() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_soul(folder.path(), "alice");
    let args = ["id", "show", "--soul-file", "alice.soul", "--stanza", "127.0.0.1"];
    let stanza = text(&run(folder.path(), 0, &args).stdout);
    fs::write(folder.path().join("peers.toml"), stanza).unwrap();
    let listed = run_json(
        folder.path(),
        0,
        &["peers", "--offline", "--json", "--peers", "peers.toml"],
    );
    assert_eq!(listed["peers"][0]["id"], made["id"]);
    assert_eq!(listed["peers"][0]["key_id"], made["key_id"]);
    assert_eq!(listed["peers"][0]["address"], "127.0.0.1:9632");
}

#[test]
fn a_soul_is_accepted_the_ways_that_secrets_are_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let made = new_soul(folder.path(), "alice");
    let soul_file = folder.path().join("alice.soul");
    let id = made["id"].as_str().unwrap();
    let show = |more: &[&str], variables: &[(&str, &str)], stdin: bool| {
        let mut command = nara_mesh(folder.path());
        command
            .args(["id", "show"])
            .args(more)
            .envs(variables.iter().copied());
        if stdin {
            command.pipe_stdin(&soul_file).unwrap();
        }
        let output = command.output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    // A pipe or a descriptor was opened by its owner, so its mode does not matter.
    let (code, shown, told) = show(&["--soul-file", "/dev/stdin"], &[], true);
    assert!(code == Some(0) && shown.contains(id), "{told}");
    fs::set_permissions(&soul_file, fs::Permissions::from_mode(0o440)).unwrap();
    let (code, _, told) = show(&["--soul-file", "alice.soul"], &[], false);
    assert!(
        code == Some(2) && told.contains("--soul-group-readable"),
        "{told}"
    );
    let (code, shown, told) = show(
        &["--soul-file", "alice.soul", "--soul-group-readable"],
        &[],
        false,
    );
    assert!(code == Some(0) && shown.contains(id), "{told}");
    let variables = [
        ("NARA_MESH_SOUL_FILE", "alice.soul"),
        ("NARA_MESH_SOUL_GROUP_READABLE", "1"),
    ];
    assert_eq!(show(&[], &variables, false).0, Some(0));
    // systemd grants a service access to its credentials through ACLs, which appear as group permissions.
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::rename(&soul_file, credentials.join("soul")).unwrap();
    let variables = [("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())];
    let (code, shown, told) = show(&[], &variables, false);
    assert!(code == Some(0) && shown.contains(id), "{told}");
}
