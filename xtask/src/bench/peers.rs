//! Round trips of ours, iroh, libp2p, Go and the bare machine, in alternating rounds of one run.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::report::median;
use super::{build, measure, write};
use crate::{process, results};

/// Rounds of a run: odd, so that the median is a measured value.
const ROUNDS: usize = 3;
const REQUESTS: usize = 20_000;

/// A library to measure: its key in the report, its description, and its command.
struct Contender {
    key: &'static str,
    what: &'static str,
    program: Program,
    args: &'static [&'static str],
}

#[derive(Clone, Copy)]
enum Program {
    Ours,
    Peers,
    Go,
}

/// The limit that the others are compared with comes first.
const CONTENDERS: [Contender; 9] = [
    Contender {
        key: "bare_mtls",
        what: "bare hyper, HTTP/1.1 over TLS with client certificates",
        program: Program::Ours,
        args: &["signed", "--bare", "--tls"],
    },
    Contender {
        key: "bare",
        what: "bare hyper, plain HTTP/1.1",
        program: Program::Ours,
        args: &["signed", "--bare"],
    },
    Contender {
        key: "tls",
        what: "ours over TLS, requests signed",
        program: Program::Ours,
        args: &["signed", "--tls"],
    },
    Contender {
        key: "tls_handshake_only",
        what: "ours over TLS, with the handshake alone as proof, as iroh and libp2p have it",
        program: Program::Ours,
        args: &["signed", "--tls", "--handshake-only"],
    },
    Contender {
        key: "signed",
        what: "ours, signed v2 on plain HTTP",
        program: Program::Ours,
        args: &["signed"],
    },
    Contender {
        key: "iroh",
        what: "iroh: QUIC, one stream a request",
        program: Program::Peers,
        args: &["iroh"],
    },
    Contender {
        key: "libp2p_quic",
        what: "libp2p request-response: QUIC",
        program: Program::Peers,
        args: &["libp2p-quic"],
    },
    Contender {
        key: "libp2p_tcp",
        what: "libp2p request-response: TCP, Noise, Yamux",
        program: Program::Peers,
        args: &["libp2p-tcp"],
    },
    Contender {
        key: "go",
        what: "the Go baseline, signed as protocol v1 has it",
        program: Program::Go,
        args: &["signed", "--inner"],
    },
];

pub(super) fn run(args: &[String]) -> Result<(), String> {
    let record = match args {
        [] => false,
        [flag] if flag == "--record" => true,
        _ => return Err("bench --peers takes only --record".to_owned()),
    };
    let folder = process::root().join("target/bench");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let ours = build(&folder)?;
    let peers = build_peers()?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let mut figures = Map::new();
        for contender in &CONTENDERS {
            let program = match contender.program {
                Program::Ours => &ours.ours,
                Program::Peers => &peers,
                Program::Go => &ours.go,
            };
            figures.insert(contender.key.to_owned(), measured(program, contender.args)?);
        }
        rounds.push(figures);
    }
    let report = report(&rounds);
    let text = serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
    write(&folder.join("peers.json"), &(text + "\n"))?;
    let table = table(&report);
    println!("{table}");
    if record {
        results::record("peers", &table)?;
    }
    Ok(())
}

/// Builds the program with the other libraries, which has its own lock file.
fn build_peers() -> Result<PathBuf, String> {
    let manifest = process::root().join("benches/peers/Cargo.toml");
    let target = process::root().join("target/bench/peers");
    let mut build = process::cargo();
    build.args(["build", "--release", "--locked", "--manifest-path"]);
    process::run(build.arg(manifest).arg("--target-dir").arg(&target))?;
    Ok(target.join("release/nara-bench-peers"))
}

fn measured(program: &Path, args: &[&str]) -> Result<Value, String> {
    let (requests, warm_up) = (REQUESTS.to_string(), (REQUESTS / 10).to_string());
    let limits = ["--requests", &requests, "--in-flight", "16", "--warmup", &warm_up];
    let args: Vec<String> = args.iter().chain(&limits).map(|&arg| arg.to_owned()).collect();
    measure(program, &args)
}

/// Returns, for each contender, the medians over the rounds of its figures and of its ratios to the limit.
fn report(rounds: &[Map<String, Value>]) -> Value {
    let figure = |round: &Map<String, Value>, key: &str, what: &str| round[key][what].as_f64();
    let of = |key: &str, what: &str| {
        median(
            rounds
                .iter()
                .filter_map(|round| figure(round, key, what))
                .collect(),
        )
    };
    let ratio = |key: &str, to: &str| {
        median(
            rounds
                .iter()
                .filter_map(|round| Some(figure(round, key, "rps")? / figure(round, to, "rps")?))
                .collect(),
        )
    };
    let contenders: Map<String, Value> = CONTENDERS
        .iter()
        .map(|contender| {
            let key = contender.key;
            let figures = json!({
                "rps": of(key, "rps"),
                "p50_us": of(key, "p50_us"),
                "p99_us": of(key, "p99_us"),
                "cpu_us_per_round_trip": of(key, "cpu_us_per_round_trip"),
                "share_of_bare_mtls": ratio(key, "bare_mtls"),
            });
            (key.to_owned(), figures)
        })
        .collect();
    json!({
        "schema": "nara-mesh/bench-peers/1",
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "tls_share_of_bare_mtls": ratio("tls", "bare_mtls"),
        "tls_ratio_to_iroh": ratio("tls", "iroh"),
        "tls_handshake_only_ratio_to_iroh": ratio("tls_handshake_only", "iroh"),
        "ratio_to_go": ratio("signed", "go"),
        "contenders": contenders,
        "rounds": rounds,
    })
}

fn table(report: &Value) -> String {
    let mut table = String::from(
        "| what | round trips/s | share of bare TLS | p50 and p99, µs | processor time, µs |\n|---|---|---|---|---|\n",
    );
    for Contender { key, what, .. } in &CONTENDERS {
        let figures = &report["contenders"][key];
        let whole = |field: &str| {
            figures[field]
                .as_f64()
                .map_or_else(String::new, |figure| format!("{figure:.0}"))
        };
        let share = figures["share_of_bare_mtls"].as_f64();
        table += &format!(
            "| {what} | {} | {} | {} and {} | {} |\n",
            whole("rps"),
            share.map_or_else(String::new, |share| format!("{share:.2}")),
            whole("p50_us"),
            whole("p99_us"),
            whole("cpu_us_per_round_trip"),
        );
    }
    let ratio = |key: &str| report[key].as_f64().unwrap_or(f64::NAN);
    table
        + &format!(
            "\nOurs over TLS beside iroh: {:.2} (target 1.2), with the handshake alone as proof {:.2}; signed v2 beside Go: {:.2} (target 3). {} cores, which both ends share.\n",
            ratio("tls_ratio_to_iroh"),
            ratio("tls_handshake_only_ratio_to_iroh"),
            ratio("ratio_to_go"),
            report["cores"],
        )
}
