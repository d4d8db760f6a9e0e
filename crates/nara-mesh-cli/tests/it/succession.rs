//! Key succession from the view of the operator and of the operators of peers.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{nara_mesh, new_soul, run, run_json, text};

/// Alice, with an old and a new soul, and bob, whose peers file has the old key.
struct Place {
    folder: tempfile::TempDir,
    old: Value,
    new: Value,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let old = new_soul(path, "alice");
        fs::rename(path.join("alice.soul"), path.join("old.soul")).unwrap();
        let new = new_soul(path, "alice");
        fs::rename(path.join("alice.soul"), path.join("new.soul")).unwrap();
        new_soul(path, "bob");
        let known = format!(
            "[[peer]]\nname = \"alice\"\nid = {}\nkey = {}\n",
            old["id"], old["public_key"]
        );
        fs::write(path.join("known.toml"), known).unwrap();
        Self { folder, old, new }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts bob, and writes his address to alice's peers file.
    fn serve_bob(&self, more: &[&str]) -> Serving {
        let (bob, listening) = Serving::start_with(self.path(), "bob", more);
        fs::write(
            self.path().join("peers.toml"),
            listening["stanza"].as_str().unwrap(),
        )
        .unwrap();
        bob
    }

    /// Runs a command as alice, with one of her souls and a separate data folder.
    fn alice(&self, expected: i32, soul: &str, args: &[&str]) -> String {
        let soul_file = format!("{soul}.soul");
        let by = [
            "--soul-file",
            &soul_file,
            "--data-dir",
            soul,
            "--peers",
            "peers.toml",
        ];
        let output = run(self.path(), expected, &[args, &by].concat());
        text(&output.stdout) + &text(&output.stderr)
    }

    fn greets(&self, expected: i32, soul: &str) -> String {
        self.alice(expected, soul, &["dm", "bob", "hello"])
    }
}

/// Returns the next line of a nara about a statement.
fn told(serving: &mut Serving) -> Value {
    next(serving, "succession")
}

/// Returns the next line about an event of this kind.
fn next(serving: &mut Serving, event: &str) -> Value {
    loop {
        let line = serving.next();
        if line["event"] == event {
            return line;
        }
    }
}

/// Returns result and text of the check `own key` of the running alice.
fn own_key(place: &Place) -> (String, String) {
    let args = [
        "doctor",
        "--json",
        "--data-dir",
        "alice",
        "--soul-file",
        "alice.soul",
    ];
    let output = nara_mesh(place.path()).args(args).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"] == "own key").unwrap();
    (check["result"].as_str().unwrap().to_owned(), check.to_string())
}

#[test]
fn peers_follow_a_new_soul_and_refuse_the_old_one_after_a_restart_too() {
    let place = Place::new();
    let mut bob = place.serve_bob(&["--trust", "pinned"]);
    place.greets(0, "old");
    place.greets(4, "new");
    let said = place.alice(0, "old", &["id", "succeed", "--to", "new.soul"]);
    assert!(said.contains("notified 1 peer"), "{said}");
    let line = told(&mut bob);
    assert_eq!(line["effect"], "followed", "{line}");
    assert_eq!(line["new_key_id"], place.new["key_id"]);
    assert_eq!(line["old_key_id"], place.old["key_id"]);
    place.greets(0, "new");
    place.greets(4, "old");
    // Bob's peers file still has the old key.
    bob.hang_up();
    place.greets(4, "old");
    bob.kill();
    let _bob = place.serve_bob(&["--trust", "pinned"]);
    place.greets(4, "old");
    place.greets(0, "new");
}

#[test]
fn a_statement_on_paper_is_published_without_the_old_machine() {
    let place = Place::new();
    let mut bob = place.serve_bob(&[]);
    let args = [
        "id",
        "succeed",
        "--to",
        "new.soul",
        "--paper",
        "--soul-file",
        "old.soul",
    ];
    let paper = text(&run(place.path(), 0, &args).stdout);
    let words: Vec<&str> = paper.split_whitespace().collect();
    assert_eq!(words.len() % 24, 0, "{paper}");
    assert!(!place.path().join("old").exists(), "nothing is published");
    fs::write(place.path().join("words.txt"), &paper).unwrap();
    let without = run(
        place.path(),
        2,
        &[
            "id",
            "succeed",
            "--from-words",
            "words.txt",
            "--peers",
            "peers.toml",
        ],
    );
    let without = text(&without.stderr);
    assert!(
        without.contains("pass --soul-file FILE with the new soul"),
        "{without}"
    );
    place.greets(0, "old");
    fs::remove_file(place.path().join("old.soul")).unwrap();

    let mistyped = paper.replacen(words[3], "zoo", 1);
    fs::write(place.path().join("words.txt"), mistyped).unwrap();
    let from_words = ["id", "succeed", "--from-words", "words.txt"];
    place.alice(2, "new", &from_words);
    fs::write(
        place.path().join("words.txt"),
        paper.to_uppercase().replace(' ', "\n  "),
    )
    .unwrap();
    let said = place.alice(0, "new", &from_words);
    assert!(said.contains("notified 1 peer"), "{said}");
    assert_eq!(told(&mut bob)["effect"], "followed");
    place.greets(0, "new");

    // From stdin the result is the same, and nothing changes.
    let mut command = nara_mesh(place.path());
    let by = [
        "--soul-file",
        "new.soul",
        "--data-dir",
        "new",
        "--peers",
        "peers.toml",
    ];
    let again = command
        .args(["id", "succeed", "--from-words", "-"])
        .args(by)
        .write_stdin(paper)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
    place.greets(0, "new");
}

#[test]
fn a_closed_nara_asks_its_operator_and_two_successors_are_an_alarm() {
    let place = Place::new();
    let mut bob = place.serve_bob(&["--trust", "closed"]);
    place.alice(0, "old", &["id", "succeed", "--to", "new.soul"]);
    let line = told(&mut bob);
    assert_eq!(line["effect"], "asked", "{line}");
    place.greets(0, "old");
    place.greets(4, "new");
    // A thief of the old soul signs a different statement.
    new_soul(place.path(), "alice");
    fs::rename(place.path().join("alice.soul"), place.path().join("thief.soul")).unwrap();
    place.alice(0, "old", &["id", "succeed", "--to", "thief.soul"]);
    assert_eq!(told(&mut bob)["effect"], "conflict");
    for soul in ["old", "new", "thief"] {
        let refused = place.greets(4, soul);
        assert!(soul != "old" || refused.contains("two successors"), "{refused}");
    }
    // The operator decides, by changing the key in the peers file.
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", place.new["public_key"]);
    fs::write(place.path().join("known.toml"), known).unwrap();
    run(
        place.path(),
        0,
        &["reload", "--data-dir", "bob", "--soul-file", "bob.soul"],
    );
    place.greets(0, "new");
    place.greets(4, "thief");
}

#[test]
fn who_retires_is_refused() {
    let place = Place::new();
    let mut bob = place.serve_bob(&[]);
    place.greets(0, "old");
    let said = place.alice(0, "old", &["id", "retire"]);
    assert!(said.contains("alice retires"), "{said}");
    assert_eq!(told(&mut bob)["effect"], "retired");
    let refused = place.greets(4, "old");
    assert!(refused.contains("stated that it retires"), "{refused}");
    let listed = [
        "peers",
        "list",
        "--offline",
        "--json",
        "--data-dir",
        "bob",
        "--soul-file",
        "bob.soul",
    ];
    let listed = run_json(place.path(), 0, &listed);
    assert_eq!(listed["peers"][0]["keyless"], "retired", "{listed}");
    bob.kill();
    let _bob = place.serve_bob(&[]);
    place.greets(4, "old");
}

#[test]
fn what_cannot_be_stated_is_said_with_the_way_out() {
    let place = Place::new();
    fs::write(place.path().join("peers.toml"), "").unwrap();
    let said = place.alice(2, "old", &["id", "succeed"]);
    assert!(said.contains("pass --to FILE"), "{said}");
    let said = place.alice(2, "old", &["id", "succeed", "--to", "bob.soul"]);
    assert!(
        said.contains("only another soul of alice can take over"),
        "{said}"
    );
    let said = place.alice(2, "old", &["id", "succeed", "--to", "old.soul"]);
    assert!(said.contains("the new key is the old one"), "{said}");
    place.alice(
        2,
        "old",
        &["id", "succeed", "--to", "new.soul", "--reason", "retirement"],
    );
}

#[test]
fn a_peer_that_knows_the_first_of_three_keys_follows_to_the_third() {
    let place = Place::new();
    let path = place.path();
    let third = new_soul(path, "alice");
    fs::rename(path.join("alice.soul"), path.join("third.soul")).unwrap();
    // Bob is stopped, and no other peer tells him.
    fs::write(path.join("peers.toml"), "").unwrap();
    for (from, to) in [("old.soul", "new.soul"), ("new.soul", "third.soul")] {
        let by = [
            "--soul-file",
            from,
            "--data-dir",
            "alice",
            "--peers",
            "peers.toml",
        ];
        // Nobody is told.
        run(path, 3, &[&["id", "succeed", "--to", to][..], &by].concat());
    }
    let mut bob = place.serve_bob(&["--trust", "pinned"]);
    fs::copy(path.join("peers.toml"), path.join("known.toml")).unwrap();
    fs::rename(path.join("third.soul"), path.join("alice.soul")).unwrap();
    let (_alice, _) = Serving::start_with(path, "alice", &[]);
    let as_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    run(path, 0, &[&["dm", "bob", "hello"][..], &as_alice].concat());
    // Both are notified, in any order.
    let mut followed = Vec::new();
    for _ in 0..2 {
        let line = told(&mut bob);
        assert_eq!(line["effect"], "followed", "{line}");
        followed.push((line["old_key_id"].clone(), line["new_key_id"].clone()));
    }
    for (old, new) in [(&place.old, &place.new), (&place.new, &third)] {
        assert!(
            followed.contains(&(old["key_id"].clone(), new["key_id"].clone())),
            "{followed:?}"
        );
    }
    for soul in ["old", "new"] {
        place.greets(4, soul);
    }
}

#[test]
fn an_operator_is_told_that_a_peer_knows_another_key_of_this_nara_and_what_to_do() {
    let place = Place::new();
    let path = place.path();
    let bob = place.serve_bob(&["--trust", "pinned"]);
    fs::copy(path.join("peers.toml"), path.join("known.toml")).unwrap();
    fs::copy(path.join("new.soul"), path.join("alice.soul")).unwrap();
    // She greets bob on her own.
    let (mut alice, _) = Serving::start_with(path, "alice", &[]);
    let line = next(&mut alice, "own_key_refused");
    assert_eq!(line["peer"], "bob", "{line}");
    assert_eq!(line["known_key_id"], place.old["key_id"]);
    assert_eq!(line["own_key_id"], place.new["key_id"]);
    let remedy = line["remedy"].as_str().unwrap();
    let command = format!(
        "nara-mesh peers trust alice --key {} --replace",
        place.new["key_id"].as_str().unwrap()
    );
    assert!(remedy.contains(&command), "{remedy}");
    let (result, check) = own_key(&place);
    assert!(
        result == "failed" && check.contains("bob") && check.contains(&command),
        "{check}"
    );
    let as_alice = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let listed = |refuses: bool| {
        let listed = run_json(
            path,
            0,
            &[&["peers", "--offline", "--json"][..], &as_alice].concat(),
        );
        let peer = &listed["peers"][0];
        assert_eq!(peer["refuses_own_key"], refuses, "{listed}");
        peer["known_own_key_id"].clone()
    };
    assert_eq!(listed(true), place.old["key_id"]);
    let disputes = |count: u32| {
        let client = nara_local_api::client::LocalClient::new(path.join("alice/nara.sock"));
        let asking = client.request_bytes(http::Method::GET, "/v1/metrics");
        let metrics = tokio::runtime::Runtime::new().unwrap().block_on(asking).unwrap();
        let metrics = String::from_utf8(metrics.to_vec()).unwrap();
        let line = format!("nara_mesh_own_key_disputes {count}");
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    };
    disputes(1);
    // The operator of bob follows the request, by changing the peers file.
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", place.new["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    run(
        path,
        0,
        &["reload", "--data-dir", "bob", "--soul-file", "bob.soul"],
    );
    // The check asks bob again.
    assert_eq!(own_key(&place).0, "ok");
    assert_eq!(next(&mut alice, "own_key_accepted")["peer"], "bob");
    assert!(listed(false).is_null());
    disputes(0);
    bob.kill();
}

#[test]
fn an_operator_is_told_that_a_statement_replaces_the_key_of_the_running_nara() {
    let place = Place::new();
    let path = place.path();
    fs::copy(path.join("old.soul"), path.join("alice.soul")).unwrap();
    fs::write(path.join("known.toml"), "").unwrap();
    let (mut alice, _) = Serving::start_with(path, "alice", &[]);
    assert_eq!(own_key(&place).0, "ok");
    let by = [
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
        "--peers",
        "known.toml",
    ];
    run(
        path,
        0,
        &[&["id", "succeed", "--to", "new.soul"][..], &by].concat(),
    );
    let line = next(&mut alice, "own_key_replaced");
    assert_eq!(line["new_key_id"], place.new["key_id"], "{line}");
    let (result, check) = own_key(&place);
    assert!(
        result == "failed" && check.contains("serve with the new soul"),
        "{check}"
    );
    // Also after a restart with the old soul.
    alice.kill();
    let (mut alice, _) = Serving::start_with(path, "alice", &[]);
    next(&mut alice, "own_key_replaced");
}

#[test]
fn a_new_soul_goes_on_with_what_the_old_one_has_remembered() {
    let place = Place::new();
    let path = place.path();
    let as_alice = |expected, soul: &str, args: &[&str]| {
        let soul_file = format!("{soul}.soul");
        let by = ["--soul-file", &soul_file, "--peers", "peers.toml"];
        let output = nara_mesh(path)
            .env("HOME", path)
            .args([args, &by].concat())
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        said
    };
    let _bob = place.serve_bob(&["--trust", "pinned"]);
    // Both in their default folders.
    as_alice(0, "old", &["peers", "untrust", "carol"]);
    let said = as_alice(0, "old", &["id", "succeed", "--to", "new.soul"]);
    assert!(said.contains("nara-mesh serve --soul-file new.soul\n"), "{said}");
    assert!(said.contains("stash put"), "{said}");
    let listed = as_alice(0, "new", &["peers", "list", "--offline"]);
    assert!(listed.contains("untrusted"), "{listed}");
    as_alice(0, "new", &["dm", "bob", "hello"]);
}

#[test]
fn a_statement_that_reached_nobody_is_not_called_published() {
    let place = Place::new();
    let nowhere = "[[peer]]\nname = \"bob\"\naddress = \"127.0.0.1:1\"\n";
    for (peers, way_out) in [("", "--peers"), (nowhere, "again")] {
        fs::write(place.path().join("peers.toml"), peers).unwrap();
        let said = place.alice(3, "old", &["id", "succeed", "--to", "new.soul"]);
        assert!(!said.contains("published: "), "{said}");
        assert!(
            said.contains("no peer has it yet") && said.contains("serve"),
            "{said}"
        );
        assert!(said.contains(way_out), "{said}");
        assert!(said.matches("bob").count() <= 1, "a peer is named once: {said}");
    }
    // One of two is reached.
    let _bob = place.serve_bob(&[]);
    let known = fs::read_to_string(place.path().join("peers.toml")).unwrap();
    let carol = nowhere.replace("bob", "carol");
    fs::write(place.path().join("peers.toml"), known + &carol).unwrap();
    let said = place.alice(5, "old", &["id", "succeed", "--to", "new.soul"]);
    assert!(
        said.contains("published: ") && said.contains("notified 1 peer"),
        "{said}"
    );
    place.greets(0, "new");
}
