//! Rounds of measurements and their table, with a row for each place and kind of node, compared with tsnet.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Instant;

use super::grade::{GRADES, Grade};
use crate::kind::Kind;

/// The kind that others are compared with.
const STANDARD: Kind = Kind::Tsnet;

/// The results in one row.
pub(super) trait Figures: Debug + Sized {
    /// The headings after the place and the kind.
    const COLUMNS: &[&str];

    /// Returns the cells for at least one round. `standard` is `None` in the row of the standard itself, or if it was
    /// not measured.
    fn cells(all: &[Self], standard: Option<&[Self]>) -> Vec<String>;
}

/// Returns the ratio as text; above 1, the first value is larger.
pub(super) fn ratio(above: Option<f64>, below: Option<f64>) -> String {
    match (above, below) {
        (Some(above), Some(below)) if below > 0.0 => format!("{:.2}", above / below),
        _ => "–".to_owned(),
    }
}

/// The options `--grade a,b`, `--only a,b` for other row names, `--kinds a,b`, `--rounds N`, and `--file PATH` for the
/// table.
pub(super) struct Options<'a> {
    pub(super) grades: Vec<Grade>,
    only: Option<Vec<&'a str>>,
    kinds: Vec<Kind>,
    rounds: u64,
    file: Option<&'a str>,
}

impl<'a> Options<'a> {
    pub(super) fn parse(args: &'a [String]) -> Result<Self, String> {
        let mut options = Self {
            grades: GRADES.to_vec(),
            only: None,
            kinds: Kind::ALL.to_vec(),
            rounds: 1,
            file: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
            let is_wanted = |name: &str| value.split(',').any(|wanted| wanted == name);
            match arg.as_str() {
                "--grade" => options.grades.retain(|grade| is_wanted(grade.name)),
                "--only" => options.only = Some(value.split(',').collect()),
                "--kinds" => options.kinds.retain(|kind| is_wanted(&kind.to_string())),
                "--rounds" => {
                    options.rounds = value.parse().map_err(|_| "--rounds takes a number".to_owned())?;
                }
                "--file" => options.file = Some(value),
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        options.kinds.sort_by_key(|kind| *kind != STANDARD);
        Ok(options)
    }

    /// Returns whether `--only` selects this name: `no-udp-easy` stands for `no UDP – easy`.
    pub(super) fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase().replace(" – ", "-").replace(' ', "-");
        self.only.as_ref().is_none_or(|only| only.contains(&&*name))
    }
}

/// The results by row and kind; empty if all measurements failed.
type Found<F> = BTreeMap<(usize, Kind), Vec<F>>;

/// Measures all rows and prints the table. The file is updated after each measurement. `heads` are the headings of the
/// row names.
pub(super) async fn run<F: Figures>(
    options: &Options<'_>,
    heads: &[&str],
    rows: &[Vec<String>],
    measure: impl AsyncFn(usize, Kind, u64) -> Result<F, String>,
) -> Result<(), String> {
    if rows.is_empty() || options.kinds.is_empty() {
        return Err("the options select no row".to_owned());
    }
    let mut found: Found<F> = BTreeMap::new();
    let mut failures = 0;
    for round in 0..options.rounds {
        for (n, row) in rows.iter().enumerate() {
            // Alternate the kinds, so that a change in the speed of the machine affects all of them.
            for kind in &options.kinds {
                let begin = Instant::now();
                let measured = measure(n, *kind, round * 1000 + n as u64).await;
                println!("{} {kind} {:.0?} {measured:?}", row.join(", "), begin.elapsed());
                failures += usize::from(measured.is_err());
                found.entry((n, *kind)).or_default().extend(measured);
                if let Some(file) = options.file {
                    std::fs::write(file, table(options, heads, rows, &found))
                        .map_err(|error| format!("{file}: {error}"))?;
                }
            }
        }
    }
    println!("\n{}", table(options, heads, rows, &found));
    match failures {
        0 => Ok(()),
        failures => Err(format!("{failures} measurements failed")),
    }
}

/// Returns the table of all results so far.
fn table<F: Figures>(
    options: &Options<'_>,
    heads: &[&str],
    rows: &[Vec<String>],
    found: &Found<F>,
) -> String {
    let heads = [heads, &["nodes"], F::COLUMNS].concat();
    let mut text = format!("| {} |\n{}|\n", heads.join(" | "), "|---".repeat(heads.len()));
    for (n, row) in rows.iter().enumerate() {
        let measured = |kind| found.get(&(n, kind));
        let standard = measured(STANDARD).filter(|all| !all.is_empty());
        for kind in &options.kinds {
            let Some(all) = measured(*kind) else { continue };
            let cells = if all.is_empty() {
                let mut cells = vec![String::new(); F::COLUMNS.len()];
                cells[0] = "**failed**".to_owned();
                cells
            } else {
                F::cells(all, standard.filter(|_| *kind != STANDARD).map(Vec::as_slice))
            };
            let row = [row.as_slice(), &[kind.to_string()], &cells].concat();
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
    }
    text
}
