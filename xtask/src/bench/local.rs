//! The cost of the local API: a request through the socket, a watcher of events, and a `dm` process from
//! start to end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::memory::Nara;
use super::report::median;
use super::{measure, write};
use crate::{process, results};

/// Rounds of a run: odd, so that the median is a measured value.
const ROUNDS: usize = 3;
const REQUESTS: usize = 15_000;
const WATCHERS: usize = 1_000;
/// Messages per round: below the rate limit of a peer.
const MESSAGES: usize = 51;

/// Measures, and prints a table.
pub(super) fn run(args: &[String]) -> Result<(), String> {
    let (mut rounds, mut record, mut profile) = (ROUNDS, false, "release");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--record" => record = true,
            // For testing the measurement itself: its figures are meaningless.
            "--debug" => profile = "debug",
            "--rounds" => {
                let given = args.next().and_then(|rounds| rounds.parse().ok());
                rounds = given
                    .filter(|rounds| *rounds > 0)
                    .ok_or("--rounds takes a number from 1 on")?;
            }
            other => {
                return Err(format!(
                    "bench --local does not know {other:?}; it takes --rounds N and --record"
                ));
            }
        }
    }
    let mut build = process::cargo();
    build.args(["build", "--locked", "--bin", "nara-mesh", "--bin", "nara-bench"]);
    if profile == "release" {
        build.arg("--release");
    }
    process::run(&mut build)?;
    let programs = process::target().join(profile);
    let folder = process::root().join("target/bench");
    let (mut figures, mut messages) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let numbers = [REQUESTS, WATCHERS].map(|number| number.to_string());
        let [requests, watchers] = &numbers;
        let args = ["local", "--requests", requests, "--watchers", watchers].map(str::to_owned);
        figures.push(measure(&programs.join("nara-bench"), &args)?);
        messages.extend(send(&programs.join("nara-mesh"), &folder.join("local"))?);
    }
    let of = |field: &str| median(figures.iter().filter_map(|round| round[field].as_f64()).collect());
    let slow = {
        let mut sorted = messages.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(f64::NAN)
    };
    let report = json!({
        "schema": "nara-mesh/bench-local/1",
        "direct_p50_us": of("direct_p50_us"),
        "proxied_p50_us": of("proxied_p50_us"),
        "extra_p50_us": of("extra_p50_us"),
        "bytes_per_watcher": of("bytes_per_watcher"),
        "dm_p50_ms": median(messages),
        "dm_p95_ms": slow,
        "rounds": figures,
    });
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    write(&folder.join("local.json"), &(text + "\n"))?;
    let table = table(&report, rounds);
    println!("{table}");
    if record {
        results::record("local", &table)?;
    }
    Ok(())
}

/// Measures `nara-mesh dm` through a running nara, from process start to exit, in milliseconds.
fn send(program: &Path, folder: &Path) -> Result<Vec<f64>, String> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let nara_mesh = |args: &[&str]| {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", folder)
            .current_dir(folder)
            .args(args);
        command
    };
    let soul = |name: &str| format!("{name}.soul");
    for name in ["alice", "bob"] {
        process::output(&mut nara_mesh(&[
            "id",
            "new",
            "--name",
            name,
            "--out",
            &soul(name),
        ]))?;
    }
    let of_bob = ["id", "show", "--soul-file", "bob.soul", "--stanza", "127.0.0.1:1"];
    write(
        &folder.join("known.toml"),
        &process::output(&mut nara_mesh(&of_bob))?,
    )?;
    let serve = |name: &str, peers: &str| {
        let soul = soul(name);
        let args = ["serve", "--json", "--listen", "127.0.0.1:0", "--peers", peers];
        let mut serve = nara_mesh(&args);
        serve.args(["--soul-file", &soul, "--data-dir", name, "--no-catch-up"]);
        Nara::start(serve)
    };
    let (_alice, listening) = serve("alice", "known.toml")?;
    let stanza = listening["stanza"].as_str().unwrap_or_default();
    write(&folder.join("peers.toml"), stanza)?;
    let (_bob, _) = serve("bob", "peers.toml")?;
    let mut took = Vec::new();
    // The first one dials.
    for number in 0..=MESSAGES {
        let text = number.to_string();
        let mut dm = nara_mesh(&["dm", "alice", &text, "--data-dir", "bob"]);
        dm.stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        let status = dm.status().map_err(|error| format!("{dm:?}: {error}"))?;
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        if !status.success() {
            return Err(format!("{dm:?}: {status}"));
        }
        if number > 0 {
            took.push(millis);
        }
    }
    Ok(took)
}

fn table(report: &Value, rounds: usize) -> String {
    let number = |field: &str| report[field].as_f64().unwrap_or(f64::NAN);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "| figure | here | target |\n|---|---|---|\n\
         | a signed request of the library, p50, µs | {:.0} | |\n\
         | the same through the unix socket, p50, µs | {:.0} | |\n\
         | … what that adds, µs | {:.0} | ≤ 60 |\n\
         | {WATCHERS} watchers of events, KiB each, with the client's end | {:.1} | ≤ 32 |\n\
         | `nara-mesh dm` from the start of the process to its end, p50; p95, ms | {:.1}; {:.1} | ≤ 15 |\n\n\
         Medians of {rounds} rounds, on {cores} cores that both ends share.\n",
        number("direct_p50_us"),
        number("proxied_p50_us"),
        number("extra_p50_us"),
        number("bytes_per_watcher") / 1024.0,
        number("dm_p50_ms"),
        number("dm_p95_ms"),
    )
}
