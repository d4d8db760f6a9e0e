//! Measures this project, the Go baseline and the bare machine in alternating rounds of one run, and reports
//! ratios.

mod local;
mod memory;
mod peers;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::{process, results};

/// Rounds of a full run: odd, so that the median is a measured value.
const ROUNDS: usize = 5;

/// Resources per round trip. The program that counts allocations is slower, so it measures nothing else.
const CPU: &str = "cpu_us_per_round_trip";
const ALLOCATIONS: &str = "allocations_per_round_trip";

struct Settings {
    rounds: usize,
    /// Measures round trips only.
    round_trips_only: bool,
    requests: usize,
    sync_rounds: usize,
    large_ledger: usize,
    /// Events of the fetched ledger: the usual and the larger one.
    bulk: [usize; 2],
    /// Events of the compared ledgers: the usual and the larger ones.
    reconcile: [usize; 2],
    subscribers: usize,
    naras: &'static str,
    /// Servers for new connections.
    handshakes: usize,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some((first, rest)) = args.split_first() {
        match first.as_str() {
            "--local" => return local::run(rest),
            "--memory" => return memory::run(rest),
            "--peers" => return peers::run(rest),
            _ => {}
        }
    }
    let record = args.iter().any(|arg| arg == "--record");
    if record && args.iter().any(|arg| arg == "--round-trips") {
        return Err(
            "the recorded table needs all figures: --record and --round-trips exclude each other".to_owned(),
        );
    }
    let args: Vec<_> = args.iter().filter(|arg| *arg != "--record").cloned().collect();
    let settings = settings(&args)?;
    let folder = process::root().join("target/bench");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let programs = build(&folder)?;
    let page = folder.join("page.json");
    process::output(
        Command::new(&programs.go)
            .args(["make-page", "--events", "5000", "--emitters", "50", "--out"])
            .arg(&page),
    )?;

    let mut samples: Map<String, Value> = Map::new();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        // Ours and theirs alternate within a round, so that a change of the machine's speed affects both.
        for (key, field, program, args) in measurements(&programs, &settings, &page) {
            let figures = measure(program, &args)?;
            for (key, field) in [
                (key, field),
                (&format!("{key}.p50_us"), "p50_us"),
                (&format!("{key}.p99_us"), "p99_us"),
                (&format!("{key}.cpu_us"), CPU),
                (&format!("{key}.future_bytes"), "future_bytes"),
            ] {
                if let Some(value) = figures[field].as_f64() {
                    let list = samples.entry(key).or_insert_with(|| json!([]));
                    list.as_array_mut().expect("made as a list").push(json!(value));
                }
            }
        }
    }
    let once = if settings.round_trips_only {
        json!({})
    } else {
        measure_once(&programs, &settings, &page)?
    };
    let report = report::report(&samples, &once);
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    write(&folder.join("report.json"), &(text + "\n"))?;
    let table = report::table(&report);
    write(&folder.join("report.md"), &table)?;
    println!("{table}");
    if record {
        results::record("figures", &table)?;
    }
    Ok(())
}

fn settings(args: &[String]) -> Result<Settings, String> {
    let mut settings = Settings {
        rounds: ROUNDS,
        round_trips_only: false,
        requests: 60_000,
        sync_rounds: 10,
        large_ledger: 1_000_000,
        bulk: [320_000, 1_000_000],
        reconcile: [50_000, 1_000_000],
        subscribers: 1_000,
        naras: "100,1000,10000",
        handshakes: 500,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => {
                settings = Settings {
                    rounds: 1,
                    round_trips_only: false,
                    requests: 10_000,
                    sync_rounds: 2,
                    large_ledger: 100_000,
                    bulk: [50_000, 100_000],
                    reconcile: [50_000, 100_000],
                    subscribers: 100,
                    naras: "100,1000",
                    handshakes: 100,
                }
            }
            "--round-trips" => {
                settings.round_trips_only = true;
                settings.rounds = 3;
                settings.requests = 20_000;
            }
            "--rounds" => {
                let rounds = args
                    .next()
                    .and_then(|rounds| rounds.parse().ok())
                    .filter(|rounds| *rounds > 0);
                settings.rounds = rounds.ok_or("--rounds takes a number from 1 on")?;
            }
            other => {
                return Err(format!(
                    "bench does not know {other:?}; it takes --quick, --round-trips, --rounds N and --record, or --local, --memory or --peers as the first argument"
                ));
            }
        }
    }
    Ok(settings)
}

struct Programs {
    ours: PathBuf,
    /// The same program with a counting allocator.
    counting: PathBuf,
    go: PathBuf,
}

fn build(folder: &Path) -> Result<Programs, String> {
    let go = folder.join("go-baseline");
    let source = process::root().join("benches/go-baseline");
    process::run(
        Command::new("go")
            .current_dir(source)
            .args(["build", "-o"])
            .arg(&go)
            .arg("."),
    )
    .map_err(|error| format!("{error}\nthe bench needs Go 1.25 or newer to build its baseline"))?;
    // Built like a release. Without naming a package: then it has the features of the workspace, and reuses
    // the dependencies of the program.
    let programs = ["--bin", "nara-bench", "--bin", "nara-bench-allocations"];
    process::run(
        process::cargo()
            .args(["build", "--profile", "dist", "--locked"])
            .env("RUSTFLAGS", process::DIST_FLAGS)
            .args(programs),
    )?;
    Ok(Programs {
        ours: process::target().join("dist/nara-bench"),
        counting: process::target().join("dist/nara-bench-allocations"),
        go,
    })
}

type Measurement<'a> = (&'static str, &'static str, &'a Path, Vec<String>);

fn measurements<'a>(programs: &'a Programs, settings: &Settings, page: &Path) -> Vec<Measurement<'a>> {
    let of = |requests: usize, extra: &[&str]| {
        let (requests, warm_up) = (requests.to_string(), (requests / 10).to_string());
        let mut args: Vec<String> = [
            "signed",
            "--requests",
            &requests,
            "--in-flight",
            "16",
            "--warmup",
            &warm_up,
        ]
        .map(str::to_owned)
        .into();
        args.extend(extra.iter().map(|&arg| arg.to_owned()));
        args
    };
    let exchange = |extra: &[&str]| of(settings.requests, extra);
    // A count does not become more precise with more requests.
    let counted = |extra: &[&str]| of(settings.requests / 10, extra);
    let rounds = settings.sync_rounds.to_string();
    let page = page.display().to_string();
    let sync = |cores: &str| {
        ["sync", "--page", &page, "--rounds", &rounds, "--cores", cores]
            .map(str::to_owned)
            .to_vec()
    };
    let (ours, go) = (programs.ours.as_path(), programs.go.as_path());
    let counting = programs.counting.as_path();
    let mut all = vec![
        ("bare", "rps", ours, exchange(&["--bare"])),
        ("signed", "rps", ours, exchange(&[])),
        ("bare_mtls", "rps", ours, exchange(&["--bare", "--tls"])),
        ("tls", "rps", ours, exchange(&["--tls"])),
        (
            "tls_handshake_only",
            "rps",
            ours,
            exchange(&["--tls", "--handshake-only"]),
        ),
        ("bare.allocations", ALLOCATIONS, counting, counted(&["--bare"])),
        ("signed.allocations", ALLOCATIONS, counting, counted(&[])),
        (
            "bare_mtls.allocations",
            ALLOCATIONS,
            counting,
            counted(&["--bare", "--tls"]),
        ),
        ("tls.allocations", ALLOCATIONS, counting, counted(&["--tls"])),
        (
            "tls_handshake_only.allocations",
            ALLOCATIONS,
            counting,
            counted(&["--tls", "--handshake-only"]),
        ),
        ("go_signed", "rps", go, exchange(&["--inner"])),
        ("go_signed_without_inner", "rps", go, exchange(&[])),
        ("unsigned", "rps", ours, exchange(&["--unsigned"])),
        ("go_unsigned", "rps", go, exchange(&["--unsigned"])),
    ];
    if settings.round_trips_only {
        return all;
    }
    all.extend([
        ("sync_one_core", "events_per_s", ours, sync("1")),
        ("go_sync_one_core", "events_per_s", go, sync("1")),
        ("sync_all_cores", "events_per_s", ours, sync("all")),
        ("go_sync_all_cores", "events_per_s", go, sync("all")),
    ]);
    all
}

fn measure(program: &Path, args: &[String]) -> Result<Value, String> {
    let output = process::output(Command::new(program).args(args))?;
    serde_json::from_str(&output).map_err(|error| format!("{}: {error}: {output}", program.display()))
}

/// Measurements that run once, because they take long or have no counterpart.
fn measure_once(programs: &Programs, settings: &Settings, page: &Path) -> Result<Value, String> {
    let ours = |args: &[&str]| {
        eprintln!("{}", args.join(" "));
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        measure(&programs.ours, &args)
    };
    let page = page.display().to_string();
    let fetch: Vec<String> = ["fetch", "--rounds", "64", "--cores", "1", "--page", &page]
        .map(str::to_owned)
        .into();
    let plot = process::root().join("docs/gossip.svg").display().to_string();
    let [bulk, large_bulk] = settings.bulk.map(|events| events.to_string());
    let [reconcile, large_reconcile] = settings.reconcile.map(|events| events.to_string());
    Ok(json!({
        "handshake": ours(&["handshake", "--servers", &settings.handshakes.to_string()])?,
        "go_fetch_before": measure(&programs.go, &fetch)?,
        "bulk": ours(&["bulk", "--events", &bulk])?,
        "go_fetch_after": measure(&programs.go, &fetch)?,
        "bulk_large": ours(&["bulk", "--events", &large_bulk])?,
        "reconcile": ours(&["reconcile", "--events", &reconcile])?,
        "reconcile_large": ours(&["reconcile", "--events", &large_reconcile])?,
        "stream": ours(&["stream", "--subscribers", &settings.subscribers.to_string()])?,
        "gossip": ours(&["gossip", "--naras", settings.naras, "--plot", &plot])?,
        "store": ours(&["store", "--large", &settings.large_ledger.to_string()])?,
    }))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
