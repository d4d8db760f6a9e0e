//! `stash` and `world`: commands that need the running nara, because peers answer with requests of their own.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{nara_mesh, new_soul, run, run_json, text};

/// Running naras that know each other's addresses.
struct Scene {
    folder: tempfile::TempDir,
    running: Vec<(&'static str, Serving)>,
}

impl Scene {
    /// Starts the naras; `more` are arguments of the last one.
    fn new(names: &[&'static str], more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            new_soul(folder.path(), name);
        }
        fs::write(folder.path().join("known.toml"), "").unwrap();
        let mut scene = Self {
            folder,
            running: Vec::new(),
        };
        for name in names {
            let more = if Some(name) == names.last() { more } else { &[] };
            scene.start(name, more);
        }
        scene
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a nara, and writes its address to all peers files.
    fn start(&mut self, name: &'static str, more: &[&str]) {
        let (serving, stanza) = {
            let (serving, listening) = Serving::start_with(self.path(), name, more);
            (serving, listening["stanza"].as_str().unwrap().to_owned())
        };
        fs::write(self.path().join(format!("{name}.stanza")), stanza).unwrap();
        self.running.push((name, serving));
        let mut known = String::new();
        for (name, _) in &self.running {
            known += &fs::read_to_string(self.path().join(format!("{name}.stanza"))).unwrap();
        }
        fs::write(self.path().join("known.toml"), known).unwrap();
        for (name, _) in &self.running {
            run(self.path(), 0, &as_nara(name, &["reload"]));
        }
    }

    fn stop(&mut self, name: &str) {
        self.running.retain(|(running, _)| *running != name);
    }
}

/// Returns the arguments of a command of a nara.
fn as_nara<'a>(name: &'static str, command: &[&'a str]) -> Vec<&'a str> {
    let own: [&'static str; 6] = match name {
        "alice" => [
            "--soul-file",
            "alice.soul",
            "--data-dir",
            "alice",
            "--peers",
            "known.toml",
        ],
        "bob" => [
            "--soul-file",
            "bob.soul",
            "--data-dir",
            "bob",
            "--peers",
            "known.toml",
        ],
        _ => [
            "--soul-file",
            "carol.soul",
            "--data-dir",
            "carol",
            "--peers",
            "known.toml",
        ],
    };
    [command, &own].concat()
}

#[test]
fn a_stash_is_put_listed_fetched_survives_a_restart_and_is_dropped() {
    let mut scene = Scene::new(&["alice", "bob"], &[]);
    let secret = b"what only alice may read \x00\x01";
    fs::write(scene.path().join("secret"), secret).unwrap();
    run(
        scene.path(),
        0,
        &as_nara("alice", &["stash", "put", "bob", "secret"]),
    );

    let listed = run_json(scene.path(), 0, &as_nara("bob", &["stash", "list", "--json"]));
    let stash = &listed["stashes"][0];
    assert_eq!(stash["name"], "alice");
    // Sealed: 16 bytes longer, and the plain text is not in the peer's file.
    assert_eq!(stash["bytes"], secret.len() + 16);
    let file = fs::read(scene.path().join("bob/stash.db")).unwrap();
    assert!(!file.windows(10).any(|bytes| bytes == &secret[..10]));

    scene.stop("bob");
    scene.start("bob", &[]);
    let fetched = run(scene.path(), 0, &as_nara("alice", &["stash", "get", "bob"]));
    assert_eq!(fetched.stdout, secret);

    run(scene.path(), 0, &as_nara("bob", &["stash", "drop", "alice"]));
    let gone = run(scene.path(), 1, &as_nara("alice", &["stash", "get", "bob"]));
    assert!(
        text(&gone.stderr).contains("bob has no stash of this nara"),
        "{}",
        text(&gone.stderr)
    );
    let listed = run_json(scene.path(), 0, &as_nara("bob", &["stash", "list", "--json"]));
    assert_eq!(listed["stashes"], Value::Array(Vec::new()));
    run(scene.path(), 1, &as_nara("bob", &["stash", "drop", "alice"]));

    // Without the running nara, the file is read.
    run(
        scene.path(),
        0,
        &as_nara("alice", &["stash", "put", "bob", "secret"]),
    );
    scene.stop("bob");
    run(scene.path(), 0, &as_nara("bob", &["stash", "drop", "alice"]));
    scene.start("bob", &[]);
    run(scene.path(), 1, &as_nara("alice", &["stash", "get", "bob"]));
}

#[test]
fn a_stash_that_is_refused_says_why() {
    let scene = Scene::new(
        &["alice", "bob"],
        &["--limit-stash-bytes", "100", "--limit-stash-age", "1"],
    );
    let put = |bytes: usize, expected: i32| {
        let mut command = nara_mesh(scene.path());
        let output = command
            .args(as_nara("alice", &["stash", "put", "bob"]))
            .write_stdin(vec![7; bytes])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    put(84, 0);
    let refused = put(85, 1);
    assert!(refused.contains("larger than 100 bytes"), "{refused}");
    // The existing stash is kept.
    let fetched = run(scene.path(), 0, &as_nara("alice", &["stash", "get", "bob"]));
    assert_eq!(fetched.stdout, vec![7; 84]);
}

#[test]
fn what_needs_a_running_nara_says_so() {
    let folder = tempfile::tempdir().unwrap();
    new_soul(folder.path(), "alice");
    fs::write(folder.path().join("known.toml"), "").unwrap();
    for command in [
        &["stash", "get", "bob"][..],
        &["stash", "put", "bob", "alice.soul"],
        &["world", "list"],
        &["world", "send", "--message", "hi", "--wait"],
    ] {
        let output = run(folder.path(), 3, &as_nara("alice", command));
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("no nara runs on alice") && stderr.contains("nara-mesh serve"),
            "{stderr}"
        );
    }
    let empty = run_json(folder.path(), 0, &as_nara("alice", &["stash", "list", "--json"]));
    assert_eq!(empty["stashes"], Value::Array(Vec::new()));
}

#[test]
fn a_postcard_that_comes_home_is_waited_for_and_listed() {
    let scene = Scene::new(&["alice", "bob", "carol"], &[]);
    // A nara that answers is online.
    for name in ["alice", "bob", "carol"] {
        run(scene.path(), 0, &as_nara(name, &["ping", "--all"]));
    }
    let send = [
        "world",
        "send",
        "--message",
        "hello",
        "--to",
        "bob",
        "--wait",
        "--json",
    ];
    let sent = run_json(scene.path(), 0, &as_nara("alice", &send));
    assert_eq!(sent["state"], "home");
    let hops: Vec<&str> = sent["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| hop.as_str().unwrap())
        .collect();
    assert_eq!(hops, ["bob", "carol", "alice"]);
    let listed = run_json(scene.path(), 0, &as_nara("alice", &["world", "list", "--json"]));
    assert_eq!(listed["postcards"].as_array().unwrap().len(), 1);
    assert_eq!(listed["postcards"][0]["message_id"], sent["message_id"]);
    assert_eq!(listed["postcards"][0]["message"], "hello");
}

#[test]
fn a_postcard_that_is_stuck_says_where_it_was_last_seen() {
    let mut scene = Scene::new(&["alice", "bob"], &[]);
    // Bob restarts without the address of alice.
    scene.stop("bob");
    fs::remove_dir_all(scene.path().join("bob")).unwrap();
    let alice = fs::read_to_string(scene.path().join("alice.stanza")).unwrap();
    let nowhere: Vec<&str> = alice
        .lines()
        .filter(|line| !line.starts_with("address"))
        .collect();
    let known = scene.path().join("known.toml");
    fs::write(&known, nowhere.join("\n")).unwrap();
    // He listens on all addresses, so that no peer on loopback tells him her address.
    let (bob, listening) = Serving::start_with(scene.path(), "bob", &["--listen", "0.0.0.0:0"]);
    let address: std::net::SocketAddr = listening["address"].as_str().unwrap().parse().unwrap();
    let stanza = listening["stanza"].as_str().unwrap();
    let stanza = format!("{stanza}\naddress = \"127.0.0.1:{}\"\n", address.port());
    fs::write(&known, alice + &stanza).unwrap();
    run(scene.path(), 0, &as_nara("alice", &["reload"]));
    let send = ["world", "send", "--message", "hello", "--to", "bob", "--wait"];
    let sent = run(scene.path(), 5, &as_nara("alice", &send));
    let stdout = text(&sent.stdout);
    assert!(
        stdout.contains("did not come home; it was last seen at bob: journey stuck"),
        "{stdout}"
    );
    let listed = run_json(scene.path(), 0, &as_nara("alice", &["world", "list", "--json"]));
    assert_eq!(listed["postcards"][0]["state"], "stuck");
    drop(bob);
}

#[test]
fn a_postcard_that_could_not_be_passed_on_is_not_waited_for() {
    let mut scene = Scene::new(&["alice", "bob", "carol"], &[]);
    scene.stop("carol");
    scene.stop("alice");
    // Bob knows only carol, who has stopped.
    let carol = fs::read_to_string(scene.path().join("carol.stanza")).unwrap();
    let alice = fs::read_to_string(scene.path().join("alice.stanza")).unwrap();
    let nowhere = alice.lines().filter(|line| !line.starts_with("address"));
    let nowhere: String = nowhere.map(|line| format!("{line}\n")).collect();
    scene.stop("bob");
    fs::remove_dir_all(scene.path().join("bob")).unwrap();
    let known = scene.path().join("known.toml");
    fs::write(&known, nowhere + &carol).unwrap();
    let (_bob, listening) = Serving::start_with(scene.path(), "bob", &["--listen", "0.0.0.0:0"]);
    let address: std::net::SocketAddr = listening["address"].as_str().unwrap().parse().unwrap();
    let stanza = listening["stanza"].as_str().unwrap();
    fs::write(
        &known,
        format!("{stanza}\naddress = \"127.0.0.1:{}\"\n", address.port()),
    )
    .unwrap();
    let (_alice, _) = Serving::start(scene.path(), "alice");
    let send = ["world", "send", "--message", "hello", "--to", "bob", "--wait"];
    let sent = run(scene.path(), 5, &as_nara("alice", &send));
    let stdout = text(&sent.stdout);
    assert!(
        stdout.contains("did not come home; it was last seen at bob"),
        "{stdout}"
    );
}
