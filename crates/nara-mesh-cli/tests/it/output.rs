//! The output of a daemon never blocks its service.

use std::fs;
use std::io::{PipeReader, Read as _, Write as _, pipe};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};

use crate::{nara_mesh, new_soul, run, signal, text};

/// A nara whose output is not read.
struct Unread {
    child: Child,
    address: String,
    readers: Option<(PipeReader, PipeReader)>,
}

/// The capacity of a pipe in bytes.
const PIPE: usize = 65_536;

impl Unread {
    /// Starts it with this many unread bytes in its stdout and its stderr.
    fn start(folder: &Path, waiting: usize) -> Self {
        new_soul(folder, "alice");
        new_soul(folder, "bob");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let stanza = |name: &str, address: &str| {
            let soul = format!("{name}.soul");
            let args = ["id", "show", "--soul-file", &soul, "--stanza", address];
            text(&run(folder, 0, &args).stdout)
        };
        fs::write(
            folder.join("peers.toml"),
            stanza("alice", &address) + &stanza("bob", "127.0.0.1:1"),
        )
        .unwrap();
        let (stdout, mut stdout_of_child) = pipe().unwrap();
        let (stderr, mut stderr_of_child) = pipe().unwrap();
        stdout_of_child.write_all(&vec![b'x'; waiting]).unwrap();
        stderr_of_child.write_all(&vec![b'x'; waiting]).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
            .env_clear()
            .current_dir(folder)
            .args([
                "serve",
                "-v",
                "--listen",
                &address,
                "--peers",
                "peers.toml",
                "--no-gossip",
            ])
            .args(["--soul-file", "alice.soul", "--data-dir", "alice"])
            .stdout(stdout_of_child)
            .stderr(stderr_of_child)
            .spawn()
            .unwrap();
        while TcpStream::connect(&address).is_err() {
            std::thread::yield_now();
        }
        Self {
            child,
            address,
            readers: Some((stdout, stderr)),
        }
    }

    /// Sends a message as bob, which prints a line on stdout.
    fn dm(folder: &Path, text: &str) {
        let as_bob = [
            "--soul-file",
            "bob.soul",
            "--data-dir",
            "bob",
            "--peers",
            "peers.toml",
        ];
        run(folder, 0, &[&["dm", "alice", text][..], &as_bob].concat());
    }

    fn end(&mut self) -> Option<i32> {
        signal(&self.child, "-TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut alice = Unread::start(path, 0);
    drop(alice.readers.take());
    for number in 0..3 {
        Unread::dm(path, &format!("message {number}"));
    }
    assert_eq!(alice.child.try_wait().unwrap(), None);
    assert_eq!(alice.end(), Some(0));
}

#[test]
fn a_reader_that_is_stuck_does_not_hold_up_the_service() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // Not even the first line fits.
    let mut alice = Unread::start(path, PIPE);
    Unread::dm(path, "nobody sees this yet");
    run(path, 0, &["ping", &alice.address]);
    let (mut stdout, mut stderr) = alice.readers.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut seen = String::new();
        stdout.read_to_string(&mut seen).map(|_| seen)
    });
    let draining = std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    assert_eq!(alice.end(), Some(0));
    assert!(reading.join().unwrap().unwrap().contains("nobody sees this yet"));
    draining.join().unwrap().unwrap();
}

#[test]
fn on_one_stream_the_stanza_follows_the_sentences_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    let own = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    let (mut reader, mut writer) = pipe().unwrap();
    // All that it says at the start waits for a reader.
    writer.write_all(&vec![b'x'; PIPE]).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_nara-mesh"))
        .env_clear()
        .current_dir(path)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(own)
        .stdout(writer.try_clone().unwrap())
        .stderr(writer)
        .spawn()
        .unwrap();
    // It reads its files again only once it has said all of that.
    let reload = || nara_mesh(path).arg("reload").args(own).output().unwrap();
    while !reload().status.success() {}
    let reading = std::thread::spawn(move || {
        let mut seen = String::new();
        reader.read_to_string(&mut seen).map(|_| seen)
    });
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let seen = reading.join().unwrap().unwrap();
    let (before, _) = seen.trim_start_matches('x').split_once("[[peer]]").unwrap();
    assert!(before.starts_with("alice listens on "), "{seen}");
    assert!(before.trim_end().ends_with("(--peers):"), "{seen}");
}

/// Runs the program on a terminal, closes it as soon as the nara listens, and prints how the program exited.
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
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--soul-file",
            "alice.soul",
            "--data-dir",
            "alice",
        ])
        .current_dir(path)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout).trim(), "0", "{}", text(&output.stderr));
}
