use std::fs;
use std::path::Path;

use crate::serve::Serving;
use crate::{new_soul, run, text};

/// Runs `health`, and returns stderr.
fn health(folder: &Path, expected: i32, args: &[&str]) -> String {
    text(&run(folder, expected, &[&["health"][..], args].concat()).stderr)
}

#[test]
fn a_nara_is_not_healthy_because_another_one_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::write(path.join("known.toml"), "").unwrap();
    let (bob, listening) = Serving::start_with(path, "bob", &["--no-api"]);
    let address = listening["address"].as_str().unwrap();
    for (name, keys) in [
        ("alice", "soul_file = \"alice.soul\"\ndata_dir = \"alice\"\n"),
        ("folder", "data_dir = \"alice\"\n"),
        ("bob", "soul_file = \"bob.soul\"\ndata_dir = \"bob\"\n"),
    ] {
        let file = path.join(format!("{name}.toml"));
        fs::write(file, format!("{keys}listen = \"{address}\"\n")).unwrap();
    }
    let told = health(path, 1, &["--config", "alice.toml"]);
    assert!(told.contains(&format!("{address} is served by bob")), "{told}");
    let told = health(path, 1, &["--listen", address, "--soul-file", "alice.soul"]);
    assert!(told.contains(&format!("{address} is served by bob")), "{told}");
    // Nothing says whose folder it is.
    let told = health(path, 3, &["--config", "folder.toml"]);
    assert!(told.contains("no nara runs on alice"), "{told}");
    health(path, 0, &["--config", "bob.toml"]);
    health(path, 0, &["--listen", address]);
    // An explicit address overrides the nara of the file.
    health(path, 0, &["--config", "folder.toml", "--listen", address]);
    bob.kill();
}
