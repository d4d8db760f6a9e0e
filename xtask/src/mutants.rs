//! Mutations of the code that authenticates: each must make a test fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// What is mutated, and with which tests.
struct Part {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    /// Arguments of `cargo test`, by pass: the quick tests first, and the others for what these let live.
    passes: &'static [&'static [&'static str]],
}

const PARTS: [Part; 4] = [
    Part {
        name: "signature",
        package: "nara-proto",
        files: &[
            "crates/nara-proto/src/identity/{key,prepared,signature,verifier}.rs",
            "crates/nara-proto/src/signature/*.rs",
        ],
        passes: &[
            &["--lib", "--", "identity::", "signature::"],
            &["--test", "conformance", "--test", "properties"],
        ],
    },
    Part {
        name: "auth",
        package: "nara-proto",
        files: &["crates/nara-proto/src/auth/*.rs"],
        passes: &[&[
            "--lib",
            "--test",
            "conformance",
            "--test",
            "properties",
            "--",
            "auth",
            "hostile",
        ]],
    },
    Part {
        name: "server",
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/server/{authenticator,request_proof,signed_body,source_check}.rs",
            "crates/nara-mesh/src/server/sign_response/*.rs",
            "crates/nara-mesh/src/server/verify_request/*.rs",
        ],
        passes: &[
            &["--test", "v2"],
            &["--test", "hostile"],
            &["--lib", "--test", "attack", "--test", "stream", "--test", "tls"],
        ],
    },
    Part {
        name: "client",
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/client/{proof,verify}.rs",
            "crates/nara-mesh/src/tls/verifier.rs",
        ],
        passes: &[
            &["--test", "client"],
            &["--lib", "--test", "tls", "--test", "v2"],
            &["--test", "attack", "--test", "hostile", "--test", "stream"],
        ],
    },
];

/// What no test can tell from the original; `docs/mutants.md` gives the reasons.
const EQUIVALENT: &[&str] = &[
    "<impl fmt::Debug for .*>::fmt",
    "::poll_ready ",
    "::root_hint_subjects ",
    "::verify_tls12_signature ",
    r"client/verify.rs:\d+:\d+: replace << with >>",
    "replace > with .* in MeshClient::accept",
    " in offload",
];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut only = None;
    let mut passed_on = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--part" => only = Some(value),
            "--shard" | "--file" | "--re" => passed_on.extend([arg.clone(), value.clone()]),
            other => {
                return Err(format!(
                    "mutants does not know {other:?}; it takes --part NAME, --file GLOB, --re REGEX and --shard K/N"
                ));
            }
        }
    }
    for part in PARTS {
        if only.is_some_and(|only| only != part.name) {
            continue;
        }
        println!("mutants: {}", part.name);
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
    process::root().join("target/mutants").join(part.name)
}
