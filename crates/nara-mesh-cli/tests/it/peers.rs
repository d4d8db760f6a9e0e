use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::serve::Serving;
use crate::{ALICE, new_soul, run, run_json, text};

#[test]
fn mistakes_in_the_peers_file_are_usage_errors_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("peers.toml"),
        "[[peer]]\nname = \"a\"\nadress = \"127.0.0.1\"\n",
    )
    .unwrap();
    let output = run(folder.path(), 2, &["ping", "a", "--peers", "peers.toml"]);
    insta::assert_snapshot!(text(&output.stderr), @r"
    error: peers.toml: line 3: unknown field `adress`, expected one of `name`, `id`, `address`, `key`, `tls`
    hint: `nara-mesh peers --help` shows the form of the file
    ");
}

#[test]
fn a_peer_that_nobody_knows_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), 2, &["ping", "nobody"]);
    assert!(text(&output.stderr).contains("hint: add it to the peers file"));
}

#[test]
fn a_peer_that_refuses_connections_is_unreachable() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let answer = run_json(folder.path(), 3, &["ping", &address, "--json"]);
    assert_eq!(answer["schema"], "nara-mesh/ping/1");
    assert_eq!(answer["peers"][0]["received"], 0);
    let more: [&[&str]; 3] = [
        &["sync", &address],
        &["zine", &address],
        &["dm", &address, "--text", "hi", "--about", "x"],
    ];
    for args in more {
        let output = run(folder.path(), 3, &[args, &["--soul-file", "alice.soul"]].concat());
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("error: ") && stderr.contains("\nhint: "),
            "{stderr}"
        );
    }
}

#[test]
fn a_command_that_signs_needs_a_soul() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), 2, &["sync", "127.0.0.1"]);
    assert!(text(&output.stderr).contains("one with `nara-mesh id new"));
}

#[test]
fn commands_that_only_look_work_without_a_ledger_and_say_so_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::create_dir_all(path.join("alice/ledger.db")).unwrap();
    fs::write(
        path.join("peers.toml"),
        "[[peer]]\nname = \"bob\"\naddress = \"127.0.0.1:1\"\n",
    )
    .unwrap();
    for (args, code) in [(&["peers", "list", "--offline"][..], 0), (&["ping", "bob"], 3)] {
        let told = text(&run(path, code, &[args, &ALICE].concat()).stderr);
        assert!(told.contains("alice/ledger.db is a folder"), "{told}");
        assert!(!told.contains("Error code"), "{told}");
    }
    // A message is not sent if the key of its recipient may be stored there.
    run(path, 1, &[&["dm", "bob", "--text", "hi"][..], &ALICE].concat());
}

/// Returns the output of `peers list` for bob.
fn list_of_bob(folder: &std::path::Path, more: &[&str]) -> Vec<Value> {
    let as_bob = [
        "--soul-file",
        "bob.soul",
        "--data-dir",
        "bob",
        "--peers",
        "known.toml",
    ];
    let list = run_json(folder, 0, &[&["peers", "list", "--json"], more, &as_bob].concat());
    list["peers"].as_array().unwrap().clone()
}

#[test]
fn a_running_nara_estimates_the_round_trips_to_its_peers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::write(path.join("known.toml"), "").unwrap();
    let (_alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("known.toml"), stanza).unwrap();
    let estimated = |more: &[&str]| list_of_bob(path, more)[0]["estimated_rtt_us"].clone();
    assert_eq!(estimated(&[]), Value::Null, "bob does not run");
    let (_bob, _) = Serving::start(path, "bob");
    assert!(estimated(&[]).is_u64(), "{}", estimated(&[]));
    assert_eq!(estimated(&["--offline"]), Value::Null);
}

#[test]
fn naras_that_run_on_one_machine_meet_on_first_use() {
    let [of_alice, of_bob] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let nobody = "[[peer]]\nname = \"nobody\"\naddress = \"127.0.0.1:1\"\n";
    fs::write(of_bob.path().join("known.toml"), nobody).unwrap();
    new_soul(of_bob.path(), "bob");
    let first_use = ["--trust", "first-use"];
    let (_bob, bob) = Serving::start_with(of_bob.path(), "bob", &first_use);
    // Alice knows bob's address, and neither knows the other's key.
    let stanza = format!("[[peer]]\nname = \"bob\"\naddress = {}\n", bob["address"]);
    fs::write(of_alice.path().join("known.toml"), stanza).unwrap();
    new_soul(of_alice.path(), "alice");
    let (_alice, alice) = Serving::start_with(of_alice.path(), "alice", &first_use);
    let met = loop {
        let mut peers = list_of_bob(of_bob.path(), &["--offline"]).into_iter();
        if let Some(met) = peers.find(|peer| peer["name"] == "alice") {
            break met;
        }
    };
    assert_eq!(met["key_id"], alice["key_id"]);
}

#[test]
fn a_file_that_became_a_pipe_or_has_no_end_stops_neither_a_reload_nor_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, _) = Serving::start(path, "alice");
    fs::remove_file(path.join("known.toml")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("known.toml"), rustix::fs::Mode::RWXU).unwrap();
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let reloaded = run(path, 1, &[&["reload"][..], &own].concat());
    let told = text(&reloaded.stdout);
    assert!(told.contains("it is a pipe or a device, not a file"), "{told}");
    for endless in ["known.toml", "/dev/zero"] {
        for args in [
            &["peers", "--offline", "--direct", "--peers"][..],
            &["config", "show", "--config"],
        ] {
            let refused = text(&run(path, 2, &[args, &[endless], &own].concat()).stderr);
            assert!(
                refused.contains("it is a pipe or a device"),
                "{args:?} {endless}: {refused}"
            );
        }
    }
    // A soul may be read from a pipe, but within limits.
    run(path, 2, &["id", "show", "--soul-file", "/dev/zero"]);
    assert_eq!(alice.end().1, Some(0));
}

#[test]
fn a_list_without_entries_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let no_peers = |more: &[&str]| {
        let args = [&["peers", "--json"][..], more, &own].concat();
        let output = run(path, 0, &args);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        crate::schemas::validate(&list);
        assert_eq!(list["peers"], Value::Array(Vec::new()), "{list}");
        let told = text(&output.stderr);
        assert!(told.contains("hint: "), "{told}");
    };
    no_peers(&[]);
    let (_alice, _) = Serving::start(path, "alice");
    no_peers(&[]);
    no_peers(&["--direct"]);
    for list in [
        &["events"][..],
        &["outbox", "list"],
        &["stash", "list"],
        &["stash", "list", "--direct"],
        &["token", "list"],
        &["world", "list"],
    ] {
        run(path, 0, &[list, &own].concat());
    }
}

#[test]
fn a_key_in_the_list_can_be_compared_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    let known = format!("[[peer]]\nname = \"bob\"\nkey = {}\n", bob["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let listed = run(path, 0, &["peers", "list", "--offline", "--peers", "known.toml"]);
    let listed = text(&listed.stdout);
    assert!(listed.contains(bob["key_id"].as_str().unwrap()), "{listed}");
}
