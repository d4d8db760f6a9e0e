//! The report of the checks.

use std::borrow::Cow;

use nara_local_api::model;
use owo_colors::OwoColorize as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, count};
use crate::{output, remedy};

/// The output of `doctor`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct Printed {
    checks: Vec<model::Check>,
    failed: usize,
    warnings: usize,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No problem.
    Ok,
    /// Possibly intended.
    Warning,
    /// Prevents this nara from talking to others.
    Failed,
    /// Not run, because a precondition is missing.
    Skipped,
}

impl From<Check> for model::Check {
    fn from(check: Check) -> Self {
        Self {
            what: check.what.into_owned(),
            result: check.verdict.as_str().to_owned(),
            found: check.found,
            why: check.why.into_owned(),
            next: check.next,
        }
    }
}

impl From<model::Check> for Check {
    fn from(check: model::Check) -> Self {
        Self {
            what: check.what.into(),
            verdict: match &*check.result {
                "ok" => Verdict::Ok,
                "warning" => Verdict::Warning,
                "skipped" => Verdict::Skipped,
                _ => Verdict::Failed,
            },
            found: check.found,
            why: check.why.into(),
            next: check.next,
        }
    }
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// The subject of the check.
    pub(super) what: Cow<'static, str>,
    pub(super) verdict: Verdict,
    /// The finding.
    pub(super) found: String,
    /// Why it matters.
    pub(super) why: Cow<'static, str>,
    /// What to do next.
    pub(super) next: Option<String>,
}

impl Check {
    pub(super) fn ok(what: &'static str, found: impl Into<String>, why: &'static str) -> Self {
        Self {
            what: what.into(),
            verdict: Verdict::Ok,
            found: found.into(),
            why: why.into(),
            next: None,
        }
    }

    /// Marks the check as failed, with what to do next.
    pub(super) fn failed(self, next: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failed,
            next: Some(next.into()),
            ..self
        }
    }

    /// Creates a failed check for something unusable. `next` applies if the failure has no hint.
    pub(super) fn not_usable(what: &'static str, failure: Failure, why: &'static str, next: &str) -> Self {
        let mut found = failure.causes();
        found.insert(0, failure.message);
        found.dedup();
        Self::ok(what, found.join(": "), why).failed(failure.hint.unwrap_or_else(|| next.to_owned()))
    }

    /// Marks the check as possibly intended, with what to do next.
    pub(super) fn warning(self, next: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warning,
            ..self.failed(next)
        }
    }

    /// Marks the check as not run.
    pub(super) fn skipped(self) -> Self {
        Self {
            verdict: Verdict::Skipped,
            ..self
        }
    }
}

/// The checks so far.
#[derive(Debug)]
pub(super) struct Report {
    /// `None` if the caller prints the checks.
    printer: Option<Printer>,
    checks: Vec<Check>,
}

impl Report {
    pub(super) fn new(printer: Option<Printer>) -> Self {
        Self {
            printer,
            checks: Vec::new(),
        }
    }

    /// Adds a check and prints it.
    pub(super) fn add(&mut self, mut check: Check) -> Outcome<()> {
        if let Some(printer) = self.printer {
            let next = check.next.as_deref();
            check.next = next.map(|next| remedy::for_the_same_nara(next).into_owned());
            print(&check, printer)?;
        }
        self.checks.push(check);
        Ok(())
    }

    /// Returns the checks, for the caller to print.
    pub(super) fn into_checks(self) -> Vec<model::Check> {
        self.checks.into_iter().map(Into::into).collect()
    }

    /// Prints the summary, and returns the exit code.
    pub(super) fn finish(self) -> Outcome {
        let number = |verdict| {
            self.checks
                .iter()
                .filter(|check| check.verdict == verdict)
                .count()
        };
        let failed = number(Verdict::Failed);
        let warnings = number(Verdict::Warning);
        let Some(printer) = self.printer else {
            return Ok(Exit::Ok);
        };
        printer.note(format_args!(
            "{}, {failed} failed, {}",
            count(self.checks.len(), "check"),
            count(warnings, "warning")
        ));
        let checks = self.checks.iter().map(|check| model::Check {
            what: check.what.to_string(),
            result: check.verdict.as_str().to_owned(),
            found: check.found.clone(),
            why: check.why.to_string(),
            next: check.next.clone(),
        });
        printer.json(Printed {
            checks: checks.collect(),
            failed,
            warnings,
        })?;
        Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
    }
}

/// Prints a check.
fn print(check: &Check, printer: Printer) -> Outcome<()> {
    let verdict = check.verdict.as_str();
    let shown = match check.verdict {
        Verdict::Ok => format!("{verdict:<8}").green().to_string(),
        Verdict::Warning => format!("{verdict:<8}").yellow().to_string(),
        Verdict::Failed => format!("{verdict:<8}").red().bold().to_string(),
        Verdict::Skipped => format!("{verdict:<8}").dimmed().to_string(),
    };
    printer.line(format_args!(
        "{shown} {:<14} {}",
        check.what,
        output::printable(&check.found)
    ))?;
    if matches!(check.verdict, Verdict::Warning | Verdict::Failed) {
        printer.line(format_args!("{:<24}why:  {}", "", check.why))?;
        if let Some(next) = &check.next {
            // On one line, because it contains commands to copy.
            printer.line(format_args!("{:<24}next: {}", "", output::printable(next)))?;
        }
    }
    Ok(())
}
