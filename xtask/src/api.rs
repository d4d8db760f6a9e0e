//! Records the public names of the libraries in `docs/api/`, so that a change of them is visible in review.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use public_api::{Builder, PublicApi};

use crate::process;

const LIBRARIES: [&str; 3] = ["nara-proto", "nara-mesh", "nara-tailnet"];

/// The most public names of `nara-mesh` (types, traits, free functions, constants; not their members), to
/// keep its documentation readable. A new name has to replace another.
const MAX_NAMES: usize = 130;

/// Set when this program is run in place of rustdoc.
const AS_RUSTDOC: &str = "NARA_XTASK_AS_RUSTDOC";

/// Compares the public names with the recorded ones, or records them with `--write`.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let write = match args {
        [] => false,
        [flag] if flag == "--write" => true,
        _ => return Err("usage: cargo xtask api [--write]".to_owned()),
    };
    let myself = std::env::current_exe().map_err(|error| error.to_string())?;
    let rustdoc = std::env::var_os("RUSTDOC").unwrap_or_else(|| "rustdoc".into());
    let mut command = process::cargo();
    command.args(["doc", "--quiet", "--workspace", "--no-deps", "--locked"]);
    // With the examples, dependencies have the same features as for tests.
    command.args(["--lib", "--examples"]);
    process::run(
        command
            .env("RUSTDOC", myself)
            .env(
                "RUSTDOCFLAGS",
                "-Zunstable-options --output-format=json --cap-lints=allow",
            )
            .env(AS_RUSTDOC, rustdoc),
    )?;
    let folder = process::root().join("docs/api");
    let mut stale = Vec::new();
    for library in LIBRARIES {
        let json = process::target().join(format!("doc/{}.json", library.replace('-', "_")));
        let builder = Builder::from_rustdoc_json(&json)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(true);
        let api = builder
            .build()
            .map_err(|error| format!("the documentation of {library} cannot be read: {error}"))?;
        let names = names(&api);
        println!("{library}: {} public names", names.len());
        if library == "nara-mesh" && names.len() > MAX_NAMES {
            return Err(format!(
                "nara-mesh has {} public names, more than {MAX_NAMES}: make names private that users do not need",
                names.len()
            ));
        }
        let file = folder.join(format!("{library}.txt"));
        if !update(&file, &format!("{api}"), write)? {
            stale.push(library);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the public API of {} changed: if intended, record it with `cargo xtask api --write` and in CHANGELOG.md",
        stale.join(" and ")
    ))
}

/// Compares a file with its expected contents, prints the difference, and returns whether they are equal.
fn update(file: &Path, now: &str, write: bool) -> Result<bool, String> {
    let before = fs::read_to_string(file).unwrap_or_default();
    if before == now {
        return Ok(true);
    }
    if write {
        let written = fs::create_dir_all(file.parent().unwrap_or(file)).and_then(|()| fs::write(file, now));
        return written
            .map(|()| true)
            .map_err(|error| format!("cannot write {}: {error}", file.display()));
    }
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
    for line in old.difference(&new) {
        println!("- {line}");
    }
    for line in new.difference(&old) {
        println!("+ {line}");
    }
    Ok(false)
}

/// Returns the names that a user of a library can write: all except modules, members and implementations.
fn names(api: &PublicApi) -> BTreeSet<String> {
    const KINDS: [&str; 8] = [
        "pub const ",
        "pub enum ",
        "pub fn ",
        "pub async fn ",
        "pub macro ",
        "pub struct ",
        "pub trait ",
        "pub type ",
    ];
    let lines: Vec<String> = api.items().map(ToString::to_string).collect();
    // Members are below the path of their type.
    let types: BTreeSet<&str> = lines.iter().filter_map(|line| path(line, &KINDS[1..])).collect();
    lines
        .iter()
        .filter_map(|line| path(line, &KINDS))
        .filter(|path| {
            path.rsplit_once("::")
                .is_none_or(|(parent, _)| !types.contains(parent))
        })
        .filter_map(|path| path.rsplit("::").next())
        .map(str::to_owned)
        .collect()
}

/// Returns the path after one of these prefixes, without generics and arguments.
fn path<'a>(line: &'a str, kinds: &[&str]) -> Option<&'a str> {
    // Skip attributes.
    let line = line.rsplit_once("] ").map_or(line, |(_, line)| line);
    let rest = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
    rest.split(['<', '(', ':', ' ', '{']).next().map(|first| {
        let mut end = first.len();
        while rest[end..].starts_with("::") && !rest[end..].starts_with("::<") {
            let next = &rest[end + 2..];
            end += 2 + next.find(['<', '(', ':', ' ', '{']).unwrap_or(next.len());
        }
        &rest[..end]
    })
}

/// Runs rustdoc with unstable options enabled, which the pinned toolchain needs for JSON output.
pub(crate) fn as_rustdoc() -> Option<Result<(), String>> {
    let rustdoc = std::env::var_os(AS_RUSTDOC)?;
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    Some(process::run(
        Command::new(rustdoc).args(args).env("RUSTC_BOOTSTRAP", "1"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_before_generics_arguments_and_types() {
        let kinds = ["pub fn ", "pub struct ", "pub const "];
        for (line, expected) in [
            ("pub fn a::b::c(x: d::E) -> f::G", "a::b::c"),
            ("pub struct a::B<T: c::D>", "a::B"),
            ("pub const a::B: usize", "a::B"),
            ("#[non_exhaustive] pub struct a::B", "a::B"),
        ] {
            assert_eq!(path(line, &kinds), Some(expected), "{line}");
        }
        assert_eq!(path("pub mod a::b", &kinds), None);
    }
}
