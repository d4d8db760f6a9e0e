//! A process that has run out of file descriptors or threads.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{new_soul, text};

/// Runs the program with a limit on descriptors. Returns its exit code and the text of its failure.
fn limited(folder: &Path, files: u32, args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n $0; exec \"$@\"", &files.to_string()])
        .arg(env!("CARGO_BIN_EXE_nara-mesh"))
        .args(args)
        .env_clear()
        .current_dir(folder)
        .output()
        .unwrap();
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_process_without_descriptors_says_so_whatever_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    fs::write(path.join("peers.toml"), "").unwrap();
    let soul = ["--soul-file", "alice.soul", "--data-dir", "alice"];
    // It exits at once, because the address is in use.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mut refused = 0;
    for args in [
        &["ping", "127.0.0.1:1", "--timeout", "1s"][..],
        &["peers", "untrust", "bob"],
        &["doctor", "--timeout", "1s"],
        &["sync", "127.0.0.1:1", "--timeout", "1s"],
        &["serve", "--listen", &taken, "--log-format", "json"],
    ] {
        for files in 5..32 {
            let (code, told) = limited(path, files, &[args, &soul].concat());
            assert!(matches!(code, Some(0..=5)), "{files} {args:?} {code:?}: {told}");
            assert!(!told.contains("panicked"), "{files} {args:?}: {told}");
            if told.contains("more threads or open files") {
                assert!(
                    told.contains("LimitNOFILE") && told.contains("Too many open files"),
                    "{told}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused >= 10, "{refused}");
}

/// The limit of threads counts those of all processes of a user, and not for root: the program runs as a user that has no others.
#[cfg(target_os = "linux")]
#[test]
fn a_process_without_threads_says_so_and_does_not_wait_for_them() {
    use std::os::unix::fs::chown;

    const USER: u32 = 61_234;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    new_soul(path, "alice");
    // It may lie where this user may not look.
    fs::copy(env!("CARGO_BIN_EXE_nara-mesh"), path.join("nara-mesh")).unwrap();
    let is_root = [path, &path.join("alice.soul")]
        .iter()
        .all(|path| chown(path, Some(USER), Some(USER)).is_ok());
    if !is_root {
        return;
    }
    // It ends at once, since it cannot listen there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mut refused = 0;
    for threads in 1..9 {
        let output = Command::new("setpriv")
            .args(["--reuid", &USER.to_string(), "--regid", &USER.to_string()])
            .args(["--clear-groups", "prlimit", &format!("--nproc={threads}")])
            .args(["./nara-mesh", "serve", "--listen", &taken])
            .args(["--soul-file", "alice.soul", "--data-dir", "alice"])
            .env_clear()
            .current_dir(path)
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{threads}: {told}");
        assert!(!told.contains("panicked"), "{threads}: {told}");
        refused += usize::from(told.contains("more threads or open files") && told.contains("TasksMax"));
    }
    assert!(refused >= 5, "{refused}");
}
