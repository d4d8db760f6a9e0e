//! `demo`: several naras on this machine demonstrate every feature over real sockets.

mod dm;
mod gossip;
mod nara;
mod ping;
mod postcard;
mod refuse;
mod step;
mod sync;
mod v1;

use std::future::Future;
use std::time::{Duration, Instant};

use nara_proto::identity::KeyId;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use self::nara::{Mesh, NAMES};
use self::step::{Report, Step};
use crate::cli::DemoArgs;
use crate::connect::block_on_all_cores;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, human, micros, render, table};

/// Time limit for a step, and for stopping the naras. On an idle machine each takes a second at most; the
/// limit only ends a step that hangs.
const HANGS: Duration = Duration::from_secs(300);

pub(super) fn run(args: &DemoArgs, printer: Printer) -> Outcome {
    let folder = tempfile::tempdir()
        .map_err(|error| Failure::failed("no temporary folder can be created").caused_by(error))?;
    block_on_all_cores(async {
        let start = Instant::now();
        let count = usize::from(args.naras);
        let mesh = Mesh::start(&NAMES[..count], folder.path()).await?;
        print_naras(&mesh, printer)?;
        let mut show = Show {
            printer,
            reports: Vec::new(),
        };
        show.step(ping::STEP, ping::run(&mesh)).await?;
        show.step(sync::STEP, sync::run(&mesh, args.events)).await?;
        show.step(dm::STEP, dm::run(&mesh)).await?;
        show.step(postcard::STEP, postcard::run(&mesh)).await?;
        show.step(gossip::STEP, gossip::run(&mesh)).await?;
        show.step(v1::STEP, v1::run(&mesh)).await?;
        show.step(refuse::STEP, refuse::run(&mesh)).await?;
        let graceful = mesh.shutdown(HANGS).await;
        show.finish(count, graceful, start.elapsed())
    })
}

fn print_naras(mesh: &Mesh, printer: Printer) -> Outcome<()> {
    printer.line(format_args!(
        "{} naras on this machine, each with its own soul, port, server and ledger:\n",
        mesh.naras().len()
    ))?;
    let mut table = table(["NARA", "ADDRESS", "ID", "KEY ID"]);
    for nara in mesh.naras() {
        let id: String = nara.local.id().as_str().chars().take(12).collect();
        table.add_row([
            nara.name().to_owned(),
            nara.address.to_string(),
            format!("{id}…"),
            KeyId::from(&nara.local.public_key()).to_string(),
        ]);
    }
    printer.line(render(&table))
}

/// The output of `demo`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    ok: bool,
    naras: usize,
    graceful_shutdown: bool,
    elapsed_us: u64,
    steps: Vec<PrintedStep>,
}

/// A step and its outcome.
#[derive(Serialize, ToSchema)]
struct PrintedStep {
    name: String,
    ok: bool,
    summary: String,
    elapsed_us: u64,
    /// Measurements by name.
    #[schema(value_type = Object)]
    figures: Map<String, Value>,
}

/// Prints the steps as they finish, and collects their outcomes.
struct Show {
    printer: Printer,
    reports: Vec<(Step, Report, Duration)>,
}

impl Show {
    async fn step(&mut self, step: Step, running: impl Future<Output = Report>) -> Outcome<()> {
        let number = self.reports.len() + 1;
        self.printer.line(format_args!(
            "\n{} {}",
            format_args!("{number} {}", step.name).bold(),
            format_args!("· {}", step.title).dimmed()
        ))?;
        let start = Instant::now();
        let report = tokio::time::timeout(HANGS, running)
            .await
            .unwrap_or_else(|_| Report::failed(format!("not done within {} s", HANGS.as_secs())));
        for line in &report.lines {
            self.printer.line(format_args!("    {line}"))?;
        }
        let mark = if report.ok {
            "ok".green().bold().to_string()
        } else {
            "FAILED".red().bold().to_string()
        };
        self.printer.line(format_args!("  {mark}  {}", report.summary))?;
        self.reports.push((step, report, start.elapsed()));
        Ok(())
    }

    fn finish(self, naras: usize, graceful: bool, elapsed: Duration) -> Outcome {
        let ok = graceful && self.reports.iter().all(|(_, report, _)| report.ok);
        let mut table = table(["STEP", "OUTCOME", "TIME", "WHAT HAPPENED"]);
        for (step, report, took) in &self.reports {
            table.add_row([
                step.name.to_owned(),
                if report.ok { "ok" } else { "FAILED" }.to_owned(),
                human(*took),
                report.summary.clone(),
            ]);
        }
        self.printer.line(format_args!("\n{}\n", render(&table)))?;
        let verdict = if ok {
            "Every step passed.".green().bold().to_string()
        } else {
            "Some steps failed.".red().bold().to_string()
        };
        self.printer.line(format_args!("{verdict} {}", human(elapsed)))?;
        if !graceful {
            self.printer.warn("a nara did not shut down gracefully");
        }
        let steps: Vec<PrintedStep> = self
            .reports
            .iter()
            .map(|(step, report, took)| PrintedStep {
                name: step.name.to_owned(),
                ok: report.ok,
                summary: report.summary.clone(),
                elapsed_us: micros(*took),
                figures: report.figures.clone(),
            })
            .collect();
        self.printer.json(Printed {
            ok,
            naras,
            graceful_shutdown: graceful,
            elapsed_us: micros(elapsed),
            steps,
        })?;
        Ok(if ok { Exit::Ok } else { Exit::Failed })
    }
}
