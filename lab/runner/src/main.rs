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
mod space;
mod table;
mod tsnet;

use std::path::PathBuf;
use std::process::ExitCode;

/// How the program was called.
struct Args {
    /// Where the Go programs are.
    programs: PathBuf,
    /// What to do: `scenarios`, `bench`, `links`, `soak`, or `nara` (a child of ours).
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
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("NARA_LAB_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off")),
        )
        .with_writer(std::io::stderr)
        .init();
    let Some(args) = args() else {
        eprintln!(
            "usage: nara-lab FOLDER-OF-PROGRAMS scenarios|bench|links|soak; run it with `cargo xtask lab`"
        );
        return ExitCode::from(2);
    };
    let outcome = match args.task.as_str() {
        "scenarios" => scenario::run(&args.programs, &args.rest).await,
        "bench" => bench::run(&args.programs, &args.rest).await,
        "links" => links::run(&args.programs, &args.rest).await,
        "soak" => scenario::soak(&args.programs, &args.rest).await,
        "nara" => nara::child(&args.rest).await,
        "bench-nara" => bench::child(&args.rest).await,
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
