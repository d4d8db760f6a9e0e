//! Compares the actual `--json` output of every command, on success and failure, with its schema.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;

use http::Method;
use nara_local_api::client::LocalClient;
use nara_local_api::model::{Lease, Service};
use serde_json::{Deserializer, Value};

use crate::local_api::Scene;
use crate::schemas::validate_as;
use crate::{nara_mesh, new_soul, run, text};

/// Commands whose output other tests compare with its schema: they run until stopped, or take long.
const ELSEWHERE: [&str; 6] = ["conformance", "demo", "peers watch", "serve", "up", "watch"];

/// With a separate soul and peers file.
const AS_BOB: [&str; 7] = [
    "--direct",
    "--soul-file",
    "bob.soul",
    "--data-dir",
    "bob",
    "--peers",
    "known.toml",
];

/// Runs a command, and compares all its output with the schema of that command.
fn printed(scene: &Scene, command: &str, expected: i32, args: &[&str]) -> Vec<Value> {
    let (stdout, _) = scene.run(expected, &[args, &["--json"]].concat());
    let values: Result<Vec<Value>, _> = Deserializer::from_str(&stdout).into_iter().collect();
    let values = values.unwrap_or_else(|error| panic!("{args:?}: {error}: {stdout}"));
    let schema = format!("nara-mesh/{}/1", command.replace(' ', "-"));
    for value in &values {
        if command != "events export" {
            assert_eq!(value["schema"], schema, "{args:?}");
        }
        validate_as(&schema, value);
    }
    values
}

#[test]
fn every_command_prints_what_its_schema_says() {
    let scene = Scene::new();
    let path = scene.path();
    let carol = new_soul(path, "carol");
    let key = carol["public_key"].as_str().unwrap();
    fs::write(path.join("secret"), "only bob").unwrap();
    let lease = Lease {
        backend: "http://127.0.0.1:1".to_owned(),
        lease_s: 600,
    };
    let alice = LocalClient::new(path.join("alice/nara.sock"));
    let exposing = alice.send::<Service>(Method::PUT, "/v1/services/gone", &lease);
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(exposing)
        .unwrap();
    let direct = |args: &[&'static str]| [args, &AS_BOB[1..]].concat();
    let by_dave =
        |args: &[&'static str]| [args, &["--soul-file", "dave.soul", "--data-dir", "dave"]].concat();
    let mut done = BTreeSet::new();
    let mut try_out = |command: &'static str, expected: i32, args: &[&str]| {
        let values = printed(&scene, command, expected, args);
        assert!(!values.is_empty(), "{args:?} prints nothing");
        done.insert(command.to_owned());
        values
    };
    try_out("dm", 0, &["dm", "alice", "hello"]);
    try_out(
        "world send",
        0,
        &["world", "send", "--message", "hi", "--to", "alice"],
    );
    try_out("world list", 0, &["world", "list"]);
    try_out("ping", 0, &["ping", "alice"]);
    try_out("peers", 0, &["peers"]);
    try_out("zine", 0, &["zine", "alice"]);
    try_out("sync", 0, &["sync", "alice"]);
    try_out("sync", 0, &["sync", "alice", "--reconcile", "--push"]);
    try_out("sync", 0, &["sync", "alice", "--check"]);
    // The program behind the service does not run, but the answer is a valid output.
    try_out("request", 1, &["request", "alice", "GET", "/gone/x"]);
    try_out("query", 0, &direct(&["query", "bob", "alice"]));
    try_out("checkpoints", 0, &direct(&["checkpoints", "alice"]));
    try_out("doctor", 0, &["doctor"]);
    try_out("health", 0, &["health"]);
    try_out("reload", 0, &["reload"]);
    try_out("dashboard", 0, &["dashboard"]);
    try_out("events", 0, &["events"]);
    let exported = try_out("events export", 0, &direct(&["events", "export", "alice"]));
    let lines: Vec<String> = exported.iter().map(|event| format!("{event}\n")).collect();
    fs::write(path.join("events.jsonl"), lines.concat()).unwrap();
    let import = [
        "events",
        "import",
        "alice",
        "events.jsonl",
        "--peers",
        "known.toml",
    ];
    let as_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    try_out("events import", 0, &[&import[..], &as_alice].concat());
    try_out("ledger check", 0, &["ledger", "check"]);
    try_out("backup", 0, &["backup", "bob.backup"]);
    try_out("restore", 0, &["restore", "bob.backup", "--data-dir", "dave"]);
    try_out("stash put", 0, &["stash", "put", "alice", "secret"]);
    try_out("stash get", 0, &["stash", "get", "alice"]);
    try_out(
        "stash list",
        0,
        &["stash", "list", "--api-socket", "alice/nara.sock"],
    );
    try_out(
        "stash drop",
        0,
        &["stash", "drop", "bob", "--api-socket", "alice/nara.sock"],
    );
    try_out("peers trust", 0, &["peers", "trust", "carol", "--key", key]);
    try_out("dm", 0, &["dm", "carol", "later", "--later"]);
    let listed = try_out("outbox list", 0, &["outbox", "list"]);
    let id = listed[0]["messages"][0]["id"].to_string();
    try_out("outbox drop", 0, &["outbox", "drop", &id]);
    try_out("peers untrust", 0, &["peers", "untrust", "carol"]);
    try_out("peers reset", 0, &["peers", "reset", "carol"]);
    try_out(
        "token new",
        0,
        &["token", "new", "--token-name", "one", "--rights", "read"],
    );
    try_out("token list", 0, &["token", "list"]);
    try_out("token revoke", 0, &["token", "revoke", "one"]);
    try_out(
        "id new",
        0,
        &["id", "new", "--name", "dave", "--out", "dave.soul"],
    );
    try_out(
        "id new",
        0,
        &["id", "new", "--name", "dave", "--out", "next.soul"],
    );
    try_out("id show", 0, &["id", "show", "--soul-file", "dave.soul"]);
    fs::write(path.join("event.json"), lines.first().unwrap()).unwrap();
    let request = [
        "sign",
        "--method",
        "GET",
        "--path",
        "/ping",
        "--soul-file",
        "dave.soul",
    ];
    let signed = try_out("sign", 0, &request);
    let text_of = |name: &str| match &signed[0][name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let verify = [
        format!("--timestamp={}", text_of("timestamp_ms")),
        format!("--signature={}", text_of("signature")),
        format!("--key={}", text_of("public_key")),
    ];
    let verify: Vec<&str> = verify.iter().map(String::as_str).collect();
    let of = |path: &'static str| {
        [
            &["verify", "--name", "dave", "--method", "GET", "--path", path],
            &verify[..],
        ]
        .concat()
    };
    try_out("verify", 0, &of("/ping"));
    try_out("verify", 4, &of("/pong"));
    // Dave knows nobody to tell.
    try_out("id succeed", 3, &by_dave(&["id", "succeed", "--to", "next.soul"]));
    try_out(
        "id retire",
        3,
        &["id", "retire", "--soul-file", "next.soul", "--data-dir", "dave"],
    );
    try_out("config check", 0, &direct(&["config", "check"]));
    try_out("config show", 0, &["config", "show"]);
    try_out("completions", 0, &["completions", "bash"]);
    try_out("man", 0, &["man"]);

    let commands = text(&run(path, 0, &["schema"]).stdout);
    let known: BTreeSet<String> = commands
        .lines()
        .filter(|command| !ELSEWHERE.contains(command))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        done, known,
        "a command with a schema whose output nobody looks at"
    );
}

/// Runs a command that must fail. Returns its stderr.
fn fails(scene: &Scene, command: &str, expected: i32, args: &[&str]) -> String {
    let (stdout, stderr) = scene.run(expected, &[args, &["--json"]].concat());
    assert!(!stderr.trim().is_empty(), "{args:?} says nothing");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for value in Deserializer::from_str(&stdout).into_iter::<Value>() {
        let value = value.unwrap_or_else(|error| panic!("{args:?}: {error}: {stdout}"));
        validate_as(&format!("nara-mesh/{}/1", command.replace(' ', "-")), &value);
    }
    stderr
}

/// Commands that call a peer: the arguments before and after the peer.
const CALLS: [(&str, &[&str], &[&str]); 8] = [
    ("checkpoints", &["checkpoints"], &[]),
    ("dm", &["dm"], &["hi"]),
    ("ping", &["ping"], &[]),
    ("request", &["request"], &["GET", "/x"]),
    ("stash get", &["stash", "get"], &[]),
    ("stash put", &["stash", "put"], &["secret"]),
    ("sync", &["sync"], &[]),
    ("zine", &["zine"], &[]),
];

/// Other commands that need a running nara or work through one, with the exit code if there is neither a nara
/// nor a soul.
const ALONE: [(&str, &[&str], i32); 24] = [
    ("backup", &["backup", "new.backup"], 2),
    ("dashboard", &["dashboard"], 3),
    ("doctor", &["doctor"], 1),
    ("events", &["events"], 2),
    ("health", &["health"], 3),
    ("ledger check", &["ledger", "check"], 2),
    ("outbox drop", &["outbox", "drop", "1"], 3),
    ("outbox list", &["outbox", "list"], 3),
    ("peers", &["peers"], 0),
    ("peers reset", &["peers", "reset", "alice"], 2),
    ("peers trust", &["peers", "trust", "alice"], 2),
    ("peers untrust", &["peers", "untrust", "alice"], 2),
    ("peers watch", &["peers", "--watch"], 2),
    ("reload", &["reload"], 3),
    ("stash drop", &["stash", "drop", "alice"], 2),
    ("stash list", &["stash", "list"], 2),
    ("sync", &["sync", "alice", "--check"], 2),
    ("sync", &["sync", "alice", "--reconcile"], 2),
    ("token list", &["token", "list"], 3),
    (
        "token new",
        &["token", "new", "--rights", "read", "--token-name", "one"],
        3,
    ),
    ("token revoke", &["token", "revoke", "one"], 3),
    ("watch", &["watch", "alice"], 2),
    ("world list", &["world", "list"], 3),
    ("world send", &["world", "send", "--message", "hi"], 2),
];

#[test]
fn without_a_nara_every_command_says_so_and_what_to_do() {
    let scene = Scene::new();
    let path = scene.path();
    fs::write(path.join("secret"), "only bob").unwrap();
    // A killed nara leaves its socket behind.
    drop(UnixListener::bind(path.join("left.sock")).unwrap());
    let calls = CALLS.iter().map(|(command, before, behind)| {
        let args = [before, &["alice"][..], behind].concat();
        (*command, args, if command.starts_with("stash") { 3 } else { 2 })
    });
    let alone = ALONE
        .iter()
        .map(|(command, args, code)| (*command, args.to_vec(), *code));
    for (command, args, code) in calls.chain(alone) {
        for (socket, code, said) in [
            ("nowhere.sock", 3, "there is no socket nowhere.sock"),
            ("left.sock", 3, "no nara listens on left.sock"),
            ("bob.soul", 2, "bob.soul is a file, not the socket of a nara"),
        ] {
            let told = fails(
                &scene,
                command,
                code,
                &[&args[..], &["--api-socket", socket]].concat(),
            );
            assert!(told.contains(said), "{args:?}: {told}");
            assert!(told.contains("hint: "), "{args:?}: {told}");
        }
        // For a user without a runtime folder, no nara is found.
        let output = nara_mesh(path).args(&args).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(command == "doctor" || told.contains("hint: "), "{args:?}: {told}");
    }
}

#[test]
fn a_peer_that_is_unknown_away_banned_or_refuses_has_an_exit_code_of_its_own() {
    let scene = Scene::new();
    fs::write(scene.path().join("secret"), "only bob").unwrap();
    let all_fail = |peer: &str, expected: i32, said: &str| {
        for (command, before, behind) in CALLS {
            let args = [before, &[peer][..], behind].concat();
            let told = fails(&scene, command, expected, &args);
            assert!(told.contains(said), "{args:?}: {told}");
        }
        let postcard = ["world", "send", "--message", "hi", "--to", peer];
        fails(&scene, "world send", expected, &postcard);
    };
    all_fail("nobody", 2, "nobody: the peer or its address is unknown");
    fails(&scene, "watch", 2, &["watch", "nobody"]);
    all_fail("127.0.0.1:1", 3, "127.0.0.1:1");
    printed(&scene, "peers untrust", 0, &["peers", "untrust", "alice"]);
    all_fail("alice", 4, "peers trust");
    printed(&scene, "peers trust", 0, &["peers", "trust", "alice"]);
    let at_alice = ["--api-socket", "alice/nara.sock"];
    let ban = [&["peers", "untrust", "bob"][..], &at_alice].concat();
    printed(&scene, "peers untrust", 0, &ban);
    for (command, before, behind) in CALLS {
        // A ping is never signed, and no program serves the path of the request, so neither depends on trust.
        if !matches!(command, "ping" | "request") {
            fails(&scene, command, 4, &[before, &["alice"][..], behind].concat());
        }
    }
    let lift = [&["peers", "trust", "bob"][..], &at_alice].concat();
    printed(&scene, "peers trust", 0, &lift);
    printed(&scene, "dm", 0, &["dm", "alice", "friends again"]);
    // One of two: partly done.
    let partly = fails(&scene, "ping", 5, &["ping", "alice", "127.0.0.1:1"]);
    assert!(partly.contains("127.0.0.1:1"), "{partly}");
}

#[test]
fn a_wrong_command_line_or_file_is_refused_with_what_is_wrong() {
    let scene = Scene::new();
    let path = scene.path();
    fs::write(path.join("broken"), "{").unwrap();
    fs::create_dir(path.join("folder")).unwrap();
    fs::write(path.join("large"), vec![0; 600_000]).unwrap();
    let long = "x".repeat(70_000);
    let key_of_nobody = ["peers", "trust", "nobody"];
    let as_bob = &AS_BOB[1..5];
    let serve = |more: &[&'static str]| [&["serve", "--soul-file", "bob.soul"][..], more].concat();
    let mut lines: Vec<(i32, &str, Vec<&str>)> = vec![
        (2, "dm", vec!["dm"]),
        (2, "dm", vec!["dm", "alice", &long]),
        (2, "dm", vec!["dm", "alice", "hi", "--later", "--expires", "0s"]),
        (2, "dm", vec!["dm", "alice", "hi", "--direct"]),
        (2, "ping", vec!["ping", "alice", "-c", "x"]),
        (2, "ping", vec!["ping", "alice", "-c", "0"]),
        (2, "ping", vec!["ping", "alice", "--timeout", "0s"]),
        (2, "sync", vec!["sync", "alice", "--mode", "all"]),
        (2, "sync", vec!["sync", "alice", "--resume", "--reconcile"]),
        (
            2,
            "sync",
            vec!["sync", "alice", "--reconcile", "--services", "fly"],
        ),
        (2, "request", vec!["request", "alice", "GET", "no-path"]),
        (2, "request", vec!["request", "alice", "GET", "/../x"]),
        (2, "request", vec!["request", "alice", "GET /", "/x"]),
        (
            2,
            "request",
            vec!["request", "alice", "POST", "/x", "--data", "@missing"],
        ),
        (1, "request", vec!["request", "alice", "GET", "/ping"]),
        (1, "request", vec!["request", "alice", "GET", "/nothing"]),
        (2, "outbox drop", vec!["outbox", "drop", "999"]),
        (2, "outbox drop", vec!["outbox", "drop", "x"]),
        (2, "outbox list", vec!["outbox", "list", "--direct"]),
        (2, "reload", vec!["reload", "--direct"]),
        (1, "stash get", vec!["stash", "get", "alice"]),
        (1, "stash drop", vec!["stash", "drop", "alice"]),
        (2, "stash put", vec!["stash", "put", "alice", "missing"]),
        (2, "stash put", vec!["stash", "put", "alice", "large"]),
        (2, "peers trust", key_of_nobody.to_vec()),
        (
            2,
            "peers trust",
            vec!["peers", "trust", "alice", "--key", "no key"],
        ),
        (2, "token revoke", vec!["token", "revoke", "none"]),
        (
            2,
            "token new",
            vec!["token", "new", "--rights", "read", "--token-name", "api"],
        ),
        (
            2,
            "token new",
            vec!["token", "new", "--rights", "fly", "--token-name", "one"],
        ),
        (2, "world send", vec!["world", "send"]),
        (2, "events", vec!["events", "--since", "never"]),
        (2, "events", vec!["events", "--data-dir", "folder"]),
        (2, "ledger check", vec!["ledger", "check", "--data-dir", "folder"]),
        (2, "backup", vec!["backup", "new.backup", "--data-dir", "folder"]),
        (1, "backup", vec!["backup", "folder"]),
        (1, "backup", vec!["backup", "missing/new.backup"]),
        (2, "restore", vec!["restore", "no.backup"]),
        (1, "restore", vec!["restore", "broken", "--data-dir", "new"]),
        (2, "restore", vec!["restore", "broken", "--data-dir", "bob"]),
        (
            2,
            "events export",
            [&["events", "export", "nobody"][..], as_bob].concat(),
        ),
        (
            3,
            "events export",
            [&["events", "export", "127.0.0.1:1"][..], as_bob].concat(),
        ),
        (
            2,
            "events import",
            [&["events", "import", "alice", "missing"][..], as_bob].concat(),
        ),
        (
            2,
            "events import",
            [&["events", "import", "alice", "broken"][..], as_bob].concat(),
        ),
        (2, "query", [&["query", "nobody", "nobody"][..], as_bob].concat()),
        (2, "id new", vec!["id", "new"]),
        (
            1,
            "id new",
            vec!["id", "new", "--name", "bob", "--out", "bob.soul"],
        ),
        (
            1,
            "id new",
            vec!["id", "new", "--name", "bob", "--out", "missing/bob.soul"],
        ),
        (2, "id show", vec!["id", "show", "--soul-file", "missing"]),
        (
            2,
            "id succeed",
            vec!["id", "succeed", "--to", "bob.soul", "--soul-file", "bob.soul"],
        ),
        (2, "id retire", vec!["id", "retire"]),
        (2, "config check", vec!["config", "check", "--config", "missing"]),
        (2, "config check", vec!["config", "check", "--config", "broken"]),
        (
            2,
            "config check",
            vec!["config", "check", "--soul-file", "missing"],
        ),
        (2, "config show", vec!["config", "show", "--config", "broken"]),
        (
            2,
            "sign",
            vec!["sign", "--event", "broken", "--soul-file", "bob.soul"],
        ),
        (2, "verify", vec!["verify"]),
        (2, "verify", vec!["verify", "--event", "broken"]),
        (3, "conformance", vec!["conformance", "127.0.0.1:1"]),
        (2, "demo", vec!["demo", "--naras", "0"]),
        (2, "up", vec!["up", "--soul-file", "bob.soul", "--network", "fly"]),
        (
            1,
            "serve",
            serve(&["--data-dir", "bob", "--listen", "127.0.0.1:0"]),
        ),
        (
            2,
            "serve",
            serve(&["--data-dir", "new", "--expose", "/dm=http://127.0.0.1:1"]),
        ),
        (
            2,
            "serve",
            serve(&["--data-dir", "new", "--api-listen", "0.0.0.0:1"]),
        ),
        (
            2,
            "serve",
            serve(&["--data-dir", "new", "--api-group", "no such group"]),
        ),
        (2, "serve", serve(&["--data-dir", "new", "--api-group", "0:fly"])),
        (2, "serve", serve(&["--data-dir", "new", "--peers", "missing"])),
        (2, "schema", vec!["schema", "fly"]),
        (2, "completions", vec!["completions", "ed"]),
        (1, "man", vec!["man", "--out", "broken"]),
        (2, "fly", vec!["fly"]),
    ];
    let commands = text(&run(path, 0, &["schema"]).stdout);
    for command in commands.lines() {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--no-such-argument");
        lines.push((2, command, args));
    }
    for (expected, command, args) in lines {
        let told = fails(&scene, command, expected, &args);
        assert!(told.contains("error: "), "{args:?}: {told}");
    }
}
