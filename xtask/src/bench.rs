//! Measures this project beside the Go baseline, in one run and alternating rounds, and reports ratios.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::process;

/// Rounds of a full run: odd, so that the median is a measured value.
const ROUNDS: usize = 5;

struct Settings {
    rounds: usize,
    requests: usize,
    sync_rounds: usize,
    large_ledger: usize,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let settings = settings(args)?;
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
        // Ours and theirs alternate within a round, so that a change of the machine's pace hits both.
        for (key, field, program, args) in measurements(&programs, &settings, &page) {
            let figures = measure(program, &args)?;
            for (key, field) in [
                (key, field),
                (&format!("{key}.p50_us"), "p50_us"),
                (&format!("{key}.p99_us"), "p99_us"),
            ] {
                if let Some(value) = figures[field].as_f64() {
                    let list = samples.entry(key).or_insert_with(|| json!([]));
                    list.as_array_mut().expect("made as a list").push(json!(value));
                }
            }
        }
    }
    let single = measure(
        &programs.ours,
        &[
            "store".into(),
            "--large".into(),
            settings.large_ledger.to_string(),
        ],
    )?;
    let report = report(&samples, &single);
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    write(&folder.join("report.json"), &(text + "\n"))?;
    let table = table(&report);
    write(&folder.join("report.md"), &table)?;
    println!("{table}");
    Ok(())
}

fn settings(args: &[String]) -> Result<Settings, String> {
    let mut settings = Settings {
        rounds: ROUNDS,
        requests: 60_000,
        sync_rounds: 10,
        large_ledger: 1_000_000,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => {
                settings = Settings {
                    rounds: 1,
                    requests: 10_000,
                    sync_rounds: 2,
                    large_ledger: 100_000,
                }
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
                    "bench does not know {other:?}; it takes --quick and --rounds N"
                ));
            }
        }
    }
    Ok(settings)
}

struct Programs {
    ours: PathBuf,
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
    process::run(process::cargo().args(["build", "--release", "--locked", "--package", "nara-bench"]))?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| process::root().join("target"), PathBuf::from);
    Ok(Programs {
        ours: target.join("release/nara-bench"),
        go,
    })
}

type Measurement<'a> = (&'static str, &'static str, &'a Path, Vec<String>);

fn measurements<'a>(programs: &'a Programs, settings: &Settings, page: &Path) -> Vec<Measurement<'a>> {
    let requests = settings.requests.to_string();
    let warm_up = (settings.requests / 10).to_string();
    let exchange = |extra: &[&str]| {
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
    let rounds = settings.sync_rounds.to_string();
    let page = page.display().to_string();
    let sync = |cores: &str| {
        ["sync", "--page", &page, "--rounds", &rounds, "--cores", cores]
            .map(str::to_owned)
            .to_vec()
    };
    let (ours, go) = (programs.ours.as_path(), programs.go.as_path());
    vec![
        ("signed", "rps", ours, exchange(&[])),
        ("go_signed", "rps", go, exchange(&["--inner"])),
        ("unsigned", "rps", ours, exchange(&["--unsigned"])),
        ("go_unsigned", "rps", go, exchange(&["--unsigned"])),
        ("sync_one_core", "events_per_s", ours, sync("1")),
        ("go_sync_one_core", "events_per_s", go, sync("1")),
        ("sync_all_cores", "events_per_s", ours, sync("all")),
        ("go_sync_all_cores", "events_per_s", go, sync("all")),
    ]
}

fn measure(program: &Path, args: &[String]) -> Result<Value, String> {
    let output = process::output(Command::new(program).args(args))?;
    serde_json::from_str(&output).map_err(|error| format!("{}: {error}: {output}", program.display()))
}

fn median(samples: &Map<String, Value>, key: &str) -> f64 {
    let mut values: Vec<f64> = samples
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of the ratios of each round: less noisy than the ratio of medians.
fn ratio(samples: &Map<String, Value>, ours: &str, theirs: &str) -> f64 {
    let list = |key: &str| {
        samples
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut ratios: Vec<f64> = list(ours)
        .iter()
        .zip(&list(theirs))
        .filter_map(|(ours, theirs)| Some(ours.as_f64()? / theirs.as_f64()?))
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(samples: &Map<String, Value>, single: &Value) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "schema": "nara-mesh/bench/1",
        "cores": cores,
        "signed_rps": median(samples, "signed"),
        "signed_p50_us": median(samples, "signed.p50_us"),
        "signed_p99_us": median(samples, "signed.p99_us"),
        "go_signed_rps": median(samples, "go_signed"),
        "go_signed_p50_us": median(samples, "go_signed.p50_us"),
        "go_signed_p99_us": median(samples, "go_signed.p99_us"),
        "ratio_to_go": ratio(samples, "signed", "go_signed"),
        "p99_ratio_to_go": ratio(samples, "signed.p99_us", "go_signed.p99_us"),
        "unsigned_rps": median(samples, "unsigned"),
        "go_unsigned_rps": median(samples, "go_unsigned"),
        "unsigned_ratio_to_go": ratio(samples, "unsigned", "go_unsigned"),
        "sync_events_per_s": median(samples, "sync_all_cores"),
        "sync_events_per_s_one_core": median(samples, "sync_one_core"),
        "go_sync_events_per_s": median(samples, "go_sync_all_cores"),
        "go_sync_events_per_s_one_core": median(samples, "go_sync_one_core"),
        "sync_ratio_to_go": ratio(samples, "sync_all_cores", "go_sync_all_cores"),
        "sync_ratio_to_go_per_core": ratio(samples, "sync_one_core", "go_sync_one_core"),
        "store": single,
        "samples": samples,
    })
}

fn table(report: &Value) -> String {
    let number = |key: &str| report.pointer(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let mut text = String::from("| figure | here | Go baseline | ratio | target |\n|---|---|---|---|---|\n");
    let mut row = |name: &str, ours: String, go: String, ratio: String, target: &str| {
        let _ = writeln!(text, "| {name} | {ours} | {go} | {ratio} | {target} |");
    };
    let whole = |value: f64| format!("{value:.0}");
    let times = |value: f64| format!("{value:.2}");
    row(
        "signed round trips, per second",
        whole(number("/signed_rps")),
        whole(number("/go_signed_rps")),
        times(number("/ratio_to_go")),
        "≥ 3",
    );
    row(
        "… p50, µs",
        whole(number("/signed_p50_us")),
        whole(number("/go_signed_p50_us")),
        String::new(),
        "",
    );
    row(
        "… p99, µs",
        whole(number("/signed_p99_us")),
        whole(number("/go_signed_p99_us")),
        times(number("/p99_ratio_to_go")),
        "≤ 0.5",
    );
    row(
        "unsigned round trips, per second",
        whole(number("/unsigned_rps")),
        whole(number("/go_unsigned_rps")),
        times(number("/unsigned_ratio_to_go")),
        "",
    );
    row(
        "verified sync events per second, one core",
        whole(number("/sync_events_per_s_one_core")),
        whole(number("/go_sync_events_per_s_one_core")),
        times(number("/sync_ratio_to_go_per_core")),
        "≥ 8",
    );
    row(
        "verified sync events per second, all cores",
        whole(number("/sync_events_per_s")),
        whole(number("/go_sync_events_per_s")),
        times(number("/sync_ratio_to_go")),
        "",
    );
    let page_ratio = number("/store/ledger_page_large_us") / number("/store/ledger_page_small_us");
    row(
        "ledger page of 1,000, small and large ledger, µs",
        format!(
            "{:.0} and {:.0}",
            number("/store/ledger_page_small_us"),
            number("/store/ledger_page_large_us")
        ),
        String::new(),
        times(page_ratio),
        "≤ 1.5",
    );
    row(
        "ledger insert, events per second",
        whole(number("/store/ledger_insert_per_s")),
        String::new(),
        String::new(),
        "",
    );
    row(
        "registry lookup, 10 and 100,000 peers, ns",
        format!(
            "{:.0} and {:.0}",
            number("/store/registry_lookup_10_ns"),
            number("/store/registry_lookup_100000_ns")
        ),
        String::new(),
        String::new(),
        "",
    );
    row(
        "memory per registered peer, bytes",
        whole(number("/store/registry_bytes_per_peer")),
        String::new(),
        String::new(),
        "",
    );
    row(
        "replay cache, insert into 100,000, ns",
        whole(number("/store/replay_insert_ns")),
        String::new(),
        String::new(),
        "",
    );
    let _ = writeln!(
        text,
        "\n{} cores, both ends of a round trip in one process.",
        number("/cores")
    );
    text
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
