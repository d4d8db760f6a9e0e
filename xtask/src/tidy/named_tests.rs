//! Checks that every test which a document names as proof exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents that name tests as proof.
const DOCUMENTS: &[&str] = &["docs/threat-model.md"];

/// Names of tests are sentences: shorter names are not tests.
const MIN_WORDS: usize = 4;

/// Returns tests that the documents name and no source defines.
pub(super) fn missing(root: &Path, sources: &[PathBuf]) -> Result<Vec<String>, String> {
    let mut functions = BTreeSet::new();
    for path in sources {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        functions.extend(text.lines().filter_map(function_name));
    }
    let mut complaints = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).map_err(|error| format!("{document}: {error}"))?;
        let named = tests_named_in(&text);
        if named.is_empty() {
            complaints.push(format!("{document}: names no test, so this check is broken"));
        }
        for name in named.difference(&functions) {
            complaints.push(format!("{document}: there is no test {name}"));
        }
    }
    Ok(complaints)
}

fn function_name(line: &str) -> Option<String> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("async ").unwrap_or(rest);
    // Python tests count too.
    let rest = rest.strip_prefix("fn ").or_else(|| rest.strip_prefix("def "))?;
    Some(rest.split(['(', '<']).next()?.to_owned())
}

/// Returns the last part of every path in backticks that looks like the name of a test.
fn tests_named_in(text: &str) -> BTreeSet<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|quoted| quoted.rsplit("::").next())
        .filter(|name| {
            let is_identifier = name
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            is_identifier && name.split('_').count() >= MIN_WORDS
        })
        .map(str::to_owned)
        .collect()
}
