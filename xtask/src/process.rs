//! Runs programs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// `RUSTFLAGS` of the profile `dist`. With a frame pointer, a function needs a fifth less of the tables for unwinding.
pub(crate) const DIST_FLAGS: &str = "-Cforce-frame-pointers=yes";

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default()
}

/// Returns cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Runs a program, and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let name = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} failed: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} printed something that is not UTF-8"))
}

/// Runs a program with inherited output.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name} failed: {status}"))
    }
}

/// Returns a command of the cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds the programs and examples of the workspace unoptimised, together with the tests. This reuses
/// everything that `cargo test --workspace` compiled; a single package would have other features in its
/// dependencies.
pub(crate) fn build_programs() -> Result<(), String> {
    run(cargo().args([
        "build",
        "--quiet",
        "--locked",
        "--workspace",
        "--bins",
        "--examples",
        "--tests",
    ]))
}
