//! Kills either end with `kill -9` in the middle of a sync, and compares the ledgers afterwards.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, SqliteLedger};
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::identity::Soul;
use nara_proto::time::UnixNanos;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::serve::Serving;
use crate::{new_soul, run_json};

const EVENTS: usize = 20_000;
const PAGE: &str = "200";

/// Alice, who syncs, and bob, who has events of carol.
struct Scene {
    folder: tempfile::TempDir,
    carol: LocalNara,
}

impl Scene {
    fn new(events: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        new_soul(path, "bob");
        let alice = new_soul(path, "alice");
        let carol = LocalNara::new(&Soul::bond([3; 32], "carol"), "carol".parse().unwrap()).unwrap();
        let stanza = format!(
            "[[peer]]\nname = \"alice\"\nid = {}\nkey = {}\n",
            alice["id"], alice["public_key"]
        );
        fs::write(path.join("known.toml"), stanza).unwrap();
        fs::create_dir(path.join("bob")).unwrap();
        let scene = Self { folder, carol };
        scene.store("bob/ledger.db", 0..events);
        scene
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Stores the events with these numbers in a ledger.
    fn store(&self, ledger: &str, numbers: std::ops::Range<usize>) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let ledger = SqliteLedger::open(self.path().join(ledger)).unwrap();
        let events = numbers.map(|n| {
            let payload = SocialPayload {
                kind: "tease".to_owned(),
                actor: "carol".to_owned(),
                target: "bob".to_owned(),
                reason: "comeback".to_owned(),
                ..SocialPayload::default()
            };
            let ts = UnixNanos::new(1_769_100_000_000_000_000 + n as i64 * 1_000_000_000);
            SyncEvent::signed(ts, Payload::Social(payload), "carol", self.carol.keypair())
        });
        runtime
            .block_on(ledger.insert_verified(events.collect()))
            .unwrap();
    }

    /// Starts bob, and writes his address and carol's key to alice's peers file.
    fn serve(&self) -> Serving {
        let (bob, stanza) = Serving::start(self.path(), "bob");
        let carol = format!(
            "\n[[peer]]\nname = \"carol\"\nkey = \"{}\"\n",
            self.carol.public_key().to_base64()
        );
        fs::write(self.path().join("peers.toml"), stanza + &carol).unwrap();
        bob
    }

    fn sync_args<'a>(&self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["sync", "bob", "--to", "alice.db", "--json"];
        args.extend(["--soul-file", "alice.soul", "--peers", "peers.toml"]);
        args.extend(more);
        args
    }

    fn start_sync(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(self.path())
            .args(self.sync_args(&["--resume", "--size", PAGE]))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn sync(&self, expected: i32, more: &[&str]) -> Value {
        run_json(self.path(), expected, &self.sync_args(more))
    }

    /// Waits until alice has stored this many events, or the sync has ended.
    fn wait_for(&self, events: usize, sync: &mut Child) {
        while self.stored("alice.db").unwrap_or(0) < events && sync.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
    }

    /// Returns the number of events in a ledger; `None` if it does not exist. A nara stores an event of its
    /// own at its start, so bob has more than the test stored.
    fn stored(&self, ledger: &str) -> Option<usize> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.path().join(ledger), flags).ok()?;
        connection
            .query_row("SELECT count(*) FROM events", [], |row| row.get::<_, i64>(0))
            .ok()
            .and_then(|count| usize::try_from(count).ok())
    }

    fn assert_clean(&self, ledger: &str) {
        let connection = Connection::open(self.path().join(ledger)).unwrap();
        let check: String = connection
            .query_row("PRAGMA integrity_check", [], |row| row.get(0))
            .unwrap();
        assert_eq!(check, "ok", "{ledger}");
        let twice: i64 = connection
            .query_row("SELECT count(*) - count(DISTINCT id) FROM events", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(twice, 0, "{ledger} has an event twice");
    }
}

#[test]
fn a_killed_server_loses_nothing_and_the_sync_goes_on_when_it_is_back() {
    let scene = Scene::new(EVENTS);
    let bob = scene.serve();
    let mut sync = scene.start_sync();
    scene.wait_for(1000, &mut sync);
    bob.kill();
    let output = sync.wait_with_output().unwrap();
    let broken: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(5), "{broken}");
    assert_eq!(broken["complete"], false);
    // Every event reported as stored is stored.
    let stored = scene.stored("alice.db").unwrap();
    assert_eq!(broken["stored"], stored);
    assert!((1000..EVENTS).contains(&stored), "{stored}");
    scene.assert_clean("bob/ledger.db");

    let bob = scene.serve();
    let all = scene.stored("bob/ledger.db").unwrap();
    let rest = scene.sync(0, &["--resume", "--size", PAGE]);
    assert_eq!(
        (&rest["stored"], &rest["duplicates"]),
        (&(all - stored).into(), &0.into())
    );
    assert_eq!(scene.stored("alice.db"), Some(all));
    assert_eq!(scene.sync(0, &["--check"])["in_sync"], true);
    drop(bob);
    scene.assert_clean("alice.db");
}

#[test]
fn a_killed_sync_loses_nothing_and_goes_on_where_it_was() {
    let scene = Scene::new(EVENTS);
    let _bob = scene.serve();
    for reached in [1000, 6000] {
        let mut sync = scene.start_sync();
        scene.wait_for(reached, &mut sync);
        // SIGKILL on Unix.
        sync.kill().unwrap();
        assert!(!sync.wait().unwrap().success(), "it ended before it was killed");
        let stored = scene.stored("alice.db").unwrap();
        assert!((reached..EVENTS).contains(&stored), "{stored}");
        assert_eq!(stored % 200, 0, "half a page was stored");
        scene.assert_clean("alice.db");
    }
    let stored = scene.stored("alice.db").unwrap();
    let rest = scene.sync(0, &["--resume", "--size", PAGE]);
    let all = scene.stored("bob/ledger.db").unwrap();
    assert_eq!(rest["stored"], all - stored);
    // At most the page whose cursor was not stored yet is fetched again.
    assert!(rest["duplicates"].as_u64().unwrap() <= 200, "{rest}");
    assert_eq!(scene.stored("alice.db"), Some(all));
    scene.assert_clean("alice.db");
}

#[test]
fn reconcile_fetches_what_is_missing_and_check_answers_with_its_exit_code() {
    let scene = Scene::new(300);
    scene.store("alice.db", 0..100);
    scene.store("alice.db", 105..310);
    let _bob = scene.serve();
    assert_eq!(scene.sync(5, &["--check"])["in_sync"], false);
    // The five, and the event of bob's restart.
    let report = scene.sync(0, &["--reconcile"]);
    assert_eq!(
        (&report["missing_here"], &report["missing_there"]),
        (&6.into(), &10.into())
    );
    assert_eq!((&report["stored"], &report["pushed"]), (&6.into(), &0.into()));
    let until = (1_769_100_000 + 300).to_string();
    assert_eq!(scene.sync(0, &["--check", "--until", &until])["in_sync"], true);
    scene.sync(0, &["--check", "--services", "checkpoint"]);
    scene.sync(5, &["--check"]);
    crate::run(
        scene.path(),
        2,
        &scene.sync_args(&["--check", "--services", "nothing"]),
    );
    crate::run(scene.path(), 2, &scene.sync_args(&["--from", "3"]));
}
