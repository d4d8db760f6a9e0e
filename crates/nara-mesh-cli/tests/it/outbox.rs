//! `dm --later` and `outbox`: messages to an unreachable nara.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::serve::Serving;
use crate::{json_as_user as json, new_soul, run_as_user as run};

fn start_bob(folder: &Path) -> (Serving, Value) {
    Serving::start_in(folder, "bob", &[], &[("XDG_RUNTIME_DIR", &folder.join("run"))])
}

#[test]
fn a_message_waits_for_a_peer_that_is_away_through_a_restart_and_arrives_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("run")).unwrap();
    let bob = new_soul(path, "bob");
    new_soul(path, "alice");
    let known = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(path.join("known.toml"), &known).unwrap();
    let (alice, stanza) = Serving::start(path, "alice");
    alice.kill();
    fs::write(path.join("known.toml"), &stanza).unwrap();
    let (_, nobody) = run(path, 3, &["dm", "alice", "hi", "--later"]);
    assert!(nobody.contains("no running nara can keep"), "{nobody}");
    let (_, both) = run(path, 2, &["dm", "alice", "hi", "--later", "--direct"]);
    assert!(both.contains("--direct"), "{both}");
    run(path, 2, &["dm", "alice", "hi", "--expires", "1h"]);
    run(path, 2, &["dm", "alice", "hi", "--later", "--expires", "31d"]);

    let (bob, _) = start_bob(path);
    // The hint is a complete command.
    let (_, away) = run(path, 3, &["dm", "alice", "it's me"]);
    let hint = away.lines().find(|line| line.starts_with("hint:")).unwrap();
    let command = hint.split('`').nth(1).unwrap();
    let words = shlex::split(command).unwrap();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let (first, _) = run(path, 0, &words);
    assert!(first.contains("message 1 waits until alice is seen"), "{first}");
    let second = json(path, 0, &["dm", "alice", "second", "--later", "--expires", "2d"]);
    assert_eq!(
        (
            &second["stored"],
            &second["outbox"]["id"],
            &second["outbox"]["state"]
        ),
        (&false.into(), &2.into(), &"waiting".into())
    );
    run(path, 0, &["dm", "alice", "third", "--later"]);
    let (dropped, _) = run(path, 0, &["outbox", "drop", "2"]);
    assert!(dropped.contains("message 2 is withdrawn"), "{dropped}");
    let (_, gone) = run(path, 2, &["outbox", "drop", "2"]);
    assert!(
        gone.contains("no message 2") && gone.contains("outbox list"),
        "{gone}"
    );
    bob.kill();

    let (_bob, _) = start_bob(path);
    let (listed, _) = run(path, 0, &["outbox", "list"]);
    let rows: Vec<&str> = listed.lines().skip(1).collect();
    assert_eq!(rows.len(), 2, "{listed}");
    assert!(
        rows[0].starts_with("1 ") && rows[0].contains(" waiting "),
        "{listed}"
    );

    // Alice returns at the same address.
    let address = stanza
        .lines()
        .find_map(|line| line.strip_prefix("address = "))
        .unwrap()
        .trim_matches('"');
    fs::write(path.join("known.toml"), &known).unwrap();
    let (mut alice, _) = Serving::start_with(path, "alice", &["--listen", address]);
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let line = alice.next();
        if line["event"] == "direct_message" {
            heard.push(line["message"]["social"]["reason"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(heard, ["it's me", "third"]);
    let delivered = loop {
        let list = json(path, 0, &["outbox", "list"]);
        assert_eq!(list["is_durable"], true);
        if list["waiting"] == 0 {
            break list;
        }
    };
    for message in delivered["messages"].as_array().unwrap() {
        assert_eq!(
            (&message["state"], &message["stored"]),
            (&"delivered".into(), &true.into())
        );
    }
    let sent = json(path, 0, &["dm", "alice", "now", "--later"]);
    assert_eq!(
        (&sent["stored"], &sent["recipient"]),
        (&true.into(), &"alice".into())
    );
}

#[test]
fn a_postcard_waits_for_its_first_peer_and_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("run")).unwrap();
    new_soul(path, "bob");
    let alice = new_soul(path, "alice");
    let known = format!(
        "[[peer]]\nname = \"alice\"\naddress = \"127.0.0.1:1\"\nid = {}\nkey = {}\n",
        alice["id"], alice["public_key"]
    );
    fs::write(path.join("known.toml"), known).unwrap();
    let later = ["world", "send", "--to", "alice", "--message=hi", "--later"];
    let (_, nobody) = run(path, 3, &later);
    assert!(nobody.contains("can keep the postcard"), "{nobody}");
    let (_bob, _) = start_bob(path);
    // --later needs a peer, and excludes --wait.
    run(path, 2, &["world", "send", "--message", "hi", "--later"]);
    run(path, 2, &[&later[..], &["--wait"]].concat());
    // The hint is a complete command.
    let (_, away) = run(path, 3, &["world", "send", "--to", "alice", "--message=-it's me"]);
    let hint = away.lines().find(|line| line.starts_with("hint:")).unwrap();
    let words = shlex::split(hint.split('`').nth(1).unwrap()).unwrap();
    let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let (first, _) = run(path, 0, &words);
    assert!(first.contains("message 1 waits until alice is seen"), "{first}");
    let second = json(path, 0, &[&later[..], &["--expires", "2d"]].concat());
    let outbox = &second["outbox"];
    assert_eq!(
        (&outbox["id"], &outbox["kind"], &outbox["event"]["message"]),
        (&2.into(), &"postcard".into(), &"hi".into())
    );
    assert_eq!(second["message_id"], outbox["event"]["id"]);
    let (listed, _) = run(path, 0, &["outbox", "list"]);
    assert!(listed.contains(" postcard "), "{listed}");
    let list = json(path, 0, &["outbox", "list"]);
    assert_eq!(list["messages"][0]["event"]["message"], "-it's me");
    run(path, 0, &["outbox", "drop", "1", "2"]);
}
