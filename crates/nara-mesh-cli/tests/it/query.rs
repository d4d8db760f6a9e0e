//! `query`, through the nara that runs and without one.

use std::fs;

use crate::serve::Serving;
use crate::{json_as_user, nara_mesh, new_soul, run_as_user, text};

/// Alice, who knows the key of carol, and bob, whose peers file has also carol, dave and himself: none of them can be called.
#[test]
fn a_query_goes_through_the_running_nara_and_asks_neither_the_sought_nara_nor_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("run")).unwrap();
    let naras = ["alice", "bob", "carol", "dave"].map(|name| (name, new_soul(path, name)));
    let stanza = |name: &str| {
        let (_, soul) = naras.iter().find(|(other, _)| *other == name).unwrap();
        format!(
            "[[peer]]\nname = \"{name}\"\nid = {}\nkey = {}\n",
            soul["id"], soul["public_key"]
        )
    };
    fs::write(path.join("known.toml"), stanza("bob") + &stanza("carol")).unwrap();
    let (_alice, alices) = Serving::start(path, "alice");
    let nowhere = |name| stanza(name) + "address = \"127.0.0.1:1\"\n";
    let known = ["bob", "carol", "dave"].map(nowhere).concat() + &alices;
    fs::write(path.join("known.toml"), known).unwrap();
    let key_of_carol = &naras[2].1["public_key"];

    let directly = |expected: i32, args: &[&str]| {
        let as_bob = [
            "--soul-file",
            "bob.soul",
            "--data-dir",
            "bob",
            "--peers",
            "known.toml",
        ];
        let output = nara_mesh(path).args([args, &as_bob].concat()).output().unwrap();
        let told = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(expected), "{told:?}");
        told
    };
    let (found, told) = directly(0, &["query", "carol"]);
    assert!(found.contains(key_of_carol.as_str().unwrap()), "{found}");
    assert!(!told.contains("bob") && !told.contains("carol"), "{told}");
    let (_, told) = directly(1, &["query", "dave"]);
    assert!(told.contains("alice does not know dave"), "{told}");
    assert!(!told.contains("bob (") && !told.contains("dave ("), "{told}");
    assert_eq!(told.matches("carol (").count(), 1, "{told}");

    let run = path.join("run");
    let (_bob, _) = Serving::start_in(path, "bob", &[], &[("XDG_RUNTIME_DIR", &run)]);
    let found = json_as_user(path, 0, &["query", "carol", "--name", "bob"]);
    assert_eq!(
        (&found["public_key"], &found["told_by"]),
        (key_of_carol, &"alice".into())
    );
    let found = json_as_user(path, 0, &["query", "carol", "alice"]);
    assert_eq!(&found["public_key"], key_of_carol);
    let (_, told) = run_as_user(path, 1, &["query", "dave"]);
    assert!(told.contains("alice does not know dave"), "{told}");
    assert!(!told.contains("bob (") && !told.contains("dave ("), "{told}");
    assert_eq!(told.matches("carol (").count(), 1, "{told}");
    let (_, told) = run_as_user(path, 2, &["query", "dave", "nobody"]);
    assert!(told.contains("nobody"), "{told}");
}
