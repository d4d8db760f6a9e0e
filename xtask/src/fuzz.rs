//! Fuzzes every parser of peer input.

mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::process;

/// The limits of a target: memory in MiB, and time per input in seconds.
const LIMITS: [&str; 2] = ["-rss_limit_mb=2048", "-timeout=20"];

/// Correctness on short inputs matters here, not speed on megabytes.
const MAX_LEN: &str = "-max_len=4096";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let options = Options::parse(args)?;
    let root = process::root();
    let work = root.join("target/fuzz");
    let all = targets(&root)?;
    let chosen: Vec<&String> = all
        .iter()
        .filter(|name| options.target.as_ref().is_none_or(|only| *name == only))
        .collect();
    if chosen.is_empty() {
        return Err(format!("unknown target; the targets are {}", all.join(", ")));
    }
    seeds::write(&root, &work.join("seeds"))?;
    build(&work, options.target.as_deref())?;

    let mut failed = Vec::new();
    for pair in chosen.chunks(options.jobs) {
        let mut running = Vec::new();
        for name in pair {
            println!("fuzz {name}: {} s", options.seconds);
            running.push((name, start(&root, &work, name, options.seconds)?));
        }
        for (name, mut child) in running {
            let status = child.wait().map_err(|error| format!("{name}: {error}"))?;
            let log = fs::read_to_string(work.join(format!("{name}.log"))).unwrap_or_default();
            if status.success() {
                let summary = log.lines().rfind(|line| line.starts_with("Done "));
                println!("fuzz {name}: {}", summary.unwrap_or("done"));
            } else {
                eprintln!("{log}");
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} failed: the input is in target/fuzz/artifacts; write a test for it, then fix the parser",
        failed.join(", ")
    ))
}

struct Options {
    seconds: u64,
    jobs: usize,
    target: Option<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, String> {
        let mut options = Self {
            seconds: 600,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            target: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
            let number = || value.parse().ok().filter(|number| *number > 0);
            let wrong = || format!("{arg} takes a number above zero");
            match arg.as_str() {
                "--seconds" => options.seconds = number().ok_or_else(wrong)?,
                "--jobs" => options.jobs = usize::try_from(number().ok_or_else(wrong)?).unwrap_or(1),
                "--target" => options.target = Some(value.clone()),
                other => {
                    return Err(format!(
                        "fuzz does not know {other:?}; it takes --seconds N, --jobs N and --target NAME"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// Returns the names of all targets.
fn targets(root: &Path) -> Result<Vec<String>, String> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// Builds with the pinned toolchain, with unstable features enabled: only the compiler's instrumentation is
/// needed, so no second toolchain has to be installed. Without sanitizers, because there is no unsafe code.
fn build(work: &Path, target: Option<&str>) -> Result<(), String> {
    let tools = process::root().join("target/tools/bin");
    let installed = tools.join("cargo-fuzz");
    let program = if installed.exists() {
        installed
    } else {
        PathBuf::from("cargo-fuzz")
    };
    let mut command = Command::new(program);
    command
        .current_dir(process::root())
        .env("RUSTC_BOOTSTRAP", "1")
        .args([
            "build",
            "--sanitizer",
            "none",
            "--codegen-units",
            "16",
            "--target-dir",
        ])
        .arg(work.join("build"))
        .args(target);
    process::run(&mut command).map_err(|error| {
        format!("{error}\nnote: `.ci/run` installs cargo-fuzz; `cargo install cargo-fuzz` does it by hand")
    })
}

fn start(root: &Path, work: &Path, name: &str, seconds: u64) -> Result<Child, String> {
    let binary = find_binary(&work.join("build"), name)?;
    let artifacts = work.join("artifacts").join(name);
    let corpus = work.join("corpus").join(name);
    for folder in [&artifacts, &corpus] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = fs::File::create(work.join(format!("{name}.log"))).map_err(|error| error.to_string())?;
    let mut command = Command::new(binary);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(LIMITS)
        .arg(MAX_LEN)
        // New inputs go to the first folder.
        .arg(corpus);
    let by_hand = root.join("fuzz/seeds").join(name);
    let from_vectors = work.join("seeds").join(name);
    command.args([by_hand, from_vectors].iter().filter(|folder| folder.exists()));
    command
        .spawn()
        .map_err(|error| format!("cannot run {name}: {error}"))
}

/// cargo-fuzz builds into a folder named after the target triple.
fn find_binary(build: &Path, name: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(build).map_err(|error| format!("{}: {error}", build.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path().join("release").join(name)))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("cargo-fuzz did not build {name}"))
}
