//! The program as a systemd service.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::serve::Serving;
use crate::{new_soul, run, signal};

/// A service manager that records its notifications.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("notify")).unwrap();
        // Only to end a test that hangs.
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Self { socket }
    }

    /// Returns the next message that contains all these parts.
    fn wait_for(&self, wanted: &[&str]) -> String {
        loop {
            let mut bytes = [0; 4096];
            let length = self.socket.recv(&mut bytes).unwrap();
            let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
            if wanted.iter().all(|wanted| message.contains(wanted)) {
                return message;
            }
        }
    }
}

struct Service(Child);

impl Service {
    /// Starts the nara of `folder/config` as a unit does.
    fn start(folder: &Path) -> Self {
        Self::start_at(folder, "127.0.0.1:0")
    }

    /// Starts it on another address.
    fn start_at(folder: &Path, listen: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .env("HOME", folder.join("home"))
            .env("CONFIGURATION_DIRECTORY", folder.join("config"))
            .env("STATE_DIRECTORY", folder.join("state"))
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .env("WATCHDOG_USEC", "200000")
            .current_dir("/")
            .args(["serve", "--listen", listen])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, name: &str) {
        signal(&self.0, name);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stanza(nara: &serde_json::Value) -> String {
    format!(
        "[[peer]]\nname = {}\nid = {}\nkey = {}\n",
        nara["name"], nara["id"], nara["public_key"]
    )
}

#[test]
fn a_service_manager_hears_of_start_work_reload_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), stanza(&bob)).unwrap();
    let (_alice, alice) = Serving::start(path, "alice");
    let config = path.join("config");
    for folder in ["config", "state"] {
        fs::create_dir(path.join(folder)).unwrap();
    }
    fs::rename(path.join("bob.soul"), config.join("soul.toml")).unwrap();
    fs::write(config.join("peers.toml"), &alice).unwrap();
    let manager = Manager::new(path);
    let mut service = Service::start(path);

    manager.wait_for(&["READY=1\n", "STATUS=1 peer, "]);
    manager.wait_for(&["WATCHDOG=1\n", "STATUS=1 peer, 1 stream, last sync ", " s ago\n"]);
    assert!(path.join("state/ledger.db").exists());
    assert!(!path.join("home").exists());

    let carol = new_soul(path, "carol");
    fs::write(config.join("peers.toml"), alice + &stanza(&carol)).unwrap();
    service.signal("-HUP");
    let reloading = manager.wait_for(&["RELOADING=1\n"]);
    let time = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
        .unwrap();
    assert!(time.parse::<u64>().unwrap() > 0);
    manager.wait_for(&["READY=1\n", "STATUS=2 peers, "]);

    service.signal("-TERM");
    manager.wait_for(&["STOPPING=1\n", "STATUS=stopping within 5 s\n"]);
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_credential_counts_more_than_the_soul_file_of_the_configuration_and_less_than_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::create_dir(path.join("credentials")).unwrap();
    fs::copy(path.join("alice.soul"), path.join("credentials/soul")).unwrap();
    // As if root owned it and the service could not read it.
    fs::write(path.join("config.toml"), "soul_file = \"not-for-the-service\"\n").unwrap();
    let show = |more: &[&str]| {
        let output = crate::nara_mesh(path)
            .env("CREDENTIALS_DIRECTORY", path.join("credentials"))
            .args(["id", "show", "--json", "--config", "config.toml"])
            .args(more)
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(show(&[]), "alice");
    assert_eq!(show(&["--soul-file", "bob.soul"]), "bob");
    run(path, 2, &["id", "show", "--config", "config.toml"]);
}

#[test]
fn a_service_manager_gives_a_nara_time_that_waits_for_its_address() {
    let folder = folder_of_unit();
    let path = folder.path();
    let manager = Manager::new(path);
    // An address of the documentation range, which no machine has.
    let mut service = Service::start_at(path, "192.0.2.7:9632");
    manager.wait_for(&["STATUS=waiting for 192.0.2.7:9632: no interface of this machine has the address"]);
    // The timeout is extended repeatedly, however long it takes.
    for _ in 0..2 {
        manager.wait_for(&["EXTEND_TIMEOUT_USEC="]);
    }
    service.signal("-TERM");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

/// Gives `folder/state` a ledger of an older version, with enough events that the conversion takes a while.
fn make_old_ledger(folder: &Path) -> PathBuf {
    let path = folder.join("state/ledger.db");
    let ledger = rusqlite::Connection::open(&path).unwrap();
    let old = include_str!("../../../../xtask/src/package/ledger-2.sql");
    ledger.execute_batch(old).unwrap();
    ledger
        .execute_batch(&format!(
            "INSERT INTO events SELECT 3000000 + value, 'event ' || value, ts + value, svc, emitter, actor, target, importance, \
             critical, priority, stranger, json_set(json, '$.id', 'event ' || value, '$.ts', ts + value), origin \
             FROM events, (WITH RECURSIVE n (value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n WHERE value < {OLD_EVENTS}) \
             SELECT value FROM n) WHERE seq = 1; \
             UPDATE totals SET n = n + {OLD_EVENTS} WHERE priority = 3; \
             UPDATE feed SET position = (SELECT max(seq) FROM events);"
        ))
        .unwrap();
    path
}

const OLD_EVENTS: usize = 20_000;

/// Returns a folder with the soul of bob, as a unit has it.
fn folder_of_unit() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "bob");
    for folder in ["config", "state"] {
        fs::create_dir(path.join(folder)).unwrap();
    }
    fs::rename(path.join("bob.soul"), path.join("config/soul.toml")).unwrap();
    folder
}

/// As [`folder_of_unit`], with a ledger of an older version.
fn with_old_ledger() -> (tempfile::TempDir, PathBuf) {
    let folder = folder_of_unit();
    let ledger = make_old_ledger(folder.path());
    (folder, ledger)
}

#[test]
fn a_service_manager_gives_a_nara_time_that_converts_its_ledger_and_hears_how_far_it_is() {
    let (folder, ledger) = with_old_ledger();
    let path = folder.path();
    let manager = Manager::new(path);
    let mut service = Service::start(path);
    manager.wait_for(&["EXTEND_TIMEOUT_USEC="]);
    let all = OLD_EVENTS + 6;
    manager.wait_for(&[
        "STATUS=converting the ledger of an older version: ",
        &format!(" of {all} events"),
    ]);
    // The lock file names the process that holds the ledger.
    let lock = fs::read_to_string(ledger.with_extension("db.lock")).unwrap();
    assert!(
        lock.starts_with(&format!("{}\nbob\n", service.0.id())),
        "{lock:?}"
    );
    manager.wait_for(&["READY=1\n"]);
    service.signal("-TERM");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_nara_that_is_ended_while_it_converts_its_ledger_leaves_it_as_it_was() {
    let (folder, ledger) = with_old_ledger();
    let path = folder.path();
    let manager = Manager::new(path);
    let mut service = Service::start(path);
    manager.wait_for(&["STATUS=converting the ledger"]);
    service.signal("-TERM");
    assert_eq!(service.0.wait().unwrap().code(), Some(0));
    let connection = rusqlite::Connection::open(ledger).unwrap();
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(number("SELECT user_version FROM pragma_user_version"), 2);
    assert_eq!(number("SELECT count(*) FROM events"), OLD_EVENTS as i64 + 6);
}

#[test]
fn serve_says_in_a_line_that_it_converts_its_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "bob");
    fs::write(path.join("known.toml"), "").unwrap();
    fs::create_dir(path.join("state")).unwrap();
    make_old_ledger(path);
    fs::rename(path.join("state"), path.join("bob")).unwrap();
    let (mut bob, converting) = Serving::start_converting(path, "bob");
    assert_eq!(converting["all"], OLD_EVENTS + 6, "{converting}");
    while bob.next()["event"] == "converting" {}
    bob.kill();
}
