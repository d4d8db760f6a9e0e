//! Runs every command that a message of the program recommends, in the situation of its reader.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::serve::Serving;
use crate::{new_soul, run, text};

/// Returns the commands in backticks in all sources with user-visible text, as written there.
fn recommended() -> BTreeSet<String> {
    fn collect(folder: &Path, sources: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push_str(&fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut sources = String::new();
    for of in ["nara-mesh-cli", "nara-local-api", "nara-mesh", "nara-tailnet"] {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        collect(&crates.join(of).join("src"), &mut sources);
    }
    // A backslash at the end of a line continues the string.
    let sources: String = sources.split("\\\n").map(str::trim_start).collect();
    let quoted = sources.split('`').filter(|text| !text.contains(['\n', '…']));
    let commands = quoted.filter_map(|text| text.strip_prefix("nara-mesh "));
    commands.map(str::to_owned).collect()
}

/// Returns the command with a value for each placeholder.
fn typed(command: &str, bobs_key: &str) -> Vec<String> {
    let (command, _) = command.split_once(" >>").unwrap_or((command, ""));
    let mut words: Vec<String> = Vec::new();
    for word in command.split(' ') {
        let is_key = words.last().is_some_and(|last| last == "--key");
        let value = match (word, words.first().map(String::as_str)) {
            _ if is_key => bobs_key,
            ("FILE", Some("backup" | "restore")) => "backup.db",
            ("FILE", Some("id")) if words.iter().any(|word| word == "--from-words") => "words.txt",
            ("FILE", Some("id")) if words.iter().any(|word| word == "--to") => "successor.soul",
            ("FILE", _) => "fresh.soul",
            ("ADDRESS", _) => "127.0.0.1:0",
            // Any soul that peers know.
            ("SOUL", _) => "alice.soul",
            ("NAME" | "{}" | "{name}", Some("id")) => "carol",
            (word, _) if word == "NAME" || word.starts_with('{') => "bob",
            (word, _) => word,
        };
        words.push(value.to_owned());
    }
    words
}

/// Returns the program with alice's settings in the environment, so that a recommended command is complete.
fn alice(folder: &Path, words: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nara-mesh"));
    command
        .env_clear()
        .current_dir(folder)
        .env("HOME", folder)
        .env("NARA_MESH_SOUL_FILE", "alice.soul")
        .env("NARA_MESH_DATA_DIR", "alice")
        .env("NARA_MESH_PEERS", "peers.toml")
        .env("NARA_MESH_NETWORK", "loopback")
        .args(words);
    command
}

#[test]
fn every_command_that_a_message_recommends_does_what_it_promises() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    let alices = new_soul(path, "alice");
    new_soul(path, "new");
    let known = format!("[[peer]]\nname = \"alice\"\nkey = {}\n", alices["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let (bobs, stanza) = Serving::start(path, "bob");
    // `peers trust` decides about keys that are not in the peers file.
    let address: String = stanza
        .lines()
        .filter(|line| !line.starts_with("key") && !line.starts_with("id"))
        .fold(String::new(), |text, line| text + line + "\n");
    for file in ["peers.toml", "known.toml"] {
        fs::write(path.join(file), &address).unwrap();
    }
    run(
        path,
        0,
        &["id", "new", "--name", "alice", "--out", "successor.soul"],
    );
    let paper = [
        "id",
        "succeed",
        "--to",
        "successor.soul",
        "--paper",
        "--soul-file",
        "alice.soul",
    ];
    fs::write(path.join("words.txt"), run(path, 0, &paper).stdout).unwrap();

    let commands = recommended();
    assert!(commands.len() >= 15, "{commands:?}");
    let (alices, _) = Serving::start(path, "alice");
    let key = bob["public_key"].as_str().unwrap();
    // A user who is told to trust bob has had contact with him.
    succeeds(path, &["sync", "bob", "--mode", "recent"].map(str::to_owned));
    let mut last = Vec::new();
    let mut serving = Vec::new();
    for command in &commands {
        let words = typed(command, key);
        match words[0].as_str() {
            // Destructive commands run last.
            "restore" => last.push(words),
            "id" if words[1] == "succeed" => last.push(words),
            "peers"
                if words
                    .get(1)
                    .is_some_and(|word| word == "untrust" || word == "reset") =>
            {
                last.push(words)
            }
            "serve" | "up" => serving.push(words),
            _ => succeeds(path, &words),
        }
        let _ = fs::remove_file(path.join("fresh.soul"));
    }
    alices.kill();
    let mut follows = false;
    for words in &last {
        if follows && words[0] == "id" {
            // Bob has followed to the new soul, and refuses the old one.
            let code = alice(path, words).output().unwrap().status.code();
            assert!(matches!(code, Some(0 | 4)), "{words:?}: {code:?}");
            continue;
        }
        follows |= words[0] == "id";
        succeeds(path, words);
    }
    for words in &serving {
        serves(path, words);
    }
    bobs.kill();
}

fn succeeds(folder: &Path, words: &[String]) {
    let output = alice(folder, words).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "nara-mesh {}: {stderr}", words.join(" "));
}

/// Checks that a long-running command reports that it listens.
fn serves(folder: &Path, words: &[String]) {
    let mut command = alice(folder, words);
    if !words.iter().any(|word| word == "--listen") {
        // The default port may be used by another test.
        let flag = if words[0] == "up" { "--port" } else { "--listen" };
        let free = if words[0] == "up" { "0" } else { "127.0.0.1:0" };
        command.args([flag, free]);
    }
    let mut child = command
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let listens = lines
        .map_while(Result::ok)
        .any(|line| line.contains("\"event\":\"listening\""));
    let _ = child.kill();
    let _ = child.wait();
    assert!(listens, "nara-mesh {}", words.join(" "));
}
