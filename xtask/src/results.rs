//! Writes tables of measurements into `docs/results.md`.

use std::fs;

use crate::process;

/// Writes `table` between the comments `<!-- NAME -->` and `<!-- /NAME -->` of the document.
pub(crate) fn record(name: &str, table: &str) -> Result<(), String> {
    let path = process::root().join("docs/results.md");
    let failed = |error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(failed)?;
    fs::write(&path, replaced(&text, name, table)?).map_err(failed)
}

/// Merges the rows of `table` into the table of that name: a row replaces the one with the same first cells.
pub(crate) fn record_rows(name: &str, table: &str, cells: usize) -> Result<(), String> {
    let path = process::root().join("docs/results.md");
    let failed = |error| format!("{}: {error}", path.display());
    // Programs that ran side by side may end at the same moment.
    let file = fs::File::open(&path).map_err(failed)?;
    file.lock().map_err(failed)?;
    let text = fs::read_to_string(&path).map_err(failed)?;
    let old = text
        .split_once(&format!("<!-- {name} -->\n"))
        .and_then(|(_, rest)| rest.split_once(&format!("<!-- /{name} -->")))
        .map_or("", |(old, _)| old);
    record(name, &merged(old, table, cells))
}

/// The marker of a failed measurement.
const FAILED: &str = "**failed**";

/// Merges the tables. A new row is placed after those with the same first cell; a failed one replaces no
/// figures.
fn merged(old: &str, new: &str, cells: usize) -> String {
    let key = |row: &str, cells: usize| -> Vec<String> {
        let cells = row.split('|').skip(1).take(cells);
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    let mut new = new.trim().lines();
    let head: Vec<_> = new.by_ref().take(2).collect();
    let mut rows: Vec<_> = old.trim().lines().skip(head.len()).collect();
    for row in new {
        if let Some(same) = rows.iter_mut().find(|old| key(old, cells) == key(row, cells)) {
            if !row.contains(FAILED) {
                *same = row;
            }
        } else {
            let last = rows.iter().rposition(|old| key(old, 1) == key(row, 1));
            rows.insert(last.map_or(rows.len(), |last| last + 1), row);
        }
    }
    [head, rows].concat().join("\n")
}

fn replaced(text: &str, name: &str, table: &str) -> Result<String, String> {
    let missing = || format!("docs/results.md has no place for {name}");
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_its_predecessor() {
        let text = "a\n<!-- x -->\n\nold\n\n<!-- /x -->\nb\n";
        let expected = "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n";
        assert_eq!(replaced(text, "x", "new\n").as_deref(), Ok(expected));
        assert_eq!(replaced(expected, "x", "new").as_deref(), Ok(expected));
        assert!(replaced(text, "y", "new").is_err());
    }

    #[test]
    fn a_row_takes_the_place_of_the_one_with_the_same_first_cells() {
        let old = "| a | b | c |\n|---|---|---|\n| x | 1 | old |\n| x | 2 | old |\n| y | 1 | old |\n";
        let new = "| a | b | c |\n|---|---|---|\n| x | 2 | new |\n| z | 1 | new |\n| x | 3 | new |\n";
        let expected = [
            "| a | b | c |",
            "|---|---|---|",
            "| x | 1 | old |",
            "| x | 2 | new |",
            "| x | 3 | new |",
            "| y | 1 | old |",
            "| z | 1 | new |",
        ];
        assert_eq!(merged(old, new, 2), expected.join("\n"));
        let of_new = [0, 1, 3, 4, 6].map(|n| expected[n]);
        assert_eq!(merged("", new, 2), of_new.join("\n"));
        let failed = format!("{new}| x | 1 | **failed** |\n");
        assert_eq!(merged(old, &failed, 2), expected.join("\n"));
    }

    #[test]
    fn every_table_has_its_place() {
        let path = process::root().join("docs/results.md");
        let text = fs::read_to_string(path).expect("the document exists");
        for name in [
            "figures",
            "peers",
            "local",
            "scenarios",
            "headscale",
            "speed",
            "links",
            "links-ways",
            "links-trouble",
        ] {
            assert!(replaced(&text, name, "").is_ok(), "{name}");
        }
    }
}
