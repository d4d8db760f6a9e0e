//! Tasks of this repository. `cargo xtask help` lists them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for use at a terminal"
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
            (options: --quick for a short run, --round-trips for round trips only, a minute, --rounds N, --record to write the
            table into docs/results.md; or --memory for the memory of `serve` with 320,000 events, with --events N for others;
            or --peers for round trips beside iroh, libp2p and Go; or --local for what the local API costs, a minute, with
            --rounds N and --record)
  fuzz      fuzz every parser of peer input, for ten minutes each
            (options: --seconds N, --jobs N, --target NAME)
  interop   let OpenSSL and Go call our server over TLS, and our client call Go (needs openssl and go)
  lab       run naras of every kind on a private tailnet: a control server and a relay in namespaces without
            internet access; needs Go, no root (options: --headscale for a Headscale as control server, --bench for figures,
            --links for lines with delay, jitter and loss and for NATs, beside tsnet, --grade lan,home,mobile,bad,satellite,
            --only hard-easy,no-udp-easy for pairs of NATs, --ways for two machines in one network, IPv6 and narrow paths (--only
            one-lan,isolated,ipv6,mtu-1400,mtu-1280), --trouble for changes of the path and cuts,
            --soak for minutes of traffic with changes of keys, --seconds N, with --links on a line (--grade mobile) and with
            a nara that sleeps (--sleep SECONDS, 0: none; --sleeps N), --kinds embedded,managed,tsnet,
            --rounds N, --record to write the tables into docs/results.md)
  mutants   mutate the authentication code, and check that a test fails for each mutant
            (options: --part v2|v1|server|client, --file GLOB, --re REGEX, --shard K/N)
  package   build the Debian package, and install, start, upgrade and purge it in a container: Debian in a folder, in
            namespaces, with systemd; needs root, cargo-deb, mmdebstrap, promtool (options: --debug for a debug build,
            --release for one without LTO, --no-try to only build it, --check to only check the unit, the alerts and the dashboard)
  sans-io   check that no dependency of nara-proto uses clocks or sockets
  soak      seeded runs of cuts, delays, crashes and restarts (options: --runs N, --seed N)
  tidy      check the rules of this repository that no other tool checks";

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
