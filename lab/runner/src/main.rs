//! Naras of every kind on a tailnet of their own: a control server, a relay, and nothing of the outside.
//!
//! `cargo xtask lab` starts this program in namespaces of its own, where there is only the loopback device.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people at a terminal"
)]

mod bench;
mod daemon;
mod echo;
mod kind;
mod links;
mod nara;
mod network;
mod process;
mod program;
mod scenario;
mod settings;
mod space;
mod table;
mod tsnet;

use std::path::PathBuf;
use std::process::ExitCode;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How the program was called.
struct Args {
    /// Where the Go programs are.
    programs: PathBuf,
    /// What to do: `scenarios`, `bench`, `soak`, `links`, `links-…` for more on lines, or a child of ours.
    task: String,
    rest: Vec<String>,
}

fn args() -> Option<Args> {
    let mut args = std::env::args().skip(1);
    Some(Args {
        programs: args.next()?.into(),
        task: args.next()?,
        rest: args.collect(),
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let wanted = std::env::var("NARA_LAB_LOG").ok();
    let filter: Targets = wanted.and_then(|log| log.parse().ok()).unwrap_or_default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    let Some(args) = args() else {
        eprintln!(
            "usage: nara-lab FOLDER-OF-PROGRAMS scenarios|bench|soak|links|links-ways|links-trouble|links-soak; run it with `cargo xtask lab`"
        );
        return ExitCode::from(2);
    };
    let outcome = match args.task.as_str() {
        "scenarios" => scenario::run(&args.programs, &args.rest).await,
        "bench" => bench::run(&args.programs, &args.rest).await,
        "links" => links::run(&args.programs, &args.rest).await,
        "soak" => scenario::soak(&args.programs, &args.rest).await,
        "links-ways" => links::run_ways(&args.programs, &args.rest).await,
        "links-trouble" => links::trouble::run(&args.programs, &args.rest).await,
        "links-soak" => links::soak::run(&args.programs, &args.rest).await,
        "nara" => nara::child(&args.rest).await,
        "bench-nara" => bench::child(&args.rest).await,
        "side" => links::side::child(&args.rest).await,
        other => Err(format!("there is no task {other:?}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
