use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::tailnet::{Tailnet, free_port};
use crate::{nara_mesh, new_soul, run, run_json, text};

/// Returns the result of each check by name, and what to do next.
fn results(report: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (text(&check["what"]), text(&check["result"]), text(&check["next"])))
        .collect()
}

fn result_of(report: &Value, what: &str) -> String {
    let found = results(report).into_iter().find(|(name, ..)| name == what);
    found.unwrap_or_else(|| panic!("{what}: {report}")).1
}

fn doctor(folder: &Path, expected: i32, more: &[&str]) -> Value {
    let args = [
        "doctor",
        "--json",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
    ];
    let port = free_port().to_string();
    run_json(folder, expected, &[&args[..], &["--port", &port], more].concat())
}

#[test]
fn a_nara_on_a_tailnet_with_a_peer_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    let (bob, stanza) = Serving::start(path, "bob");
    let really = stanza.split('"').find_map(|word| word.parse().ok()).unwrap();
    let tailnet = Tailnet::start(path);
    tailnet.add_bob(9632, really);

    let report = doctor(
        path,
        0,
        &["--network", "tailscaled", "--socket", "tailscaled.sock"],
    );
    assert!(results(&report).len() >= 12);
    for what in [
        "version",
        "clock",
        "soul",
        "soul file",
        "daemon",
        "node",
        "control",
        "relay",
        "address",
        "nodes",
    ] {
        assert_eq!(result_of(&report, what), "ok", "{report}");
    }
    for what in ["naras", "key conflicts", "peers' clocks"] {
        assert_eq!(result_of(&report, what), "ok", "{report}");
    }
    // No nara runs.
    assert_eq!(result_of(&report, "clock steps"), "skipped");
    assert_eq!(result_of(&report, "port"), "warning");
    bob.kill();
}

#[test]
fn what_is_wrong_is_said_with_the_next_step_and_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::set_permissions(path.join("alice.soul"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path.join("broken.toml"), "[[peer]]\nname = 5\n").unwrap();
    let report = doctor(
        path,
        1,
        &[
            "--network",
            "tailscaled",
            "--socket",
            "nowhere.sock",
            "--peers",
            "broken.toml",
        ],
    );
    for what in ["soul", "soul file", "peers file", "daemon"] {
        assert_eq!(result_of(&report, what), "failed", "{report}");
    }
    for what in [
        "node",
        "control",
        "relay",
        "endpoints",
        "address",
        "nodes",
        "naras",
    ] {
        assert_eq!(result_of(&report, what), "skipped", "{report}");
    }
    for (what, result, next) in results(&report) {
        assert_eq!(
            result == "failed" || result == "warning",
            !next.is_empty(),
            "{what}"
        );
    }
    let output = run(
        path,
        1,
        &["doctor", "--network", "tailscaled", "--socket", "nowhere.sock"],
    );
    let shown = text(&output.stdout);
    assert!(
        shown.contains("why:  ") && shown.contains("next: start tailscaled, or choose another --network"),
        "{shown}"
    );
}

/// Checks that need a soul are skipped; all others run, and a failed one determines the exit code.
#[test]
fn a_soul_that_cannot_be_read_ends_no_other_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let told = new_soul(path, "alice");
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    let (bob, mut known) = Serving::start(path, "bob");
    // A peers file shared by several naras.
    let own = format!(
        "[[peer]]\nname = \"alice\"\nid = {}\naddress = \"127.0.0.1:1\"\n",
        told["id"]
    );
    known.push_str(&own);
    fs::write(path.join("shared.toml"), known).unwrap();
    fs::write(path.join("config.toml"), "").unwrap();
    for file in ["shared.toml", "config.toml"] {
        fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o666)).unwrap();
    }
    let more = [
        "--network",
        "loopback",
        "--peers",
        "shared.toml",
        "--config",
        "config.toml",
    ];
    let found = |report: &Value, what: &str| {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["what"] == what);
        check.unwrap_or_else(|| panic!("{what}: {report}"))["found"].to_string()
    };
    let well = doctor(path, 0, &more);
    assert!(
        found(&well, "naras").contains("1 of 1 known nara answered"),
        "{well}"
    );
    let (.., next) = results(&well)
        .into_iter()
        .find(|(what, ..)| what == "permissions")
        .unwrap();
    assert_eq!(next, "chmod 644 shared.toml; chmod 644 config.toml");

    for mode in [0o640, 0o644] {
        fs::set_permissions(path.join("alice.soul"), fs::Permissions::from_mode(mode)).unwrap();
        let exposed = doctor(path, 1, &more);
        assert_eq!(exposed["failed"], 2, "{exposed}");
        assert_eq!(result_of(&exposed, "soul file"), "failed");
        for what in ["ledger", "bans", "ports", "key conflicts"] {
            assert_eq!(result_of(&exposed, what), "ok", "{exposed}");
        }
        assert_ne!(result_of(&exposed, "naras"), "failed", "{exposed}");
    }
    fs::remove_file(path.join("alice.soul")).unwrap();
    let missing = doctor(path, 1, &more);
    for what in ["soul", "soul file"] {
        assert!(found(&missing, what).contains("No such file"), "{missing}");
    }
    bob.kill();
}

#[test]
fn a_node_that_waits_for_a_login_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let tailnet = Tailnet::start(path);
    tailnet.daemon.change(|state| {
        state.backend_state = "NeedsLogin";
        state.addresses.clear();
        state.health = vec!["The last login error was: invalid key".to_owned()];
    });
    let report = doctor(
        path,
        1,
        &["--network", "tailscaled", "--socket", "tailscaled.sock"],
    );
    assert_eq!(result_of(&report, "daemon"), "ok");
    assert_eq!(result_of(&report, "node"), "failed");
    let node = results(&report)
        .into_iter()
        .find(|(what, ..)| what == "node")
        .unwrap();
    assert!(node.2.contains("make a new key"), "{node:?}");
}

#[test]
fn every_check_has_a_paragraph_in_the_operators_manual() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    // The manual describes each check, also those that are skipped.
    let report = doctor(path, 0, &["--network", "loopback"]);
    let checked: Vec<String> = results(&report).into_iter().map(|(what, ..)| what).collect();
    let manual = include_str!("../../../../docs/operate.md");
    let (_, section) = manual
        .split_once("\n## When `doctor` reports something\n")
        .unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let documented: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**: "))
        .map(|(what, _)| what)
        // Present only if a nara hangs.
        .filter(|what| *what != "running nara")
        .collect();
    assert_eq!(documented, checked);
}

#[test]
fn a_command_that_is_to_be_typed_is_never_cut() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(200)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    new_soul(&deep, "alice");
    let soul = deep.join("alice.soul");
    fs::set_permissions(&soul, fs::Permissions::from_mode(0o644)).unwrap();
    let soul = soul.to_str().unwrap();
    let told = run(
        folder.path(),
        1,
        &["doctor", "--soul-file", soul, "--network", "loopback"],
    );
    let told = text(&told.stdout);
    assert!(
        told.lines()
            .any(|line| line.contains("chmod") && line.contains(soul)),
        "{told}"
    );
}

#[test]
fn a_nara_that_hangs_is_examined_in_its_own_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let runtime = path.join("run");
    fs::create_dir(&runtime).unwrap();
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    let look = |expected: i32| {
        let args = ["doctor", "--json", "--name", "bob", "--soul-file", "bob.soul"];
        let output = nara_mesh(path)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("HOME", path)
            // On the command line it would be another way than through the nara that runs.
            .env("NARA_MESH_NETWORK", "loopback")
            .args(args)
            .args(["--timeout", "500ms", "--port", &free_port().to_string()])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = |what: &str| {
            let mut checks = report["checks"].as_array().unwrap().iter();
            let check = checks.find(|check| check["what"] == what).unwrap();
            check["found"].as_str().unwrap().to_owned()
        };
        (found("ledger"), found("bans"))
    };
    let (ledger, _) = look(0);
    assert!(ledger.contains("the default data folder"), "{ledger}");
    let (bob, _) = Serving::start_in(path, "bob", &[], &[("XDG_RUNTIME_DIR", &runtime)]);
    // A decision is kept in the ledger.
    run(path, 0, &["peers", "untrust", "carol", "--data-dir", "bob"]);
    bob.halt();
    let (ledger, bans) = look(1);
    assert!(ledger.contains("/bob/ledger.db, "), "{ledger}");
    assert!(bans.contains("carol"), "{bans}");
    let as_user = |expected: i32, args: &[&str]| {
        let output = nara_mesh(path)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env("NARA_MESH_NETWORK", "loopback")
            .args(args)
            .args(["--timeout", "500ms"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    // Without a soul, the nara that hangs is examined as far as that goes.
    let port = free_port().to_string();
    let report: Value = serde_json::from_str(&as_user(1, &["doctor", "--json", "--port", &port])).unwrap();
    for what in ["soul", "own key", "clock steps", "port"] {
        let mut checks = report["checks"].as_array().unwrap().iter();
        let check = checks.find(|check| check["what"] == what).unwrap();
        assert_eq!(
            (&check["result"], &check["found"]),
            (&"skipped".into(), &"not known while the nara hangs".into()),
            "{what}"
        );
    }
    assert!(as_user(0, &["events", "--name", "bob"]).contains("bob"));
    bob.kill();
}
