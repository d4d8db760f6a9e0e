use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{new_soul, run, run_json, signal, text};

/// A nara in a process of its own, until dropped.
pub(crate) struct Serving {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Serving {
    pub(crate) fn start(folder: &Path, name: &str) -> (Self, String) {
        let (serving, listening) = Self::start_with(folder, name, &[]);
        (serving, listening["stanza"].as_str().unwrap().to_owned())
    }

    /// Starts it with more arguments. Returns its first line.
    pub(crate) fn start_with(folder: &Path, name: &str, more: &[&str]) -> (Self, Value) {
        Self::start_in(folder, name, more, &[])
    }

    /// As [`start_with`](Self::start_with), with environment variables.
    pub(crate) fn start_in(
        folder: &Path,
        name: &str,
        more: &[&str],
        variables: &[(&str, &Path)],
    ) -> (Self, Value) {
        let (serving, listening) = Self::spawn(folder, name, more, variables);
        assert_eq!(listening["event"], "listening");
        (serving, listening)
    }

    /// Starts it with a ledger of an older version. Returns its first line.
    pub(crate) fn start_converting(folder: &Path, name: &str) -> (Self, Value) {
        let (serving, converting) = Self::spawn(folder, name, &[], &[]);
        assert_eq!(converting["event"], "converting");
        (serving, converting)
    }

    fn spawn(folder: &Path, name: &str, more: &[&str], variables: &[(&str, &Path)]) -> (Self, Value) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(folder)
            .args(["serve", "--json", "--peers", "known.toml"])
            .args(match more.contains(&"--listen") {
                true => &[][..],
                false => &["--listen", "127.0.0.1:0"],
            })
            .args(["--soul-file", &format!("{name}.soul"), "--data-dir", name])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut serving = Self { child, lines };
        let first = serving.next();
        assert_eq!(first["schema"], "nara-mesh/serve/1");
        (serving, first)
    }

    /// Sends SIGHUP, which reloads its files.
    pub(crate) fn hang_up(&self) {
        signal(&self.child, "-HUP");
    }

    /// Stops it as it is: it hangs.
    pub(crate) fn halt(&self) {
        signal(&self.child, "-STOP");
    }

    /// Waits for the next line of its output.
    pub(crate) fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        crate::schemas::validate_as("nara-mesh/serve/1", &line);
        line
    }

    /// Kills it at once.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Terminates it as a service manager does.
    pub(crate) fn end(mut self) -> (Value, Option<i32>) {
        signal(&self.child, "-TERM");
        (self.next(), self.child.wait().unwrap().code())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_served_naras_ping_message_sync_and_end_gracefully() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let bob = new_soul(path, "bob");
    new_soul(path, "alice");
    new_soul(path, "mallory");
    fs::write(
        path.join("known.toml"),
        format!(
            "[[peer]]\nname = \"bob\"\nid = {}\nkey = {}\n",
            bob["id"], bob["public_key"]
        ),
    )
    .unwrap();
    let (mut alice, stanza) = Serving::start(path, "alice");
    let (bobs, bobs_stanza) = Serving::start(path, "bob");
    fs::write(path.join("peers.toml"), stanza + &bobs_stanza).unwrap();
    let as_bob = ["--soul-file", "bob.soul", "--peers", "peers.toml"];

    let pings = run_json(
        path,
        0,
        &[
            "ping",
            "--all",
            "--json",
            "-c",
            "2",
            "-i",
            "0s",
            "--peers",
            "peers.toml",
        ],
    );
    for peer in pings["peers"].as_array().unwrap() {
        assert_eq!(peer["received"], 2);
        assert_eq!(peer["key_matches"], true);
    }
    let sent = run_json(
        path,
        0,
        &[&["dm", "alice", "--text", "hi", "--json"][..], &as_bob].concat(),
    );
    let received = alice.next();
    assert_eq!(received["event"], "direct_message");
    assert_eq!(received["message"]["id"], sent["event_id"]);

    let peers = fs::read_to_string(path.join("peers.toml")).unwrap();
    let address = peers
        .lines()
        .find_map(|line| line.strip_prefix("address = "))
        .unwrap()
        .trim_matches('"');
    for (name, code) in [(&[][..], 0), (&["--name", "alice"], 0), (&["--name", "bob"], 1)] {
        run(path, code, &[&["health", "--listen", address][..], name].concat());
    }

    let sync = ["sync", "alice", "--to", "copy.db", "--resume", "--json"];
    let first = run_json(path, 0, &[&sync[..], &as_bob].concat());
    assert_eq!(
        (&first["verified"], &first["stored"]),
        (&2.into(), &2.into()),
        "{first}"
    );
    let again = run_json(path, 0, &[&sync[..], &as_bob].concat());
    assert_eq!(again["received"], 0);
    let lines = text(&run(path, 0, &[&["sync", "alice", "--jsonl"][..], &as_bob].concat()).stdout);
    assert_eq!(lines.lines().count(), 2);
    let zine = run_json(path, 0, &[&["zine", "alice", "--json"][..], &as_bob].concat());
    assert_eq!(zine["verified"], 2);
    assert_eq!(alice.next()["event"], "zine");

    // Mallory's key is unknown: her dm is refused, and so is an answer with a key other than the pinned one.
    let as_mallory = ["--soul-file", "mallory.soul", "--peers", "peers.toml"];
    run(
        path,
        4,
        &[&["dm", "alice", "--text", "hi"][..], &as_mallory].concat(),
    );
    let peers = fs::read_to_string(path.join("peers.toml")).unwrap();
    let alices_key = peers.lines().find(|line| line.starts_with("key")).unwrap();
    let wrong = peers.replace(
        alices_key,
        &format!("key = {}", new_soul(path, "other")["public_key"]),
    );
    fs::write(path.join("wrong.toml"), wrong).unwrap();
    run(
        path,
        4,
        &[
            "sync",
            "alice",
            "--soul-file",
            "bob.soul",
            "--peers",
            "wrong.toml",
        ],
    );
    run(path, 4, &["ping", "alice", "--peers", "wrong.toml"]);
    run(
        path,
        5,
        &["ping", "alice", "127.0.0.1:1", "--peers", "peers.toml"],
    );

    for nara in [alice, bobs] {
        let (stopped, code) = nara.end();
        assert_eq!(stopped["event"], "stopped");
        assert_eq!(stopped["graceful"], true);
        assert_eq!(code, Some(0));
    }
    run(path, 3, &["ping", "alice", "--peers", "peers.toml"]);
    run(path, 3, &["health", "--listen", "127.0.0.1:1"]);
}

#[test]
fn a_ping_shows_how_its_connection_was_protected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (_alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("peers.toml"), &stanza).unwrap();
    fs::write(path.join("secure.toml"), format!("{stanza}tls = \"tls-only\"\n")).unwrap();
    for (peers, flags, security) in [
        ("peers.toml", &["--tls", "plain"][..], "plain"),
        ("peers.toml", &["--tls", "tls-only"], "tls x509"),
        ("secure.toml", &["--tls", "plain"], "tls x509"),
    ] {
        let arguments = [&["ping", "alice", "--json", "-c", "1", "--peers", peers], flags].concat();
        let pings = run_json(path, 0, &arguments);
        assert_eq!(pings["peers"][0]["security"], security, "{arguments:?}");
        assert_eq!(pings["peers"][0]["key_matches"], true);
    }
}

#[test]
fn a_second_nara_on_one_data_folder_is_told_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, _) = Serving::start(path, "alice");
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let again = ["serve", "--peers", "known.toml", "--listen", "127.0.0.1:0"];
    let refused = text(&run(path, 1, &[&again[..], &own].concat()).stderr);
    assert!(refused.contains("is in use by alice (process "), "{refused}");

    // Read-only commands and backups work while the nara runs.
    run(path, 0, &[&["ledger", "check"][..], &own].concat());
    run(path, 0, &[&["backup", "copy.db"][..], &own].concat());
    let (_, code) = alice.end();
    assert_eq!(code, Some(0));
}

#[test]
fn commands_that_only_look_need_no_folder_that_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("known.toml"), stanza).unwrap();
    // Not even root can create a folder there.
    let as_bob = [
        "--soul-file",
        "bob.soul",
        "--peers",
        "known.toml",
        "--data-dir",
        "/proc/nara",
    ];
    let pinged = run(path, 0, &[&["ping", "alice"][..], &as_bob].concat());
    let said = text(&pinged.stderr);
    assert!(said.contains("learned peer data is not stored"), "{said}");
    run(path, 0, &[&["peers", "list", "--offline"][..], &as_bob].concat());
    alice.kill();
}

#[test]
fn a_nara_listens_on_a_network_interface_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, listening) = Serving::start_with(path, "alice", &["--listen", "lo:0"]);
    let address = listening["address"].as_str().unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{listening}");
    run(path, 0, &["ping", address]);
    alice.kill();
}

#[test]
fn a_nara_that_runs_already_is_named_and_not_the_address_of_its_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (_alice, listening) = Serving::start_with(path, "alice", &["--metrics", "127.0.0.1:0"]);
    let metrics = listening["metrics"].as_str().unwrap();
    let args = [
        "serve",
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        metrics,
    ];
    let second = text(&run(path, 1, &args).stderr);
    assert!(second.contains("a nara runs on alice already"), "{second}");
}

#[test]
fn a_ledger_that_is_taken_away_under_a_running_nara_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    let (mut alice, _) = Serving::start(path, "alice");
    fs::rename(path.join("alice/ledger.db"), path.join("elsewhere.db")).unwrap();
    let line = alice.next();
    assert_eq!(line["event"], "ledger_gone", "{line}");
    assert!(
        line["problem"].as_str().unwrap().contains("was deleted or moved"),
        "{line}"
    );
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let ledger = |code: i32| {
        let report = run_json(path, code, &[&["doctor", "--json"][..], &own].concat());
        let checks = report["checks"].as_array().unwrap().iter();
        let check = checks.clone().find(|check| check["what"] == "ledger").unwrap();
        check["result"].as_str().unwrap().to_owned()
    };
    assert_eq!(ledger(1), "failed");
    fs::rename(path.join("elsewhere.db"), path.join("alice/ledger.db")).unwrap();
    assert_ne!(ledger(0), "failed");
    alice.kill();
}

#[test]
fn backups_that_cannot_be_made_or_restored_say_which_file_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    Serving::start(path, "alice").0.end();
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let said = |code: i32, args: &[&str]| text(&run(path, code, &[args, &own].concat()).stderr);
    said(0, &["backup", "copy.db"]);
    for taken in ["copy.db", "alice/ledger.db", "alice"] {
        let told = said(1, &["backup", taken]);
        assert!(
            told.contains(&format!("{taken} exists")) && told.contains("another file"),
            "{told}"
        );
    }
    let told = said(1, &["backup", "no/such/folder.db"]);
    assert!(
        told.contains("the backup no/such/folder.db cannot be written"),
        "{told}"
    );
    let copy = fs::read(path.join("copy.db")).unwrap();
    fs::write(path.join("half.db"), &copy[..copy.len() / 2]).unwrap();
    fs::write(path.join("empty.db"), "").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("pipe.db"), rustix::fs::Mode::RWXU).unwrap();
    for (file, word) in [
        ("half.db", "this backup is damaged"),
        ("empty.db", "it is empty"),
        ("pipe.db", "it is a pipe or a device"),
        ("alice", "it is a folder"),
        ("missing.db", "No such file"),
    ] {
        let told = said(1, &["restore", file, "--replace"]);
        assert!(
            told.contains(&format!("{file} cannot be restored")) && told.contains(word),
            "{told}"
        );
    }
    said(0, &["ledger", "check"]);
    // A ledger of a future version.
    let newer = rusqlite::Connection::open(path.join("alice/ledger.db")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let told = said(1, &["events"]);
    assert!(told.contains("`nara-mesh restore FILE --replace "), "{told}");
}

/// Returns a folder that other users can enter, with a soul and a ledger of alice.
pub(crate) fn folder_that_others_enter() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    new_soul(path, "alice");
    fs::write(path.join("known.toml"), "").unwrap();
    Serving::start(path, "alice").0.end();
    folder
}

/// Gives a folder and its contents to the user of a service.
pub(crate) fn give_away(folder: &Path) {
    let inside = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    for path in inside.chain([folder.to_owned()]) {
        let _ = std::os::unix::fs::lchown(path, Some(65_534), Some(65_534));
    }
}

/// Root restores, decides and reads for the user of the service. The test proves something only as root: no
/// other user can change owners.
#[test]
fn what_a_command_makes_in_the_data_folder_belongs_to_the_owner_of_the_folder() {
    let folder = folder_that_others_enter();
    let path = folder.path();
    let of = |data: &str, args: &[&str]| {
        run(
            path,
            0,
            &[args, &["--soul-file", "alice.soul", "--data-dir", data]].concat(),
        );
    };
    of("alice", &["backup", "copy.db"]);
    fs::create_dir(path.join("other")).unwrap();
    fs::create_dir(path.join("new")).unwrap();
    for data in ["alice", "other", "new"] {
        give_away(&path.join(data));
    }
    of("alice", &["restore", "copy.db", "--replace"]);
    of("other", &["restore", "copy.db"]);
    of("new", &["peers", "untrust", "bob"]);
    // A nara has further databases beside its ledger.
    let _serving = Serving::start(path, "alice");
    for (data, databases) in [
        ("alice", &["ledger", "inbox", "outbox", "stash"][..]),
        ("other", &["ledger"]),
        ("new", &["ledger"]),
    ] {
        let owner = fs::metadata(path.join(data)).unwrap().uid();
        for database in databases {
            assert!(
                path.join(data).join(format!("{database}.db")).exists(),
                "{data} {database}"
            );
        }
        for file in fs::read_dir(path.join(data)).unwrap() {
            let file = file.unwrap();
            if file.file_name().to_string_lossy().contains(".db") {
                assert_eq!(file.metadata().unwrap().uid(), owner, "{file:?}");
            }
        }
    }
}

/// A compromised service plants links to files that only root may change.
#[test]
fn a_link_in_the_data_folder_leads_root_to_nothing() {
    let folder = folder_that_others_enter();
    let path = folder.path();
    let of = |data: &str, code: i32, args: &[&str]| {
        let args = [args, &["--soul-file", "alice.soul", "--data-dir", data]].concat();
        text(&run(path, code, &args).stderr)
    };
    of("alice", 0, &["backup", "copy.db"]);
    fs::write(path.join("passwd"), "root").unwrap();
    fs::set_permissions(path.join("passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    for data in ["soft", "hard", "dangling"] {
        fs::create_dir(path.join(data)).unwrap();
        give_away(&path.join(data));
    }
    std::os::unix::fs::symlink("../passwd", path.join("soft/ledger.db.lock")).unwrap();
    let told = of("soft", 1, &["restore", "copy.db"]);
    assert!(told.contains("cannot be restored"), "{told}");
    if fs::metadata(path.join("hard")).unwrap().uid() == 65_534 {
        fs::hard_link(path.join("passwd"), path.join("hard/ledger.db.lock")).unwrap();
        of("hard", 1, &["restore", "copy.db"]);
        std::os::unix::fs::symlink("../made", path.join("dangling/ledger.db")).unwrap();
        of("dangling", 1, &["peers", "untrust", "bob"]);
        assert!(!path.join("made").exists());
    }
    assert_eq!(fs::read_to_string(path.join("passwd")).unwrap(), "root");
}

#[test]
fn a_data_folder_is_made_so_that_nobody_else_can_write_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let script = "umask 000; exec \"$0\" peers untrust bob --soul-file alice.soul --data-dir deep/alice";
    let made = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_nara-mesh")])
        .env_clear()
        .current_dir(path)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    for made in ["deep", "deep/alice", "deep/alice/ledger.db"] {
        assert_eq!(fs::metadata(path.join(made)).unwrap().mode() & 0o022, 0, "{made}");
    }
    fs::set_permissions(path.join("deep/alice"), fs::Permissions::from_mode(0o777)).unwrap();
    let own = ["--soul-file", "alice.soul", "--data-dir", "deep/alice"];
    let report = run(
        path,
        0,
        &[&["doctor", "--network", "loopback"], &own[..]].concat(),
    );
    let report = text(&report.stdout);
    assert!(report.contains("chmod 755 deep/alice"), "{report}");
    // A file in place of the folder is a different fault than a missing ledger.
    let told = run(path, 1, &["events", "--data-dir", "alice.soul/x"]);
    assert!(
        text(&told.stderr).contains("Not a directory"),
        "{}",
        text(&told.stderr)
    );
}

#[test]
fn what_is_no_file_in_the_data_folder_is_named_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    for (number, file) in ["ledger.db", "ledger.db.lock"].into_iter().enumerate() {
        for kind in ["folder", "pipe"] {
            let data = format!("{kind}{number}");
            fs::create_dir(path.join(&data)).unwrap();
            let at = path.join(&data).join(file);
            match kind {
                "folder" => fs::create_dir(&at).unwrap(),
                _ => rustix::fs::mkfifoat(rustix::fs::CWD, &at, rustix::fs::Mode::RWXU).unwrap(),
            }
            let args = [
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--soul-file",
                "alice.soul",
                "--data-dir",
                &data,
            ];
            let told = text(&run(path, 1, &args).stderr);
            assert!(told.contains(&format!("{data}/{file} cannot be used")), "{told}");
        }
    }
}
