//! The memory of `serve` with a full ledger: idle, and after another nara has fetched the whole ledger.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process;

/// The default capacity of a nara.
const EVENTS: &str = "320000";

/// How long the nara may settle before the measurement.
const SETTLE: Duration = Duration::from_secs(10);

/// A nara that runs until dropped.
pub(super) struct Nara(Child);

impl Drop for Nara {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Nara {
    /// Starts `serve --json`; also returns its first line.
    pub(super) fn start(mut serve: Command) -> Result<(Self, Value), String> {
        let child = serve.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut nara = Self(child.map_err(|error| format!("{serve:?}: {error}"))?);
        let mut line = String::new();
        let stdout = nara.0.stdout.take().ok_or("serve has no output")?;
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut line).map_err(|error| error.to_string())?;
        let listening = serde_json::from_str(&line).map_err(|error| format!("{error}: {line}"))?;
        // Discard the remaining lines.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Ok((nara, listening))
    }

    /// Returns resident memory now and at its peak, in KiB.
    fn memory(&self) -> Result<Value, String> {
        let file = format!("/proc/{}/status", self.0.id());
        let status = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        let of = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(json!({ "resident_kib": of("VmRSS:"), "peak_kib": of("VmHWM:") }))
    }
}

/// Measures, and prints the figures as JSON.
pub(super) fn run(args: &[String]) -> Result<(), String> {
    let (profile, events) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => ("release", EVENTS),
        ["--events", events] => ("release", events),
        ["--debug", "--events", events] => ("debug", events),
        _ => return Err("bench --memory takes only [--debug] --events N".to_owned()),
    };
    let mut build = process::cargo();
    build.args(["build", "--locked", "--bin", "nara-mesh", "--bin", "nara-bench"]);
    if profile == "release" {
        build.arg("--release");
    }
    process::run(&mut build)?;
    let programs = process::target().join(profile);
    let folder = process::root().join("target/bench/memory");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("alice")).map_err(|error| format!("{}: {error}", folder.display()))?;
    let figures = measure(&programs, &folder, events)?;
    let text = serde_json::to_string_pretty(&figures).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

fn measure(programs: &Path, folder: &Path, events: &str) -> Result<Value, String> {
    let program = programs.join("nara-mesh");
    let nara_mesh = |args: &[&str]| {
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("HOME", folder)
            .current_dir(folder)
            .args(args);
        command
    };
    for name in ["alice", "bob"] {
        let soul = format!("{name}.soul");
        process::output(&mut nara_mesh(&["id", "new", "--name", name, "--out", &soul]))?;
    }
    let ledger = folder.join("alice/ledger.db");
    let mut fill = Command::new(programs.join("nara-bench"));
    process::output(fill.args(["fill", "--events", events, "--ledger"]).arg(&ledger))?;
    let bytes = fs::metadata(&ledger)
        .map_err(|error| format!("{}: {error}", ledger.display()))?
        .len();

    let stanza = process::output(&mut nara_mesh(&[
        "id",
        "show",
        "--soul-file",
        "bob.soul",
        "--stanza",
        "127.0.0.1:1",
    ]))?;
    write(folder.join("known.toml"), &stanza)?;
    let mut serve = nara_mesh(&[
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--peers",
        "known.toml",
    ]);
    serve.args([
        "--soul-file",
        "alice.soul",
        "--data-dir",
        "alice",
        "--no-catch-up",
    ]);
    let (alice, listening) = Nara::start(serve)?;
    write(
        folder.join("peers.toml"),
        listening["stanza"].as_str().unwrap_or_default(),
    )?;

    sleep(SETTLE);
    let idle = alice.memory()?;
    let mut sync = nara_mesh(&[
        "sync",
        "alice",
        "--direct",
        "--jsonl",
        "--soul-file",
        "bob.soul",
        "--data-dir",
        "bob",
    ]);
    sync.args(["--peers", "peers.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = sync.status().map_err(|error| error.to_string())?;
    // Exit code 5: bob cannot verify all events, because he does not know their emitters.
    if !matches!(status.code(), Some(0 | 5)) {
        return Err(format!("the sync failed: {status}"));
    }
    let synced = alice.memory()?;
    sleep(SETTLE);
    Ok(json!({
        "events": events.parse::<u64>().ok(),
        "ledger_bytes": bytes,
        "idle": idle,
        "after_sync": synced,
        "idle_again": alice.memory()?,
    }))
}

fn write(file: PathBuf, text: &str) -> Result<(), String> {
    fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
}
