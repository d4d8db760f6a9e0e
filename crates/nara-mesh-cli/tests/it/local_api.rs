//! Commands that work through a running nara, and the local API of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nara_local_api::client::{CallError, LocalClient};
use nara_local_api::model::{Lease, Service};
use serde_json::Value;

use crate::serve::Serving;
use crate::{json_as_user, nara_mesh, new_soul, run_as_user, text};

/// Alice, whom the commands do not find, and bob, who knows her and whom they find.
pub(crate) struct Scene {
    folder: tempfile::TempDir,
    alice: Serving,
    _bob: Serving,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("run")).unwrap();
        let bob = new_soul(path, "bob");
        new_soul(path, "alice");
        let known = format!(
            "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
            bob["id"], bob["public_key"]
        );
        fs::write(path.join("known.toml"), known).unwrap();
        let (alice, stanza) = Serving::start(path, "alice");
        fs::write(path.join("known.toml"), stanza).unwrap();
        let run = path.join("run");
        let (bob, listening) = Serving::start_in(path, "bob", &[], &[("XDG_RUNTIME_DIR", &run)]);
        let sockets = listening["sockets"].as_array().unwrap();
        assert_eq!(sockets.len(), 2, "{listening}");
        // Alice must be able to call bob back.
        let for_bob = fs::read_to_string(path.join("known.toml")).unwrap();
        fs::write(path.join("known.toml"), listening["stanza"].as_str().unwrap()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let reload = LocalClient::new(path.join("alice/nara.sock"));
        runtime.block_on(reload.reload()).unwrap();
        fs::write(path.join("known.toml"), for_bob).unwrap();
        Self {
            folder,
            alice,
            _bob: bob,
        }
    }

    /// Returns the next line of this kind from alice.
    fn hears(&mut self, event: &str) -> Value {
        loop {
            let line = self.alice.next();
            if line["event"] == event {
                return line;
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn runtime(&self) -> PathBuf {
        self.path().join("run")
    }

    /// Runs the program without a soul and a peers file. Returns stdout and stderr.
    pub(crate) fn run(&self, expected: i32, args: &[&str]) -> (String, String) {
        run_as_user(self.path(), expected, args)
    }

    fn json(&self, expected: i32, args: &[&str]) -> Value {
        json_as_user(self.path(), expected, args)
    }
}

#[test]
fn commands_work_through_the_nara_that_runs_without_soul_and_peers() {
    let mut scene = Scene::new();
    let ping = &scene.json(0, &["ping", "alice"])["peers"][0];
    assert_eq!(
        (&ping["received"], &ping["key_matches"], &ping["clock_proven"]),
        (&1.into(), &true.into(), &true.into())
    );
    assert_eq!(
        scene.json(0, &["ping", "--all", "-c", "2", "-i", "0s"])["peers"][0]["received"],
        2
    );
    let peer = &scene.json(0, &["peers"])["peers"][0];
    assert_eq!((&peer["name"], &peer["online"]), (&"alice".into(), &true.into()));

    let sent = scene.json(0, &["dm", "alice", "hello there"]);
    assert_eq!(
        (&sent["recipient"], &sent["stored"]),
        (&"alice".into(), &true.into())
    );
    let heard = scene.hears("direct_message");
    assert_eq!(heard["message"]["social"]["reason"], "hello there");
    assert_eq!(heard["sender"], "bob");

    let zine = scene.json(0, &["zine", "alice"]);
    assert_eq!(zine["from"], "alice");
    scene.hears("zine");
    let postcard = nara_mesh(scene.path())
        .env("XDG_RUNTIME_DIR", scene.runtime())
        .args(["world", "send", "--message", "greetings", "--json"])
        .output()
        .unwrap();
    let postcard: Value = serde_json::from_slice(&postcard.stdout).unwrap();
    assert_eq!(postcard["first"], "alice");

    let synced = scene.json(0, &["sync", "alice"]);
    assert!(
        synced["received"].as_u64().unwrap() > 0 && synced["complete"] == true,
        "{synced}"
    );
    let reconciled = scene.json(0, &["sync", "alice", "--reconcile", "--push"]);
    assert_eq!(reconciled["complete"], true);
    let (watched, _) = scene.run(
        0,
        &[
            "watch",
            "alice",
            "--since",
            "all",
            "--services",
            "social",
            "-c",
            "1",
            "--json",
        ],
    );
    assert!(watched.contains("hello there"), "{watched}");

    let (checked, _) = scene.run(0, &["doctor"]);
    assert!(
        checked.contains("this nara serves on") && checked.contains("1 of 1 known nara answer"),
        "{checked}"
    );
    assert_eq!(scene.json(0, &["reload"])["configured"], 1);
    let health = scene.json(0, &["health"]);
    assert_eq!(health["name"], "bob");
    assert!(health["rtt_us"].as_u64().is_some(), "{health}");
}

#[test]
fn a_peer_that_is_gone_is_shown_as_the_user_names_it() {
    let Scene {
        folder,
        alice,
        _bob: bob,
    } = Scene::new();
    alice.kill();
    let output = nara_mesh(folder.path())
        .env("XDG_RUNTIME_DIR", folder.path().join("run"))
        .args(["ping", "--all"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    let table = text(&output.stdout);
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with("alice ") && !row.contains("(id "), "{table}");
    // A hint contains a command to copy, or the words to add.
    for (message, hint) in [
        ("hi", "run `nara-mesh dm --later -- alice hi`"),
        (&*"x".repeat(30_000), "with `--later`"),
    ] {
        let (_, told) = run_as_user(folder.path(), 3, &["dm", "alice", message]);
        assert!(told.contains(hint) && told.len() < 2_000, "{told}");
    }
    bob.kill();
}

#[test]
fn stashes_and_postcards_work_through_the_nara_that_runs() {
    let scene = Scene::new();
    fs::write(scene.path().join("secret"), "only bob").unwrap();
    scene.run(0, &["stash", "put", "alice", "secret"]);
    let (fetched, _) = scene.run(0, &["stash", "get", "alice"]);
    assert_eq!(fetched, "only bob");
    let here = scene.json(0, &["stash", "list"]);
    assert_eq!(here["stashes"], serde_json::json!([]));
    let there = scene.json(0, &["stash", "list", "--api-socket", "alice/nara.sock"]);
    assert_eq!(
        (&there["stashes"][0]["name"], &there["stashes"][0]["bytes"]),
        (&"bob".into(), &24.into())
    );
    let sent = scene.json(
        0,
        &["world", "send", "--message", "hi", "--to", "alice", "--wait"],
    );
    assert_eq!(sent["hops"], serde_json::json!(["alice", "bob"]));
    let listed = scene.json(0, &["world", "list"]);
    assert_eq!(listed["postcards"][0]["message_id"], sent["message_id"]);
    let (_, refused) = scene.run(2, &["stash", "get", "alice", "--direct"]);
    assert!(refused.contains("only the running nara can do this"), "{refused}");
}

#[test]
fn decisions_of_a_running_nara_need_no_data_folder() {
    let scene = Scene::new();
    let banned = scene.json(0, &["peers", "untrust", "alice"]);
    assert_eq!(banned["running"]["untrusted"][0], "alice");
    let (_, refused) = scene.run(4, &["dm", "alice", "hi"]);
    assert!(refused.contains("nara-mesh peers trust alice"), "{refused}");
    scene.run(0, &["peers", "trust", "alice"]);
    scene.run(0, &["dm", "alice", "hi"]);
    scene.run(0, &["peers", "reset", "alice"]);
    let (_, unknown) = scene.run(2, &["ping", "carol"]);
    assert!(
        unknown.contains("unknown") && unknown.contains("hint:"),
        "{unknown}"
    );
}

#[test]
fn a_request_goes_through_two_running_naras_to_a_local_program() {
    let scene = Scene::new();
    let path = scene.path();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let backend = path.join("notes.sock");
    let _serving = runtime.enter();
    let listener = tokio::net::UnixListener::bind(&backend).unwrap();
    let router = axum::Router::new().fallback(async |request: axum::extract::Request| {
        let sender = request
            .headers()
            .get("x-nara-sender")
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        format!("{} {} for {sender}", request.method(), request.uri())
    });
    runtime.spawn(async move { axum::serve(listener, router).await });
    // Alice is selected explicitly, by her data folder.
    let alice = LocalClient::new(path.join("alice/nara.sock"));
    let lease = Lease {
        backend: format!("unix:{}", backend.display()),
        lease_s: 60,
    };
    let put = alice.send::<Service>(http::Method::PUT, "/v1/services/notes", &lease);
    assert_eq!(runtime.block_on(put).unwrap().prefix, "/notes");
    let (answer, explained) = scene.run(0, &["request", "alice", "GET", "/notes/1?x=y", "--explain"]);
    assert_eq!(answer, "GET /1?x=y for bob");
    assert!(
        explained.contains("answer    from alice") && explained.contains("body      "),
        "{explained}"
    );
    let json = scene.json(0, &["request", "alice", "POST", "/notes", "--data", "x"]);
    assert_eq!(
        (&json["body"], &json["verification"]["responder"]),
        (&"POST / for bob".into(), &"alice".into())
    );
    let (_, refused) = scene.run(1, &["request", "alice", "GET", "/other"]);
    assert!(refused.contains("404"), "{refused}");
}

#[test]
fn the_sockets_are_private_and_go_with_their_nara() {
    let scene = Scene::new();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = scene.runtime().join("nara-mesh");
    let socket = folder.join("bob.sock");
    assert_eq!((mode(folder), mode(socket.clone())), (0o700, 0o600));
    assert_eq!(mode(scene.path().join("bob/nara.sock")), 0o600);
    // It stops when the API is told to shut down.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = LocalClient::new(&socket);
    let status = runtime.block_on(client.status()).unwrap();
    assert_eq!(status.name, "bob");
    let metrics = runtime
        .block_on(client.request_bytes(http::Method::GET, "/v1/metrics"))
        .unwrap();
    assert!(!metrics.is_empty());
    runtime
        .block_on(client.request_bytes(http::Method::POST, "/v1/shutdown"))
        .unwrap();
    while runtime.block_on(client.status()).is_ok() {}
    let gone = runtime.block_on(client.status()).unwrap_err();
    assert!(
        matches!(&gone, CallError::Connect { .. } | CallError::Broken { .. }),
        "{gone}"
    );
    // No nara is left to work through.
    let (_, failed) = scene.run(2, &["dm", "alice", "hi"]);
    assert!(failed.contains("needs a soul"), "{failed}");
}

#[test]
fn one_of_several_is_chosen_and_none_if_asked_for() {
    let scene = Scene::new();
    let path = scene.path();
    new_soul(path, "carol");
    let run = scene.runtime();
    let (_carol, _) = Serving::start_in(path, "carol", &[], &[("XDG_RUNTIME_DIR", &run)]);
    let (_, several) = scene.run(2, &["ping", "alice"]);
    assert!(
        several.contains("several naras run") && several.contains("carol.sock"),
        "{several}"
    );
    scene.run(0, &["ping", "alice", "--name", "bob"]);
    scene.run(0, &["ping", "alice", "--api-socket", "bob/nara.sock"]);
    scene.run(0, &["ping", "alice", "--data-dir", "bob"]);
    let (_, direct) = scene.run(2, &["dm", "alice", "hi", "--direct"]);
    assert!(direct.contains("needs a soul"), "{direct}");
    // With a peers file, the command works directly.
    scene.run(0, &["ping", "alice", "--peers", "known.toml"]);
    new_soul(path, "dave");
    let (_quiet, listening) = Serving::start_in(path, "dave", &["--no-api"], &[("XDG_RUNTIME_DIR", &run)]);
    assert_eq!(listening["sockets"], serde_json::json!([]));
}

/// The nara is selected only once: arguments that select it take precedence over the socket in the
/// environment, and a decision never goes to another nara.
#[test]
fn what_the_command_line_says_of_the_nara_wins_over_the_environment() {
    let scene = Scene::new();
    let path = scene.path();
    new_soul(path, "carol");
    let run = scene.runtime();
    let (_carol, _) = Serving::start_in(path, "carol", &[], &[("XDG_RUNTIME_DIR", &run)]);
    std::os::unix::fs::symlink(path, path.join("nara-mesh")).unwrap();
    // With a runtime folder, and without, where naras are found by their data folders.
    let places: [&[(&str, &Path)]; 2] = [&[("XDG_RUNTIME_DIR", &run)], &[("XDG_DATA_HOME", path)]];
    let bobs = Path::new("bob/nara.sock");
    for place in places {
        let health = |expected: i32, socket: &[(&str, &Path)], args: &[&str]| {
            let asked = nara_mesh(path)
                .envs(place.iter().chain(socket).copied())
                .args(["health", "--json"])
                .args(args)
                .output()
                .unwrap();
            let (stdout, stderr) = (text(&asked.stdout), text(&asked.stderr));
            assert_eq!(asked.status.code(), Some(expected), "{args:?}: {stdout} {stderr}");
            let answer: Value = serde_json::from_str(&stdout).unwrap_or_default();
            (answer["name"].as_str().unwrap_or_default().to_owned(), stderr)
        };
        let by_variable: &[(&str, &Path)] = &[("NARA_MESH_SOCKET", bobs)];
        assert_eq!(health(0, by_variable, &[]).0, "bob");
        for said in [
            ["--name", "carol"],
            ["--soul-file", "carol.soul"],
            ["--data-dir", "carol"],
        ] {
            assert_eq!(health(0, by_variable, &said).0, "carol", "{said:?}");
            assert_eq!(health(0, &[], &said).0, "carol", "{said:?}");
            let twice = [&["--api-socket", "bob/nara.sock"], &said[..]].concat();
            if said[0] != "--data-dir" {
                let (_, refused) = health(2, &[], &twice);
                assert!(
                    refused.contains("is bob with key") && refused.contains("not carol"),
                    "{refused}"
                );
            }
        }
        let (_, nobody) = health(3, &[], &["--name", "dave"]);
        assert!(nobody.contains("no nara dave runs"), "{nobody}");
    }

    // With a soul alone, a decision takes effect in the nara that runs with it, wherever its data is.
    let decide = |args: &[&str]| {
        let decided = nara_mesh(path)
            .env("XDG_RUNTIME_DIR", &run)
            .env("NARA_MESH_SOCKET", bobs)
            .args(args)
            .output()
            .unwrap();
        assert!(decided.status.success(), "{}", text(&decided.stderr));
        text(&decided.stderr)
    };
    let said = decide(&["peers", "untrust", "alice", "--soul-file", "carol.soul"]);
    assert!(said.contains("in force in the running nara"), "{said}");
    decide(&["peers", "untrust", "alice", "--name", "carol"]);
    scene.run(0, &["ping", "alice", "--name", "bob"]);
    let banned = nara_mesh(path)
        .env("XDG_RUNTIME_DIR", &run)
        .args(["dm", "alice", "hello", "--name", "carol"])
        .output()
        .unwrap();
    // A recommended command selects the same nara.
    let banned = text(&banned.stderr);
    assert!(
        banned.contains("nara-mesh peers trust alice --name carol"),
        "{banned}"
    );
    // Also in messages that are not failures.
    let (stdout, stderr) = scene.run(4, &["ping", "alice", "--name", "carol"]);
    assert!(
        stderr.contains("`nara-mesh peers trust alice --name carol`"),
        "{stdout}{stderr}"
    );
    let (stdout, _) = scene.run(0, &["doctor", "--name", "carol"]);
    assert!(
        stdout.contains("`nara-mesh peers trust alice --name carol`"),
        "{stdout}"
    );
    // Also if a socket selects the nara.
    let (stdout, _) = scene.run(0, &["doctor", "--api-socket", "carol/nara.sock"]);
    assert!(
        stdout.contains("`nara-mesh peers trust alice --api-socket carol/nara.sock`"),
        "{stdout}"
    );
}

/// A nara that is suspended, or waits for a disk forever, still accepts connections.
#[test]
fn a_nara_that_hangs_is_told_within_the_time_limit_and_holds_up_no_other() {
    let scene = Scene::new();
    let hanging = scene.runtime().join("nara-mesh/carol.sock");
    let _socket = std::os::unix::net::UnixListener::bind(&hanging).unwrap();
    scene.run(0, &["ping", "alice", "--name", "bob"]);
    let socket = hanging.to_str().unwrap();
    for args in [
        &["health", "--name", "carol"][..],
        &["health", "--api-socket", socket],
        &["reload", "--api-socket", socket],
        &["dm", "alice", "hi", "--api-socket", socket],
        &["events", "--name", "carol"],
    ] {
        let (_, told) = scene.run(3, &[args, &["--timeout", "300ms"]].concat());
        assert!(
            told.contains("has not answered for 300 ms") && told.contains(socket),
            "{told}"
        );
        // `reload` has no alternative to the running nara, and the ledger is found by the data folder.
        assert_eq!(
            told.contains("--direct"),
            !["reload", "events"].contains(&args[0]),
            "{told}"
        );
        assert_eq!(told.contains("--data-dir DIR"), args[0] == "events", "{told}");
    }
    let report = scene.json(1, &["doctor", "--api-socket", socket, "--timeout", "300ms"]);
    let checks = report["checks"].as_array().unwrap();
    let hanging = checks
        .iter()
        .find(|check| check["what"] == "running nara")
        .unwrap();
    assert_eq!(hanging["result"], "failed", "{hanging}");
    assert!(checks.iter().any(|check| check["what"] == "clock"), "{report}");
    // Another nara that does not run is not confused with it.
    new_soul(scene.path(), "dave");
    let (_, told) = scene.run(3, &["health", "--name", "dave", "--timeout", "100s"]);
    assert!(told.contains("no nara dave runs"), "{told}");
    let output = nara_mesh(scene.path())
        .env("XDG_RUNTIME_DIR", scene.runtime())
        .env("XDG_DATA_HOME", scene.path().join("data"))
        .args(["events", "--soul-file", "dave.soul", "--timeout", "100s"])
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert!(told.contains("there is no ledger"), "{told}");
}

/// The decision is stored, and the user learns that the running nara has not applied it.
#[test]
fn a_decision_and_a_statement_do_not_fail_because_the_nara_that_runs_hangs() {
    let scene = Scene::new();
    new_soul(scene.path(), "dave");
    fs::create_dir(scene.path().join("held")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scene.path().join("held/nara.sock")).unwrap();
    let held = [
        "--data-dir",
        "held",
        "--soul-file",
        "dave.soul",
        "--timeout",
        "1s",
    ];
    let (stdout, told) = scene.run(0, &[&["peers", "untrust", "carol"][..], &held].concat());
    assert!(stdout.contains("carol is banned"), "{stdout}");
    assert!(
        told.contains("the decision is stored, but") && told.contains("not in the running nara"),
        "{told}"
    );
    // Alice is told, and does not know dave.
    let (_, told) = scene.run(
        4,
        &[&["id", "retire", "--peers", "known.toml"][..], &held].concat(),
    );
    assert!(
        told.contains("the statement is stored, but") && told.contains("not notified: alice"),
        "{told}"
    );
}

#[test]
fn a_command_says_which_argument_keeps_it_from_the_nara_that_runs() {
    let scene = Scene::new();
    for (args, flag) in [
        (&["dm", "alice", "hi", "--peers", "known.toml"][..], "--peers"),
        (&["sync", "alice", "--jsonl"], "--jsonl"),
        (&["sync", "alice", "--to", "copy.db"], "--to"),
        (&["watch", "alice", "--to", "copy.db"], "--to"),
        (&["zine", "alice", "--ledger", "copy.db"], "--ledger"),
    ] {
        let (_, told) = scene.run(2, args);
        assert!(
            told.contains("needs a soul") && told.contains(&format!("because {flag} does not use")),
            "{told}"
        );
    }
}

#[test]
fn without_a_nara_a_command_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    for args in [
        &["reload"][..],
        &["world", "list"],
        &["outbox", "list"],
        &["token", "list"],
        &["dashboard"],
        &["stash", "get", "bob"],
    ] {
        let failed = nara_mesh(folder.path()).args(args).output().unwrap();
        let stderr = text(&failed.stderr);
        assert_eq!(failed.status.code(), Some(3), "{args:?}: {stderr}");
        assert!(
            stderr.contains("no nara runs") && stderr.contains("`nara-mesh serve`"),
            "{args:?}: {stderr}"
        );
    }
}

#[test]
fn a_socket_with_no_nara_behind_it_is_told_with_what_is_there() {
    let scene = Scene::new();
    let path = scene.path();
    drop(std::os::unix::net::UnixListener::bind(path.join("left.sock")).unwrap());
    fs::write(path.join("file.sock"), "").unwrap();
    for (socket, exit, said) in [
        ("nowhere.sock", 3, "there is no socket nowhere.sock"),
        ("left.sock", 3, "no nara listens on left.sock"),
        ("file.sock", 2, "file.sock is a file, not the socket of a nara"),
        ("run", 2, "run is a folder, not"),
    ] {
        let (_, failed) = scene.run(exit, &["dm", "alice", "hi", "--api-socket", socket]);
        assert!(
            failed.contains(said) && failed.contains("omit --api-socket"),
            "{failed}"
        );
        let output = nara_mesh(path)
            .env("XDG_RUNTIME_DIR", scene.runtime())
            .env("NARA_MESH_SOCKET", socket)
            .args(["dm", "alice", "hi"])
            .output()
            .unwrap();
        let failed = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit), "{failed}");
        assert!(
            failed.contains(said) && failed.contains("`unset NARA_MESH_SOCKET`"),
            "{failed}"
        );
    }
    // The command of the hint works.
    scene.run(0, &["dm", "alice", "hi"]);
}

#[test]
fn the_examples_with_curl_work() {
    let scene = Scene::new();
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/local-api.md");
    let document = fs::read_to_string(document).unwrap();
    let blocks = document.split("```sh\n").skip(1);
    let examples: String = blocks.filter_map(|block| block.split("```").next()).collect();
    let output = std::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", &examples])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("XDG_RUNTIME_DIR", scene.runtime())
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for part in [
        r#""name":"bob""#,
        "event: done",
        "nice notes",
        r#""prefix":"/notes""#,
        "what only bob can read",
    ] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}
