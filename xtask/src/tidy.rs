//! The rules of this repository that no other tool checks.

mod documents;
mod named_tests;

use std::fs;
use std::path::{Path, PathBuf};

use crate::process;

/// The most lines of a file.
const MAX_LINES: usize = 600;

pub(crate) fn run() -> Result<(), String> {
    let root = process::root();
    let mut files = Vec::new();
    for folder in ["crates", "xtask", "benches", "fuzz"] {
        collect(&root.join(folder), "rs", &mut files)?;
    }
    let mut sources = files.clone();
    collect(&root.join("lab"), "rs", &mut sources)?;
    let mut documents = documents_of(&root)?;
    for folder in ["docs", "crates", "benches", "lab"] {
        collect(&root.join(folder), "md", &mut documents)?;
    }
    let mut complaints = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.strip_prefix(&root).unwrap_or(path).display();
        let lines = text.lines().count();
        if lines > MAX_LINES {
            complaints.push(format!("{name}: {lines} lines, more than {MAX_LINES}: split it"));
        }
        if path.file_name().is_some_and(|file| file == "mod.rs") {
            complaints.push(format!("{name}: name it after its folder instead of mod.rs"));
        }
        if text.lines().any(|line| line.ends_with([' ', '\t'])) {
            complaints.push(format!("{name}: white space at the end of a line"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                complaints.push(format!("{name}:{}: a test that is never run", number + 1));
            }
        }
    }
    let mut tests = files.clone();
    collect(&root.join("clients"), "py", &mut tests)?;
    complaints.extend(named_tests::missing(&root, &tests)?);
    complaints.extend(documents::complaints(&root, &documents, &sources)?);
    complaints.extend(manifests_without_lints(&root)?);
    complaints.extend(toolchain_mismatch(&root)?);
    if complaints.is_empty() {
        println!("tidy: {} files", files.len() + documents.len());
        Ok(())
    } else {
        Err(format!("tidy:\n  {}", complaints.join("\n  ")))
    }
}

fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) -> Result<(), String> {
    for path in entries(folder)? {
        if path.is_dir() {
            collect(&path, extension, files)?;
        } else if path.extension().is_some_and(|own| own == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// The Markdown files beside the workspace manifest.
fn documents_of(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = entries(root)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    Ok(files)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}

/// A crate that does not inherit the workspace lints would silently escape them.
fn manifests_without_lints(root: &Path) -> Result<Vec<String>, String> {
    let metadata =
        process::output(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).map_err(|error| error.to_string())?;
    let mut complaints = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let Some(path) = package["manifest_path"].as_str() else {
            continue;
        };
        let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        if !text.contains("[lints]\nworkspace = true") {
            let name = Path::new(path)
                .strip_prefix(root)
                .unwrap_or_else(|_| Path::new(path))
                .display();
            complaints.push(format!("{name}: does not inherit the lints of the workspace"));
        }
    }
    Ok(complaints)
}

/// Compares the pinned toolchain with the declared minimum version, which must be equal.
fn toolchain_mismatch(root: &Path) -> Result<Option<String>, String> {
    let read = |name: &str| fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    let pinned = quoted(&read("rust-toolchain.toml")?, "channel");
    let minimum = quoted(&read("Cargo.toml")?, "rust-version");
    let agree = pinned
        .as_deref()
        .zip(minimum.as_deref())
        .is_some_and(|(a, b)| a.starts_with(b));
    Ok((!agree).then(|| format!("toolchain {pinned:?} and rust-version {minimum:?} disagree")))
}

fn quoted(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split('"').nth(1).map(str::to_owned)
}
