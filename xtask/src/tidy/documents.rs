//! Checks the size of the README, and that every link in a document leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A longer README is a manual: move the details to `docs/`.
const MAX_README: usize = 9 << 10;

/// Returns the problems of the Markdown files of this repository.
pub(super) fn complaints(
    root: &Path,
    documents: &[PathBuf],
    sources: &[PathBuf],
) -> Result<Vec<String>, String> {
    let mut complaints = Vec::new();
    for path in documents {
        let text = read(path)?;
        let name = path.strip_prefix(root).unwrap_or(path);
        if name == Path::new("README.md") && text.len() > MAX_README {
            let len = text.len();
            complaints.push(format!("README.md: {len} bytes, more than {MAX_README}"));
        }
        if name == Path::new("ARCHITECTURE.md") {
            let named = source_files_named_in(&text);
            let missing = named
                .iter()
                .filter(|file| !sources.iter().any(|source| source.ends_with(file)));
            complaints.extend(missing.map(|file| format!("ARCHITECTURE.md: there is no {file}")));
        }
        for link in links(&text) {
            if !leads_somewhere(path, &text, link)? {
                complaints.push(format!("{}: there is no {link}", name.display()));
            }
        }
    }
    Ok(complaints)
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Returns the Rust files in backticks, with `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn source_files_named_in(text: &str) -> Vec<String> {
    let quoted = prose(text).flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut files = Vec::new();
    for path in quoted.filter(|path| path.ends_with(".rs") && !path.contains('*')) {
        match path
            .split_once('{')
            .and_then(|(start, rest)| Some((start, rest.split_once('}')?)))
        {
            Some((start, (names, end))) => {
                files.extend(names.split(',').map(|name| format!("{start}{name}{end}")));
            }
            None => files.push(path.to_owned()),
        }
    }
    files
}

/// Returns whether the file of a link exists, and the heading in it.
fn leads_somewhere(document: &Path, text: &str, link: &str) -> Result<bool, String> {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    if file.is_empty() {
        return Ok(anchors(text).contains(anchor));
    }
    let target = document.with_file_name(file);
    if !target.exists() {
        return Ok(false);
    }
    Ok(anchor.is_empty() || anchors(&read(&target)?).contains(anchor))
}

/// Returns the relative links outside of code blocks.
fn links(text: &str) -> Vec<&str> {
    let targets = prose(text).flat_map(|line| line.split("](").skip(1));
    targets
        .filter_map(|rest| rest.split(')').next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .collect()
}

/// Returns the headings as anchors: lower case, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.replace(' ', "-");
            kept.chars()
                .filter(|kept| kept.is_alphanumeric() || matches!(kept, '-' | '_'))
                .collect()
        })
        .collect()
}

/// Returns the lines outside of fenced code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_to_its_file_and_heading() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/README.md");
        let text = "# Title\n\n## 4.3 Order, and `failures`\n";
        for (link, leads) in [
            ("#43-order-and-failures", true),
            ("#43-order", false),
            ("operate.md", true),
            ("../README.md#two-commands", true),
            ("../README.md#three-commands", false),
            ("nowhere.md", false),
        ] {
            assert_eq!(leads_somewhere(&document, text, link), Ok(leads), "{link}");
        }
    }

    #[test]
    fn links_are_the_relative_ones_outside_of_code() {
        let text =
            "[a](b.md) and ![c](d.svg), [e](https://example.org/f)\n```md\n[g](h.md)\n```\n| [i](j.md#k) |\n";
        assert_eq!(links(text), ["b.md", "d.svg", "j.md#k"]);
    }

    #[test]
    fn source_files_are_the_rust_files_in_back_ticks() {
        let text = "`a/b.rs` and c.rs, `x::y`, `d/*.rs`\n`e/{f,g}.rs`\n```\n`h.rs`\n```\n";
        assert_eq!(source_files_named_in(text), ["a/b.rs", "e/f.rs", "e/g.rs"]);
    }

    #[test]
    fn a_heading_in_code_is_no_anchor() {
        let text = "# One\n```sh\n# Two\n```\n";
        assert_eq!(anchors(text), BTreeSet::from(["one".to_owned()]));
    }
}
