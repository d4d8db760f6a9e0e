//! Tasks of this repository. `cargo xtask help` lists them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod api;
mod bench;
mod fuzz;
mod interop;
mod lab;
mod mutants;
mod package;
mod process;
mod results;
mod sans_io;
mod soak;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
usage: cargo xtask TASK

  api       compare the public names of the libraries with docs/api/ (option: --write writes them down)
  bench     measure this project beside the Go baseline in one run; writes target/bench/
            (options: --quick for a short run, --round-trips for round trips alone, a minute, --rounds N, --record to write the
            table into docs/results.md; or --memory for the memory of `serve` with 320,000 events, with --events N for others;
            or --peers for round trips beside iroh, libp2p and Go; or --local for what the local API costs, a minute, with
            --rounds N and --record)
  fuzz      feed every reader of a peer's bytes with bytes of its own making, for ten minutes each
            (options: --seconds N, --jobs N, --target NAME)
  interop   let OpenSSL and Go call our server over TLS, and our client call Go (needs openssl and go)
  lab       run naras of every kind on a tailnet of their own: a control server and a relay in namespaces without
            a way out; needs Go, no root (options: --headscale for a Headscale as control server, --bench for figures,
            --links for lines with delay, jitter and loss and for NATs, beside tsnet, --grade lan,home,mobile,bad,satellite,
            --only hard-easy,no-udp-easy for pairs of NATs,
            --soak for minutes of traffic with changes of keys, --seconds N, with --links on a line (--grade mobile) and with
            a nara that sleeps (--sleep SECONDS, 0: none; --sleeps N), --kinds embedded,managed,tsnet,
            --rounds N, --record to write the tables into docs/results.md)
  mutants   mutate the code that authenticates, and see whether a test notices
            (options: --part v2|v1|server|client, --file GLOB, --re REGEX, --shard K/N)
  package   make the Debian package, and install, start, upgrade and purge it on a machine of its own: Debian in a folder, in
            namespaces, with systemd; needs root, cargo-deb, mmdebstrap, promtool (options: --debug for a debug build,
            --release for one without LTO, --no-try to make it only, --check to check the unit, the alerts and the dashboard only)
  sans-io   check that nothing in the dependency tree of nara-proto knows clocks or sockets
  soak      seeded runs of cuts, delays, crashes and restarts (options: --runs N, --seed N)
  tidy      check rules of this repository that no other tool checks";

fn main() -> ExitCode {
    if let Some(outcome) = api::as_rustdoc() {
        return report(outcome);
    }
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match task.as_str() {
        "api" => api::run(&rest),
        "bench" => bench::run(&rest),
        "fuzz" => fuzz::run(&rest),
        "interop" => interop::run(&rest),
        "lab" => lab::run(&rest),
        "mutants" => mutants::run(&rest),
        "package" => package::run(&rest),
        "sans-io" => sans_io::run(),
        "soak" => soak::run(&rest),
        "tidy" => tidy::run(),
        "help" | "--help" | "" => {
            println!("{HELP}");
            Ok(())
        }
        other => Err(format!("there is no task {other:?}; see `cargo xtask help`")),
    };
    report(outcome)
}

fn report(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
