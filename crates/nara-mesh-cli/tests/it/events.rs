use std::fs;

use nara_mesh::ledger::{CheckedEvent, EventStore as _, SqliteLedger};
use nara_proto::event::{EventTrust, Payload, SocialPayload, SyncEvent};
use nara_proto::identity::{KeyPair, Soul, is_hidden};
use nara_proto::time::UnixNanos;
use serde_json::Value;

use crate::serve::Serving;
use crate::{json_as_user, new_soul, run, run_as_user, run_json, text};

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
    // The text may be a positional argument.
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

#[test]
fn a_memory_is_exported_imported_and_asked_about_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let bob = new_soul(path, "bob");
    let known = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(path.join("known.toml"), known).unwrap();
    let (_alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), stanza).unwrap();
    let as_bob = [
        "--soul-file",
        "bob.soul",
        "--data-dir",
        "bob",
        "--peers",
        "peers.toml",
    ];
    let bobs = |expected, args: &[&str]| text(&run(path, expected, &[args, &as_bob].concat()).stdout);
    bobs(0, &["dm", "alice", "keep this"]);
    let exported = bobs(0, &["events", "export", "alice"]);
    assert_eq!(exported.lines().count(), 2, "{exported}");
    for line in exported.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        crate::schemas::validate_as("nara-mesh/events-export/1", &event);
    }
    assert!(exported.contains("keep this"), "{exported}");
    let social = bobs(0, &["events", "export", "alice", "--services", "social"]);
    assert_eq!(social.lines().count(), 1);
    assert_eq!(
        bobs(0, &["sync", "alice", "--mode", "legacy", "--jsonl"])
            .lines()
            .count(),
        2
    );
    // Only the owner of the nara may import.
    fs::write(path.join("events.jsonl"), &exported).unwrap();
    bobs(4, &["events", "import", "alice", "events.jsonl"]);
    let as_alice = [
        &["events", "import", "alice", "events.jsonl", "--json"][..],
        &ALICE,
        &["--peers", "peers.toml"],
    ];
    let imported = run_json(path, 0, &as_alice.concat());
    assert_eq!(
        (&imported["events"], &imported["imported"]),
        (&2.into(), &0.into()),
        "{imported}"
    );
    let asked = bobs(0, &["query", "bob", "alice"]);
    assert!(asked.contains(bob["public_key"].as_str().unwrap()), "{asked}");
    assert_eq!(bobs(0, &["checkpoints", "alice"]), "");
}

#[test]
fn the_ledger_of_the_running_nara_is_read_without_soul_and_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("run")).unwrap();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (_, nobody) = run_as_user(path, 2, &["events"]);
    assert!(
        nobody.contains("no nara runs for this user") && nobody.contains("--data-dir"),
        "{nobody}"
    );
    let (alice, _) = Serving::start_in(path, "alice", &[], &[("XDG_RUNTIME_DIR", &path.join("run"))]);
    // Its presence is the first event.
    let (shown, _) = run_as_user(path, 0, &["events"]);
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert_eq!(json_as_user(path, 0, &["ledger", "check"])["events"], 1);
    assert_eq!(json_as_user(path, 0, &["backup", "alice.backup"])["events"], 1);
    // Selected as in every other command.
    let socket = "alice/nara.sock";
    let (chosen, _) = run_as_user(path, 0, &["events", "--api-socket", socket]);
    assert_eq!(chosen, shown);
    let (_, wrong) = run_as_user(path, 3, &["ledger", "check", "--api-socket", "nowhere.sock"]);
    assert!(wrong.contains("there is no socket nowhere.sock"), "{wrong}");
    run_as_user(path, 2, &["events", "--direct"]);
    alice.kill();
    // Once the nara has stopped, the ledger must be selected.
    run_as_user(path, 2, &["events"]);
    let (still, _) = run_as_user(path, 0, &["events", "--data-dir", "alice"]);
    assert_eq!(still, shown);
}

#[test]
fn a_ledger_is_backed_up_while_it_is_served_and_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (serving, _) = Serving::start(path, "alice");
    let alices = |expected, args: &[&str]| run_json(path, expected, &[args, &["--json"], &ALICE].concat());
    let copied = alices(0, &["backup", "alice.backup"]);
    assert_eq!(copied["events"], 1, "{copied}");
    let exists = run(path, 1, &[&["backup", "alice.backup"][..], &ALICE].concat());
    let exists = text(&exists.stderr);
    assert!(
        exists.contains("alice.backup exists") && exists.contains("--replace"),
        "{exists}"
    );
    // Nightly backups with the same name.
    alices(0, &["backup", "alice.backup", "--replace"]);
    // The ledger of a running nara cannot be replaced.
    run(
        path,
        1,
        &[&["restore", "alice.backup", "--replace"][..], &ALICE].concat(),
    );
    serving.kill();
    run(path, 2, &[&["restore", "alice.backup"][..], &ALICE].concat());
    let restored = alices(0, &["restore", "alice.backup", "--replace"]);
    assert_eq!(restored["events"], 1, "{restored}");
    let checked = alices(0, &["ledger", "check"]);
    assert_eq!(
        (&checked["sound"], &checked["events"]),
        (&true.into(), &1.into()),
        "{checked}"
    );
    fs::write(
        path.join("alice/ledger.db"),
        "no database at all, whatever it is called",
    )
    .unwrap();
    run(path, 1, &[&["ledger", "check"][..], &ALICE].concat());
}

#[test]
fn what_nobody_could_verify_is_shown_so_and_what_cannot_be_seen_is_escaped() {
    const HIDING: &str = "\u{202e}txet\u{9b}2J\u{200b} \u{1b}[31m";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let said = |ts: i64, actor: &str| {
        let payload = SocialPayload {
            kind: "gossip".to_owned(),
            actor: actor.to_owned(),
            target: "alice".to_owned(),
            reason: format!("{actor} {HIDING}"),
            ..SocialPayload::default()
        };
        SyncEvent::new(
            UnixNanos::new(1_769_100_000_000_000_000 + ts),
            Payload::Social(payload),
        )
    };
    let signed = |mut event: SyncEvent| {
        let actor = event.actor().to_owned();
        event.sign(&actor, &KeyPair::from_soul(&Soul::bond([5; 32], &actor)));
        event
    };
    let events = vec![
        CheckedEvent::verified(signed(said(1, "bob"))),
        CheckedEvent::new(signed(said(2, "carol")), EventTrust::UnknownKey),
        CheckedEvent::new(said(3, "dave"), EventTrust::Unsigned),
    ];
    fs::create_dir(path.join("alice")).unwrap();
    let ledger = SqliteLedger::open(path.join("alice/ledger.db")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ledger.insert(events, None)).unwrap();
    drop(ledger);

    let shown = |args: &[&str]| {
        let output = run(path, 0, &[&["events"][..], args, &ALICE].concat());
        let shown = text(&output.stdout);
        assert!(
            shown.chars().all(|c| c == '\n' || !is_hidden(c)),
            "{args:?} {shown:?}"
        );
        assert_eq!(shown.lines().count(), 3, "{shown}");
        shown
    };
    let lines = shown(&[]);
    let marks = ["", "  unverified (unknown-key)", "  unverified (unsigned)"];
    for (line, mark) in lines.lines().zip(marks) {
        assert!(line.contains("\\u{202e}txet\\u{9b}2J"), "{line}");
        assert_eq!(line.contains("unverified"), !mark.is_empty(), "{line}");
        assert!(line.ends_with(mark), "{line}");
    }
    let trusts = ["verified", "unknown-key", "unsigned"];
    for (line, trust) in shown(&["--json"]).lines().zip(trusts) {
        let json: Value = serde_json::from_str(line).unwrap();
        crate::schemas::validate_as("nara-mesh/events/1", &json);
        assert_eq!(json["trust"], trust, "{json}");
        let reason = json["event"]["social"]["reason"].as_str().unwrap();
        assert!(reason.ends_with(HIDING), "{json}");
    }
    for line in shown(&["--jsonl"]).lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(
            event["social"]["reason"].as_str().unwrap().ends_with(HIDING),
            "{event}"
        );
    }
}

#[test]
fn a_backup_is_not_put_in_the_place_of_another_nara() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    let (serving, _) = Serving::start(path, "alice");
    serving.kill();
    run(path, 0, &[&["backup", "alice.backup"][..], &ALICE].concat());
    let as_bob = ["--soul-file", "bob.soul", "--data-dir", "bob"];
    let refused = run(path, 2, &[&["restore", "alice.backup"][..], &as_bob].concat());
    let refused = text(&refused.stderr);
    assert!(
        refused.contains("is a backup of alice, but the soul belongs to bob"),
        "{refused}"
    );
    assert!(!path.join("bob").exists());
    // Restored as alice, whose own events count as her own.
    run(
        path,
        0,
        &[&["restore", "alice.backup", "--replace"][..], &ALICE].concat(),
    );
    let checked = text(&run(path, 0, &[&["ledger", "check"][..], &ALICE].concat()).stdout);
    assert!(checked.contains("from this nara"), "{checked}");
}
