//! A soul that changes hands, as its operator and the operators of its peers live it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{nara_mesh, new_soul, run, text};

/// Alice, with an old soul and a new one, and bob, whose peers file has the old key.
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

    /// Serves bob, and tells alice where he is.
    fn serve_bob(&self, more: &[&str]) -> Serving {
        let (bob, listening) = Serving::start_with(self.path(), "bob", more);
        fs::write(
            self.path().join("peers.toml"),
            listening["stanza"].as_str().unwrap(),
        )
        .unwrap();
        bob
    }

    /// Runs a command as alice, with one of her souls and a data folder of its own.
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

/// What a nara says next about a statement.
fn told(serving: &mut Serving) -> Value {
    loop {
        let line = serving.next();
        if line["event"] == "succession" {
            return line;
        }
    }
}

#[test]
fn peers_follow_a_new_soul_and_refuse_the_old_one_after_a_restart_too() {
    let place = Place::new();
    let mut bob = place.serve_bob(&["--trust", "pinned"]);
    place.greets(0, "old");
    place.greets(4, "new");
    let said = place.alice(0, "old", &["id", "succeed", "--to", "new.soul"]);
    assert!(said.contains("told 1 peer"), "{said}");
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
    assert!(said.contains("told 1 peer"), "{said}");
    assert_eq!(told(&mut bob)["effect"], "followed");
    place.greets(0, "new");

    // From stdin it does the same, and nothing changes any more.
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
    // A thief of the old soul states something else.
    new_soul(place.path(), "alice");
    fs::rename(place.path().join("alice.soul"), place.path().join("thief.soul")).unwrap();
    place.alice(0, "old", &["id", "succeed", "--to", "thief.soul"]);
    assert_eq!(told(&mut bob)["effect"], "conflict");
    for soul in ["old", "new", "thief"] {
        let refused = place.greets(4, soul);
        assert!(soul != "old" || refused.contains("two successors"), "{refused}");
    }
    // The operator decides, and writes it where the key stands.
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
