use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use nara_mesh::ledger::{EventStore as _, ReadLimit, RetentionPolicy, SqliteLedger};
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::identity::{KeyPair, Soul};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;
use serde_json::Value;

use crate::{new_soul, run, text};

/// A program that runs until dropped, which kills it with SIGKILL.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(folder)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join(format!("{}.stderr", args[0]))).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn serve(folder: &Path, listen: &str) -> Self {
        Self::start(
            folder,
            &[
                "serve",
                "--json",
                "--listen",
                listen,
                "--peers",
                "known.toml",
                "--soul-file",
                "alice.soul",
                "--data-dir",
                "alice",
            ],
        )
    }

    /// Waits for the next line of its output.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        crate::schemas::validate(&line);
        line
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the events in a ledger file.
fn events_of(path: &Path) -> BTreeSet<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ledger = SqliteLedger::open(path).unwrap();
    let page = ledger.page(
        EventFilter::default(),
        Cursor::START,
        ReadLimit::events(usize::MAX),
    );
    let events = runtime.block_on(page).unwrap();
    events.into_iter().map(|checked| checked.event.id).collect()
}

/// Fills alice's ledger with events of an unknown signer.
fn fill(path: &Path, count: i64) {
    let keypair = KeyPair::from_soul(&Soul::bond([5; 32], "carol"));
    let event = |n: i64| {
        let payload = SocialPayload {
            kind: "gossip".to_owned(),
            actor: "carol".to_owned(),
            target: "bob".to_owned(),
            // Large, so that they do not fit into sockets and pipes.
            reason: format!("number {n} {}", "x".repeat(4000)),
            ..SocialPayload::default()
        };
        let ts = UnixNanos::new(1_769_100_000_000_000_000 - n);
        SyncEvent::signed(ts, Payload::Social(payload), "carol", &keypair)
    };
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ledger = SqliteLedger::open(path)
        .unwrap()
        .with_retention(RetentionPolicy::UNLIMITED);
    let inserted = runtime.block_on(ledger.insert_verified((0..count).map(event).collect()));
    assert_eq!(inserted.unwrap().len(), usize::try_from(count).unwrap());
}

/// Starts alice with `count` events in her ledger, whom bob may call. Returns her address.
fn scene(folder: &Path, count: i64) -> (Running, String) {
    let bob = new_soul(folder, "bob");
    new_soul(folder, "alice");
    let known = format!(
        "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
        bob["id"], bob["public_key"]
    );
    fs::write(folder.join("known.toml"), known).unwrap();
    fill(&folder.join("alice/ledger.db"), count);
    let mut alice = Running::serve(folder, "127.0.0.1:0");
    let listening = alice.next();
    let stanza = listening["stanza"].as_str().unwrap();
    fs::write(folder.join("peers.toml"), stanza).unwrap();
    (alice, listening["address"].as_str().unwrap().to_owned())
}

const AS_BOB: [&str; 4] = ["--soul-file", "bob.soul", "--peers", "peers.toml"];

#[test]
fn watch_prints_what_was_there_and_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (_alice, _) = scene(path, 2);
    let args = ["watch", "alice", "--json", "--since", "all"];
    let mut watch = Running::start(path, &[&args[..], &AS_BOB].concat());
    for service in ["social", "social", "hey-there"] {
        let line = watch.next();
        assert_eq!(line["schema"], "nara-mesh/watch/1");
        assert_eq!(line["peer"], "alice");
        assert_eq!(line["event"]["svc"], service);
    }
    let dm = ["dm", "alice", "--text", "live"];
    run(path, 0, &[&dm[..], &AS_BOB].concat());
    // Bob's own events are not sent back to him, so he sees them only in another watch.
    drop(watch);
    let args = ["watch", "--all", "--since", "all", "--count", "4"];
    let output = run(path, 0, &[&args[..], &AS_BOB].concat());
    let lines = text(&output.stdout);
    assert_eq!(lines.lines().count(), 4, "{lines}");
    assert!(lines.lines().last().unwrap().contains("bob → alice"), "{lines}");
}

#[test]
fn a_peer_that_cannot_be_watched_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "bob");
    fs::write(path.join("peers.toml"), "").unwrap();
    run(path, 2, &[&["watch", "nobody"][..], &AS_BOB].concat());
    run(path, 2, &[&["watch", "--all"][..], &AS_BOB].concat());
    run(
        path,
        2,
        &[&["watch", "alice", "--since", "yesterday"][..], &AS_BOB].concat(),
    );
    run(path, 2, &[&["watch", "alice", "--resume"][..], &AS_BOB].concat());
}

#[test]
fn kill_9_of_either_end_in_the_middle_of_a_stream_loses_nothing() {
    const EVENTS: i64 = 5000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (mut alice, address) = scene(path, EVENTS);
    // Of unknown signers, only a few events are kept.
    let carol = Soul::bond([5; 32], "carol");
    let known = format!(
        "\n[[peer]]\nname = \"carol\"\nkey = \"{}\"\n",
        KeyPair::from_soul(&carol).public_key().to_base64()
    );
    let mut peers = fs::read_to_string(path.join("peers.toml")).unwrap();
    peers.push_str(&known);
    fs::write(path.join("peers.toml"), peers).unwrap();
    let acknowledged = run(
        path,
        0,
        &[&["dm", "alice", "--text", "acknowledged", "--json"][..], &AS_BOB].concat(),
    );
    let acknowledged: Value = serde_json::from_slice(&acknowledged.stdout).unwrap();
    let args = [
        "watch", "alice", "--json", "--since", "all", "--to", "copy.db", "--resume",
    ];
    let args = [&args[..], &AS_BOB].concat();
    let mut watch = Running::start(path, &args);
    let mut seen = BTreeSet::new();
    let mut read = |watch: &mut Running, count: usize| {
        for _ in 0..count {
            let line = watch.next();
            seen.insert(line["event"]["id"].as_str().unwrap().to_owned());
        }
        seen.len()
    };
    read(&mut watch, 500);
    // The server is killed; its stream resumes after the restart.
    drop(alice);
    alice = Running::serve(path, &address);
    assert_eq!(alice.next()["event"], "listening", "the database opens clean");
    assert_eq!(read(&mut watch, 3500), 4000, "each event came once");
    let said = fs::read_to_string(path.join("watch.stderr")).unwrap();
    assert!(said.contains("alice: ") && said.contains("again in"), "{said}");
    // The subscriber is killed; the next one resumes at the same place.
    drop(watch);
    let mut watch = Running::start(path, &args);
    let total = usize::try_from(EVENTS).unwrap() + 3;
    // The last event is the one of alice's restart; sequence numbers jump when a ledger is opened.
    loop {
        let line = watch.next();
        let place = line["cursor"].as_str().unwrap().split_once(':').unwrap().1;
        if line["event"]["svc"] == "hey-there" && place.parse::<i64>().unwrap() > 2 << 20 {
            break;
        }
    }
    drop((watch, alice));

    let (of_alice, copy) = (
        events_of(&path.join("alice/ledger.db")),
        events_of(&path.join("copy.db")),
    );
    assert!(of_alice.contains(acknowledged["event_id"].as_str().unwrap()));
    assert_eq!(
        of_alice.len(),
        total,
        "with two introductions and a direct message"
    );
    // A stream omits the events of its subscriber: bob's direct message.
    let missing: Vec<&String> = of_alice.difference(&copy).collect();
    assert_eq!(missing, [acknowledged["event_id"].as_str().unwrap()]);
    assert!(copy.is_subset(&of_alice));
}
