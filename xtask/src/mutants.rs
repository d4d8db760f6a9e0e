//! Mutates the authentication code: each mutant must make a test fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::process;

/// A set of mutants and the tests to run.
struct Part {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    passes: &'static [Pass],
    /// Time limit of the tests of a mutant: many times their usual duration.
    timeout_s: u32,
}

/// The tests of one pass. The first pass of a part kills most mutants; survivors go to the next pass.
struct Pass {
    /// Test programs. Building them dominates the cost of a mutant, so a pass has few.
    programs: &'static [&'static str],
    /// Test filters for these programs; empty: all.
    tests: &'static [&'static str],
}

impl Pass {
    const fn all(programs: &'static [&'static str]) -> Self {
        Self { programs, tests: &[] }
    }
}

/// Other attack tests, except slow ones that do not concern authentication.
const NO_FLOODS: Pass = Pass {
    programs: &["--test=attack", "--test=stream"],
    tests: &["--skip=floods"],
};

const PARTS: [Part; 6] = [
    Part {
        name: "v2",
        package: "nara-proto",
        files: &[
            "crates/nara-proto/src/identity/{key,signature}.rs",
            "crates/nara-proto/src/v2/*.rs",
        ],
        passes: &[
            Pass {
                programs: &["--lib"],
                tests: &["identity::", "v2::"],
            },
            Pass::all(&["--test=conformance", "--test=properties", "--test=vectors_v2"]),
        ],
        timeout_s: 100,
    },
    Part {
        name: "v1",
        package: "nara-proto",
        files: &["crates/nara-proto/src/v1/*.rs", "crates/nara-proto/src/replay.rs"],
        passes: &[
            Pass {
                programs: &["--lib"],
                tests: &["v1::", "replay::"],
            },
            Pass::all(&["--test=conformance", "--test=properties"]),
        ],
        timeout_s: 100,
    },
    Part {
        name: "events",
        package: "nara-proto",
        files: &["crates/nara-proto/src/event/{batch,claims,covered,voters}.rs"],
        passes: &[
            Pass {
                programs: &["--lib"],
                tests: &["event::"],
            },
            Pass::all(&["--test=conformance", "--test=properties"]),
        ],
        timeout_s: 100,
    },
    Part {
        name: "server",
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/server/auth/{authenticator,request_proof,source_check,verified_body,verify}.rs",
            "crates/nara-mesh/src/server/answer/sign.rs",
        ],
        passes: &[
            Pass::all(&["--test=v2"]),
            Pass::all(&["--lib", "--test=tls"]),
            Pass::all(&["--test=hostile"]),
            NO_FLOODS,
        ],
        timeout_s: 90,
    },
    Part {
        name: "ledger",
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/ledger/{admission,held,limit,rank,retention}.rs",
            "crates/nara-mesh/src/ledger/admission/*.rs",
        ],
        passes: &[Pass {
            programs: &["--lib"],
            tests: &["ledger::"],
        }],
        timeout_s: 120,
    },
    Part {
        name: "client",
        package: "nara-mesh",
        files: &[
            "crates/nara-mesh/src/client/{proof,verifier}.rs",
            "crates/nara-mesh/src/tls/verifier.rs",
        ],
        passes: &[
            Pass::all(&["--test=client"]),
            Pass::all(&["--lib", "--test=tls"]),
            Pass::all(&["--test=v2", "--test=hostile"]),
            NO_FLOODS,
        ],
        timeout_s: 90,
    },
];

/// Mutants that no test can distinguish from the original; `docs/mutants.md` gives the reasons.
const EQUIVALENT: &[&str] = &[
    "<impl fmt::Debug for .*>::fmt",
    "::root_hint_subjects ",
    "::verify_tls12_signature ",
    r"client/verifier.rs:\d+:\d+: replace << with >>",
    "replace > with .* in AnswerVerifier::(verify|decode_open)",
    " in offload",
    r"v1/request.rs:\d+:41: replace > with >= in RequestAuth::check_fresh",
    "delete field learned_at from struct PinnedKey expression in AnswerVerifier::explain_other_key",
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
        for (index, pass) in part.passes.iter().enumerate() {
            outcome = process::run(&mut command(&part, pass, index > 0, &passed_on));
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

fn command(part: &Part, pass: &Pass, only_survivors: bool, passed_on: &[String]) -> Command {
    let installed = process::root().join("target/tools/bin/cargo-mutants");
    let program = if installed.exists() {
        installed
    } else {
        PathBuf::from("cargo-mutants")
    };
    let mut command = Command::new(program);
    command.current_dir(process::root());
    // Each pass works on its own copy; the dependencies of all copies are built once. Parts of two packages
    // can run in parallel, because their builds do not block each other.
    let build = process::root().join("target/mutants/build").join(part.package);
    command.env("CARGO_TARGET_DIR", build);
    command.args(["mutants", "--package", part.package, "--no-shuffle"]);
    command.arg("--output").arg(folder(part));
    command.arg("--timeout").arg(part.timeout_s.to_string());
    // `.ci/run` has already run the tests on the original code.
    command.args(["--baseline=skip", "--build-timeout=600"]);
    // These arguments, not those after `--`, determine what is built for a mutant.
    let programs = pass
        .programs
        .iter()
        .map(|program| format!("--cargo-arg={program}"));
    command.args(programs);
    // A mutant is built once, and debug info would be half of the work.
    command.arg(format!(
        "--cargo-arg=--config=profile.dev.package.{}.debug=0",
        part.package
    ));
    if !passed_on.iter().any(|arg| arg == "--file") {
        command.args(part.files.iter().flat_map(|file| ["--file", file]));
    }
    command.args(EQUIVALENT.iter().flat_map(|regex| ["--exclude-re", regex]));
    command.args(passed_on);
    if only_survivors {
        command.arg("--iterate");
    }
    // The first `--` ends the arguments of cargo-mutants, the second those of cargo.
    command.args(["--", "--"]).args(pass.tests);
    command
}

fn folder(part: &Part) -> PathBuf {
    process::root().join("target/mutants").join(part.name)
}
