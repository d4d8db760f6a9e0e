//! What was run, and what came out.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// Rows are scenarios, columns are pairs or kinds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<String>,
    cells: BTreeMap<(usize, String), Cell>,
    columns: Vec<String>,
    failures: usize,
}

#[derive(Debug)]
struct Cell {
    text: String,
}

impl Table {
    /// Runs one check within its time limit, says how it went, and notes it. The text of a check that holds is what it
    /// measured.
    pub(crate) async fn check(
        &mut self,
        row: &str,
        column: &str,
        limit: Duration,
        check: impl Future<Output = Result<String, String>>,
    ) {
        let begin = Instant::now();
        let outcome = match timeout(limit, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("not done within {limit:?}")),
        };
        let took = begin.elapsed();
        match &outcome {
            Ok(measured) => println!("ok    {row:<34} {column:<22} {measured} ({took:.1?})"),
            Err(why) => println!("FAIL  {row:<34} {column:<22} {why} ({took:.1?})"),
        }
        let text = match outcome {
            Ok(measured) => measured,
            Err(_) => {
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
        self.cells.insert((at, column.to_owned()), Cell { text });
    }

    /// The table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("| scenario | {} |\n", self.columns.join(" | "));
        text.push_str(&"|---".repeat(self.columns.len() + 1));
        text.push_str("|\n");
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<_> = self
                .columns
                .iter()
                .map(|column| {
                    self.cells
                        .get(&(at, column.clone()))
                        .map_or("", |cell| cell.text.as_str())
                })
                .collect();
            text.push_str(&format!("| {row} | {} |\n", cells.join(" | ")));
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
