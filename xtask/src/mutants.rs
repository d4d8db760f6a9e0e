//! Mutations of the code that authenticates: each must make a test fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// What is mutated, and with which tests.
struct Part {
    package: &'static str,
    files: &'static [&'static str],
    /// Arguments of `cargo test`, by pass: the quick tests first, and the others for what these let live.
    passes: &'static [&'static [&'static str]],
}

const PARTS: [Part; 2] = [
    Part {
        package: "nara-proto",
        files: &[
            "crates/nara-proto/src/auth/*.rs",
            "crates/nara-proto/src/identity/{batch,key,prepared,signature,verifier}.rs",
            "crates/nara-proto/src/signature/*.rs",
        ],
        passes: &[
            &["--lib", "--", "auth::", "identity::", "signature::"],
            &["--lib", "--test", "conformance", "--test", "properties"],
        ],
    },
    Part {
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/client/{proof,verify}.rs",
            "crates/nara-mesh/src/server/{authenticator,request_proof,signed_body,source_check}.rs",
            "crates/nara-mesh/src/server/sign_response/*.rs",
            "crates/nara-mesh/src/server/verify_request/*.rs",
            "crates/nara-mesh/src/tls/verifier.rs",
        ],
        passes: &[
            &["--test", "attack", "--test", "v2"],
            &["--lib", "--test", "client", "--test", "hostile", "--test", "tls"],
        ],
    },
];

/// What no test can tell from the original; `docs/mutants.md` gives the reasons.
const EQUIVALENT: &[&str] = &["<impl fmt::Debug for .*>::fmt"];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut only = None;
    let mut passed_on = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--package" => only = Some(value),
            "--shard" | "--file" | "--re" => passed_on.extend([arg.clone(), value.clone()]),
            other => {
                return Err(format!(
                    "mutants does not know {other:?}; it takes --package NAME, --file GLOB, --re REGEX and --shard K/N"
                ));
            }
        }
    }
    for part in PARTS {
        if only.is_some_and(|only| only != part.package) {
            continue;
        }
        println!("mutants: {}", part.package);
        let folder = folder(&part);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut outcome = Ok(());
        for (index, tests) in part.passes.iter().enumerate() {
            let mut command = command(&part, &passed_on);
            if index > 0 {
                // Only what survived the pass before.
                command.arg("--iterate");
            }
            outcome = process::run(command.arg("--").args(*tests));
        }
        outcome.map_err(|error| {
            format!(
                "{error}\nnote: {} lists what survived: add a test for each. \
                 `cargo install cargo-mutants` if there is no such command",
                folder.display()
            )
        })?;
    }
    Ok(())
}

fn command(part: &Part, passed_on: &[String]) -> Command {
    let installed = process::root().join("target/tools/bin/cargo-mutants");
    let program = if installed.exists() {
        installed
    } else {
        PathBuf::from("cargo-mutants")
    };
    let mut command = Command::new(program);
    command.current_dir(process::root());
    // Each pass works on a copy of its own; what all copies depend on is built once.
    command.env("CARGO_TARGET_DIR", process::root().join("target/mutants/build"));
    command.args([
        "mutants",
        "--package",
        part.package,
        "--no-shuffle",
        "--profile",
        "mutants",
    ]);
    command.arg("--output").arg(folder(part));
    if !passed_on.iter().any(|arg| arg == "--file") {
        command.args(part.files.iter().flat_map(|file| ["--file", file]));
    }
    command.args(EQUIVALENT.iter().flat_map(|regex| ["--exclude-re", regex]));
    command.args(passed_on);
    command
}

fn folder(part: &Part) -> PathBuf {
    process::root().join("target/mutants").join(part.package)
}
