//! What every command really prints with `--json`, of successes and failures, against its schema.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Deserializer, Value};

use crate::local_api::Scene;
use crate::schemas::validate_as;
use crate::{new_soul, run, text};

/// Commands whose output other tests compare with its schema: they run for as long as they are let, or take long.
const ELSEWHERE: [&str; 5] = ["demo", "peers watch", "serve", "up", "watch"];

/// With a soul and a peers file of one's own.
const AS_BOB: [&str; 7] = [
    "--direct",
    "--soul-file",
    "bob.soul",
    "--data-dir",
    "bob",
    "--peers",
    "known.toml",
];

/// Runs a command; compares all that it prints with the schema of that command.
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
    try_out("request", 1, &["request", "alice", "GET", "/nothing"]);
    try_out("query", 0, &direct(&["query", "alice", "alice"]));
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
    try_out("stash get", 0, &["stash", "get", "alice", "--out", "back"]);
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
    try_out("id succeed", 0, &by_dave(&["id", "succeed", "--to", "next.soul"]));
    try_out(
        "id retire",
        0,
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

#[test]
fn what_fails_prints_nothing_or_what_its_schema_says_and_why_on_stderr() {
    let scene = Scene::new();
    for (expected, command, args) in [
        (2, "dm", &["dm"][..]),
        (2, "dm", &["dm", "nobody", "hi"]),
        (2, "ping", &["ping", "alice", "-c", "x"]),
        (2, "ping", &["ping", "nobody"]),
        (2, "sync", &["sync", "nobody"]),
        (2, "sync", &["sync", "alice", "--mode", "all"]),
        (2, "request", &["request", "nobody", "GET", "/"]),
        (2, "request", &["request", "alice", "GET", "no-path"]),
        (2, "outbox drop", &["outbox", "drop", "999"]),
        (2, "outbox list", &["outbox", "list", "--direct"]),
        (1, "stash get", &["stash", "get", "alice"]),
        (2, "peers trust", &["peers", "trust", "alice", "--key", "no key"]),
        (2, "token revoke", &["token", "revoke", "none"]),
        (2, "completions", &["completions", "ed"]),
        (2, "schema", &["schema", "fly"]),
        (3, "doctor", &["doctor", "--api-socket", "nowhere.sock"]),
        (2, "restore", &["restore", "no.backup"]),
        (2, "fly", &["fly"]),
    ] {
        let (stdout, stderr) = scene.run(expected, &[args, &["--json"]].concat());
        assert!(stderr.contains("error: "), "{args:?}: {stderr}");
        for value in Deserializer::from_str(&stdout).into_iter::<Value>() {
            let value = value.unwrap_or_else(|error| panic!("{args:?}: {error}: {stdout}"));
            validate_as(&format!("nara-mesh/{}/1", command.replace(' ', "-")), &value);
        }
    }
}
