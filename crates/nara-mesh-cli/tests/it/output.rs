//! The output of a daemon is never worth its service.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{new_soul, run, text};

/// A nara that is served while nobody reads what it says.
struct Unread(Child);

impl Unread {
    fn start(folder: &Path, more: &[&str]) -> (Self, String) {
        new_soul(folder, "alice");
        new_soul(folder, "bob");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let stanza = |name: &str, address: &str| {
            let args = ["id", "show", "--soul-file", &format!("{name}.soul"), "--stanza", address];
            text(&run(folder, 0, &args).stdout)
        };
        fs::write(folder.join("peers.toml"), stanza("alice", &address) + &stanza("bob", "127.0.0.1:1")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(folder)
            .args(["serve", "--listen", &address, "--peers", "peers.toml", "--no-gossip"])
            .args(["--soul-file", "alice.soul", "--data-dir", "alice"])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (Self(child), address)
    }

    fn dm(folder: &Path, text: &str, expected: i32) {
        let as_bob = ["--soul-file", "bob.soul", "--data-dir", "bob", "--peers", "peers.toml"];
        run(folder, expected, &[&["dm", "alice", "--text", text][..], &as_bob].concat());
    }

    /// Waits until it has printed its stanza.
    fn until_it_listens(&mut self) {
        let stdout = self.0.stdout.as_mut().unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\"\n\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            seen.extend(byte);
        }
    }

    fn end(mut self) -> Option<i32> {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (mut alice, _) = Unread::start(path, &["-v"]);
    alice.until_it_listens();
    drop(alice.0.stdout.take());
    drop(alice.0.stderr.take());
    // Each of these is a line on stdout, and the refused ones are warnings.
    for number in 0..3 {
        Unread::dm(path, &format!("message {number}"), 0);
    }
    assert_eq!(alice.0.try_wait().unwrap(), None);
    assert_eq!(alice.end(), Some(0));
}

#[test]
fn a_reader_that_is_stuck_does_not_hold_up_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // With a line for everything, the pipe of 64 KiB is soon full.
    let (mut alice, address) = Unread::start(path, &["--log", "trace"]);
    alice.until_it_listens();
    run(path, 0, &["ping", &address, "-c", "2000", "-i", "0s"]);
    Unread::dm(path, &"x".repeat(1_000), 0);
    Unread::dm(path, &"y".repeat(1_000), 0);
    run(path, 0, &["ping", &address]);
    // The reader comes back, and learns that it missed something.
    let mut stderr = alice.0.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut seen = String::new();
        stderr.read_to_string(&mut seen).map(|_| seen)
    });
    let mut stdout = alice.0.stdout.take().unwrap();
    let draining = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    assert_eq!(alice.end(), Some(0));
    let seen = reading.join().unwrap().unwrap();
    assert!(seen.contains("were left out: nobody read them"), "{}", seen.len());
    draining.join().unwrap().unwrap();
}

/// Runs the program on a terminal, closes it as soon as the nara listens, and prints how the program ended.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"key = " not in seen:
    seen += os.read(terminal, 1024)
os.close(terminal)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
"#;

#[test]
fn a_nara_on_a_terminal_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let output = Command::new("python3")
        .args(["-c", ON_A_TERMINAL, env!("CARGO_BIN_EXE_nara-mesh")])
        .args(["serve", "--listen", "127.0.0.1:0", "--soul-file", "alice.soul", "--data-dir", "alice"])
        .current_dir(path)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout).trim(), "0", "{}", text(&output.stderr));
}
