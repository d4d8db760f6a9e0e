use std::fs;

use serde_json::Value;

use crate::serve::Serving;
use crate::{new_soul, run, run_json, text};

const ALICE: [&str; 4] = ["--soul-file", "alice.soul", "--data-dir", "alice"];

#[test]
fn a_nara_shows_what_it_remembers_running_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let bob = new_soul(path, "bob");
    let none = text(&run(path, 2, &[&["events"][..], &ALICE].concat()).stderr);
    assert!(none.contains("there is no ledger"), "{none}");
    let known = format!("[[peer]]\nname = \"bob\"\nkey = {}\n", bob["public_key"]);
    fs::write(path.join("known.toml"), known).unwrap();
    let (mut serving, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let as_bob = [
        "--soul-file",
        "bob.soul",
        "--data-dir",
        "bob",
        "--peers",
        "peers.toml",
    ];
    // The text may stand as an argument.
    let sent = run_json(
        path,
        0,
        &[&["dm", "alice", "hello there", "--json"][..], &as_bob].concat(),
    );
    assert_eq!(serving.next()["event"], "direct_message");

    let by_bob = [&["events", "--by", "bob"][..], &ALICE].concat();
    let shown = text(&run(path, 0, &by_bob).stdout);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.contains("bob → alice  hello there"), "{shown}");
    serving.kill();
    let again = text(&run(path, 0, &by_bob).stdout);
    assert_eq!(again, shown);
    let line = text(
        &run(
            path,
            0,
            &[
                &["events", "--jsonl", "--since", "1h", "--services", "social"][..],
                &ALICE,
            ]
            .concat(),
        )
        .stdout,
    );
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["id"], sent["event_id"]);
    let nothing = run(path, 0, &[&["events", "--about", "carol"][..], &ALICE].concat());
    assert!(nothing.stdout.is_empty());
    let newest = text(
        &run(
            path,
            0,
            &[&["events", "--since", "all", "-c", "1"][..], &ALICE].concat(),
        )
        .stdout,
    );
    assert_eq!(newest.lines().count(), 1);
}
