//! Follows the recipes of docs/trust.md literally: each command is taken from the manual.

use std::fs;
use std::path::Path;

use crate::serve::Serving;
use crate::{nara_mesh, new_soul, run_json, text};

/// Returns the rows of the table below `## Recipes`: the situation and what to do.
fn recipes() -> Vec<(String, String)> {
    let manual = include_str!("../../../../docs/trust.md");
    let (_, section) = manual.split_once("## Recipes").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("|---"));
    let cells = rows.map(|row| row.trim_matches('|').split_once('|').unwrap());
    // Skip the head of the table.
    cells
        .skip(1)
        .map(|(what, todo)| (what.trim().to_owned(), todo.trim().to_owned()))
        .collect()
}

/// Returns the command of a recipe, with values for its placeholders.
fn command(recipe: &str, values: &[(&str, &str)]) -> Vec<String> {
    let found = recipe.split('`').find_map(|text| text.strip_prefix("nara-mesh "));
    let words = found
        .unwrap_or_else(|| panic!("no command in {recipe:?}"))
        .split(' ');
    let value = |word: &str| values.iter().find(|(placeholder, _)| *placeholder == word);
    words
        .map(|word| value(word).map_or(word, |(_, value)| value).to_owned())
        .collect()
}

/// Alice and bob, both serving, with separate folders.
struct Mesh {
    folder: tempfile::TempDir,
    alice: Option<Serving>,
    bob: Option<Serving>,
    bobs_stanza: String,
    /// Alice's key as a stanza for bob.
    alices_stanza: String,
    /// The key ids of bob's two souls.
    keys: [String; 2],
}

impl Mesh {
    /// Starts both, with or without bob's key in alice's peers file.
    fn start(with_key: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let alice = new_soul(path, "alice");
        let alices_stanza = format!("[[peer]]\nname = \"alice\"\nkey = {}\n\n", alice["public_key"]);
        let keys = ["bob", "new"].map(|file| {
            let made = run_json(
                path,
                0,
                &[
                    "id",
                    "new",
                    "--json",
                    "--name",
                    "bob",
                    "--out",
                    &format!("{file}.soul"),
                ],
            );
            made["key_id"].as_str().unwrap().to_owned()
        });
        fs::write(path.join("known.toml"), &alices_stanza).unwrap();
        let mut mesh = Self {
            folder,
            alice: None,
            bob: None,
            bobs_stanza: String::new(),
            alices_stanza,
            keys,
        };
        mesh.bob_serves("bob", with_key);
        let (alice, stanza) = Serving::start_with(mesh.path(), "alice", &[]);
        fs::write(
            mesh.path().join("of-bob.toml"),
            stanza["stanza"].as_str().unwrap(),
        )
        .unwrap();
        mesh.alice = Some(alice);
        mesh.calls(0);
        mesh
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts bob with one of his souls, and writes his address, optionally with his key, to alice's peers
    /// file.
    fn bob_serves(&mut self, soul: &str, with_key: bool) {
        drop(self.bob.take());
        let (bob, listening) = Serving::start_with(self.path(), soul, &[]);
        self.bob = Some(bob);
        self.bobs_stanza = listening["stanza"].as_str().unwrap().to_owned();
        let kept = |line: &&str| with_key || !(line.starts_with("key") || line.starts_with("id"));
        let stanza: Vec<&str> = self.bobs_stanza.lines().filter(kept).collect();
        fs::write(
            self.path().join("known.toml"),
            self.alices_stanza.clone() + &stanza.join("\n") + "\n",
        )
        .unwrap();
    }

    fn run(&self, expected: i32, nara: &str, peers: &str, words: &[String]) -> String {
        let mut command = nara_mesh(self.path());
        if !peers.is_empty() {
            command.args(["--peers", peers]);
        }
        let output = command
            .args(words)
            .env("NARA_MESH_SOUL_FILE", format!("{nara}.soul"))
            .env("NARA_MESH_DATA_DIR", nara)
            .output()
            .unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{words:?}: {said}");
        said
    }

    /// Runs the command of a recipe as alice.
    fn decides(&self, recipe: &str, values: &[(&str, &str)]) -> String {
        self.run(0, "alice", "known.toml", &command(recipe, values))
    }

    /// Calls bob as alice.
    fn calls(&self, expected: i32) {
        let words = ["sync", "bob", "--mode", "recent"].map(str::to_owned);
        self.run(expected, "alice", "known.toml", &words);
    }

    /// Calls the running alice as bob, with one of his souls.
    fn is_called(&self, expected: i32, soul: &str) {
        let words = ["dm", "alice", "hello"].map(str::to_owned);
        self.run(expected, soul, "of-bob.toml", &words);
    }
}

#[test]
fn every_recipe_of_the_manual_leads_where_it_says() {
    let recipes = recipes();
    for (what, todo) in &recipes {
        match what.as_str() {
            "bob has his old soul and wants another key" => {
                let mesh = Mesh::start(true);
                mesh.is_called(0, "bob");
                let words = command(todo, &[("NEW.soul", "new.soul")]);
                mesh.run(0, "bob", "of-bob.toml", &words);
                mesh.is_called(0, "new");
                mesh.is_called(4, "bob");
            }
            "bob lost his soul and made a new one; his key is not in the peers file" => {
                let mut mesh = Mesh::start(false);
                mesh.bob_serves("new", false);
                mesh.calls(4);
                mesh.decides(todo, &[("NEWKEYID", &mesh.keys[1])]);
                mesh.calls(0);
                mesh.is_called(0, "new");
                mesh.is_called(4, "bob");
            }
            "the same; his key is in the peers file" => {
                let mut mesh = Mesh::start(true);
                mesh.is_called(0, "bob");
                mesh.bob_serves("new", true);
                mesh.decides(todo, &[]);
                mesh.calls(0);
                mesh.is_called(0, "new");
                mesh.is_called(4, "bob");
            }
            "bob must be kept out" => {
                let mesh = Mesh::start(true);
                mesh.is_called(0, "bob");
                fs::write(
                    mesh.path().join("known.toml"),
                    mesh.bobs_stanza.clone() + "[[peer]]\nname = 5\n",
                )
                .unwrap();
                mesh.run(0, "alice", "", &command(todo, &[]));
                mesh.is_called(4, "bob");
                fs::write(mesh.path().join("known.toml"), &mesh.bobs_stanza).unwrap();
                mesh.calls(4);
            }
            "bob may come back" => {
                let mesh = Mesh::start(true);
                mesh.decides("`nara-mesh peers untrust bob`", &[]);
                mesh.is_called(4, "bob");
                mesh.decides(todo, &[]);
                mesh.is_called(0, "bob");
                mesh.calls(0);
            }
            "bob shall be a stranger again" => {
                let mut mesh = Mesh::start(false);
                // Bob must not run: a call of his would teach alice his old key again.
                drop(mesh.bob.take());
                mesh.decides(todo, &[]);
                // After a reset, any key is a first key.
                mesh.bob_serves("new", false);
                mesh.calls(0);
            }
            "bob moved to another machine with his soul" => {
                let mut mesh = Mesh::start(true);
                mesh.bob_serves("bob", true);
                mesh.decides(todo, &[]);
                mesh.calls(0);
                mesh.is_called(0, "bob");
            }
            "bob wants another name" => {
                let mesh = Mesh::start(true);
                let mut words = command(todo, &[("NEWNAME", "robert")]);
                words.extend(["--out", "robert.soul"].map(str::to_owned));
                let said = mesh.run(0, "alice", "known.toml", &words);
                assert!(
                    said.contains("name        robert") && !said.contains(&mesh.keys[0]),
                    "{said}"
                );
            }
            other => panic!("the recipe {other:?} has no test"),
        }
    }
    assert_eq!(recipes.len(), 8);
}
