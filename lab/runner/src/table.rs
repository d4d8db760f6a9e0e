//! The table of checks and their outcomes.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::kind::Kind;

/// The separator of the two kinds of a pair.
pub(crate) const TO: &str = " → ";

/// The measurement of a check, or the reason for its failure.
pub(crate) type Outcome = Result<String, String>;

/// A table of outcomes: rows are scenarios, columns are kinds or pairs of kinds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(usize, String), String>,
    left_out: Vec<(String, String)>,
    failures: usize,
}

/// Runs a check within its time limit.
pub(crate) async fn within(limit: Duration, check: impl Future<Output = Outcome>) -> Outcome {
    match timeout(limit, check).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not done within {limit:?}")),
    }
}

impl Table {
    /// Runs one check within its time limit and records its outcome.
    pub(crate) async fn check(
        &mut self,
        row: &str,
        column: &str,
        limit: Duration,
        check: impl Future<Output = Outcome>,
    ) {
        let begin = Instant::now();
        let outcome = within(limit, check).await;
        println!("      {:.1?}", begin.elapsed());
        self.note(row, column, outcome);
    }

    /// Records and prints the outcome of a check.
    pub(crate) fn note(&mut self, row: &str, column: &str, outcome: Outcome) {
        let text = match outcome {
            Ok(measured) => {
                println!("ok    {row:<42} {column:<22} {measured}");
                measured
            }
            Err(why) => {
                println!("FAIL  {row:<42} {column:<22} {why}");
                self.failures += 1;
                "**failed**".to_owned()
            }
        };
        let at = self
            .rows
            .iter()
            .position(|known| known == row)
            .unwrap_or_else(|| {
                self.rows.push(row.to_owned());
                self.rows.len() - 1
            });
        if !self.columns.iter().any(|known| known == column) {
            self.columns.push(column.to_owned());
        }
        self.cells.insert((at, column.to_owned()), text);
    }

    /// Records that a scenario is not run, with the reason.
    pub(crate) fn left_out(&mut self, row: &str, why: &str) {
        println!("left out  {row}: {why}");
        self.left_out.push((row.to_owned(), why.to_owned()));
    }

    /// Formats the tables as Markdown: pairs, pairs with the daemon of a machine, kinds; and lists the scenarios left
    /// out.
    pub(crate) fn markdown(&self) -> String {
        let machine = Kind::Tailscaled.to_string();
        let (pairs, kinds): (Vec<_>, Vec<_>) = self.columns.iter().partition(|column| column.contains(TO));
        let (with_machine, pairs): (Vec<_>, Vec<_>) = pairs
            .into_iter()
            .partition(|column| column.split(TO).any(|kind| kind == machine));
        let mut text = String::new();
        for columns in [pairs, with_machine, kinds] {
            if !columns.is_empty() {
                text.push_str(&self.of_columns(&columns));
                text.push('\n');
            }
        }
        for (row, why) in &self.left_out {
            text.push_str(&format!("Left out: {row} ({why}).\n"));
        }
        text
    }

    fn of_columns(&self, columns: &[&String]) -> String {
        let names: Vec<_> = columns.iter().map(|column| column.as_str()).collect();
        let mut text = format!(
            "| | {} |\n{}|\n",
            names.join(" | "),
            "|---".repeat(columns.len() + 1)
        );
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<_> = columns
                .iter()
                .map(|column| {
                    self.cells
                        .get(&(at, (*column).clone()))
                        .map_or("", String::as_str)
                })
                .collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
            }
        }
        text
    }

    pub(crate) fn into_outcome(self) -> Result<(), String> {
        match self.failures {
            0 => Ok(()),
            failures => Err(format!("{failures} checks failed")),
        }
    }
}
