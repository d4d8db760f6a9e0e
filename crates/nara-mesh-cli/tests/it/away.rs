//! Commands working through a nara that stops meanwhile.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use http::Method;
use nara_local_api::client::LocalClient;
use serde_json::{Value, json};

use crate::serve::Serving;
use crate::{new_soul, run, text};

/// `watch` through bob, until dropped.
struct Watch(Child, BufReader<ChildStdout>);

impl Watch {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(folder)
            .args(["watch", "alice", "--services", "social", "--json"])
            .args(more)
            .args(["--data-dir", "bob"])
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.join("watch.stderr")).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self(child, lines)
    }

    /// Returns the text of the next event.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        let line = serde_json::from_str::<Value>(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        crate::schemas::validate(&line);
        line["event"]["social"]["reason"].clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts alice, whom bob knows; bob does not run yet.
fn scene(path: &Path) -> Serving {
    for name in ["alice", "bob"] {
        new_soul(path, name);
    }
    fs::write(path.join("known.toml"), "").unwrap();
    let (alice, stanza) = Serving::start(path, "alice");
    fs::write(path.join("known.toml"), stanza).unwrap();
    alice
}

/// Publishes an event as alice.
fn publish(path: &Path, text: &str) {
    let alice = LocalClient::new(path.join("alice/nara.sock"));
    let said = json!({ "type": "gossip", "actor": "alice", "target": "bob", "reason": text });
    let event = json!({ "svc": "social", "social": said });
    let published = alice.send::<Value>(Method::POST, "/v1/events", &event);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(published).unwrap();
}

#[test]
fn a_watch_that_saw_no_event_yet_misses_none_while_its_nara_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _alice = scene(path);
    let (bob, _) = Serving::start(path, "bob");
    publish(path, "before");
    let mut watch = Watch::start(path, &[]);
    let told = || fs::read_to_string(path.join("watch.stderr")).unwrap();
    while !told().contains("alice: live") {
        std::thread::sleep(Duration::from_millis(10));
    }
    bob.kill();
    publish(path, "meanwhile");
    let (_bob, _) = Serving::start(path, "bob");
    assert_eq!(watch.next(), "meanwhile");
    assert!(!told().contains("is not shown"), "{}", told());
}

#[test]
fn a_watch_goes_on_where_it_was_once_its_nara_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _alice = scene(path);
    let publish = |text: &str| publish(path, text);
    let (bob, _) = Serving::start(path, "bob");
    publish("one");
    let mut watch = Watch::start(path, &["--since", "all"]);
    assert_eq!(watch.next(), "one");
    // Once killed, and once shut down gracefully.
    bob.kill();
    publish("two");
    let (bob, _) = Serving::start(path, "bob");
    assert_eq!(watch.next(), "two");
    bob.end();
    publish("three");
    let (_bob, _) = Serving::start(path, "bob");
    publish("four");
    assert_eq!((watch.next(), watch.next()), ("three".into(), "four".into()));
    let told = fs::read_to_string(path.join("watch.stderr")).unwrap();
    assert!(told.contains("the running nara stopped"), "{told}");
}

/// Answers the status request as bob does, and everything else with an unknown form.
fn of_another_version(path: &Path) {
    const OTHER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\
                           connection: close\r\n\r\n1";
    let mut status = Vec::new();
    let mut bob = UnixStream::connect(path.join("bob/nara.sock")).unwrap();
    bob.write_all(b"GET /v1/status HTTP/1.1\r\nhost: nara\r\nconnection: close\r\n\r\n")
        .unwrap();
    bob.read_to_end(&mut status).unwrap();
    let listener = UnixListener::bind(path.join("other.sock")).unwrap();
    std::thread::spawn(move || {
        for caller in listener.incoming().map_while(Result::ok) {
            let mut caller = BufReader::new(caller);
            let mut head = String::new();
            while caller.read_line(&mut head).is_ok_and(|length| length > 2) {}
            let answer = if head.starts_with("GET /v1/status ") {
                &status[..]
            } else {
                OTHER
            };
            let _ = caller.get_mut().write_all(answer);
        }
    });
}

#[test]
fn only_a_command_that_can_do_without_the_running_nara_recommends_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _alice = scene(path);
    let (_bob, _) = Serving::start(path, "bob");
    of_another_version(path);
    for (args, can) in [
        (&["ping", "alice"][..], true),
        (&["peers"], true),
        (&["reload"], false),
        (&["outbox", "list"], false),
        (&["world", "list"], false),
        (&["token", "list"], false),
        (&["dm", "alice", "hi", "--later"], false),
    ] {
        let output = run(path, 1, &[args, &["--api-socket", "other.sock"]].concat());
        let told = text(&output.stderr);
        assert!(told.contains("see its log"), "{args:?}: {told}");
        assert_eq!(told.contains("--direct"), can, "{args:?}: {told}");
    }
}
