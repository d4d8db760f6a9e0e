//! A document that names a test as proof is wrong when there is no such test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Documents whose claims are shown by tests.
const DOCUMENTS: &[&str] = &["docs/threat-model.md"];

/// The name of a test is a sentence: names of fewer words are something else.
const MIN_WORDS: usize = 4;

/// What the documents name and no source defines.
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
    // Tests in Python count, too.
    let rest = rest.strip_prefix("fn ").or_else(|| rest.strip_prefix("def "))?;
    Some(rest.split(['(', '<']).next()?.to_owned())
}

/// The last part of every path in back ticks that reads like the name of a test.
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
