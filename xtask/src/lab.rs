//! Runs naras of every kind on a private tailnet, without root and without the internet.
//!
//! Everything runs in new namespaces: only the loopback device exists, and all started processes end with
//! this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{process, results};

/// Time limit of a run; a soak takes its `--seconds` in addition. A row of `--links` takes half a minute for
/// each kind, a slow one two minutes, and one of `--trouble` three.
const LIMIT: Duration = Duration::from_secs(25 * 60);
const LIMIT_OF_LINKS: Duration = Duration::from_secs(4 * 60 * 60);

/// The tasks by their option, and the number of cells that identify a row of its table, if rows can be measured individually.
const TASKS: [(&str, usize); 7] = [
    ("scenarios", 0),
    ("bench", 0),
    ("soak", 0),
    // The line, the NATs and the kind.
    ("links", 3),
    ("links-ways", 3),
    // The line and the kind.
    ("links-trouble", 2),
    ("links-soak", 0),
];

/// Setup of the namespaces. Go nodes ignore a network that has only the loopback device, so there is a second
/// device without a route.
const SETUP: &str = "\
set -eu
ip link set lo up
ip link add lab0 type veth peer name lab1
ip addr add 10.77.0.1/24 dev lab0
ip link set lab0 up
ip link set lab1 up
exec \"$@\"
";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut tasks = Vec::new();
    let mut headscale = false;
    let mut record = false;
    let mut rest = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" | "--links" | "--soak" | "--trouble" | "--ways" => {
                tasks.push(arg.trim_start_matches('-'))
            }
            "--headscale" => headscale = true,
            "--record" => record = true,
            "--grade" | "--kinds" | "--only" | "--rounds" | "--seconds" | "--sleep" | "--sleeps" => {
                rest.push(arg.clone());
                rest.push(
                    args.next()
                        .cloned()
                        .ok_or_else(|| format!("{arg} takes a value"))?,
                );
            }
            other => return Err(format!("the lab has no option {other:?}; see `cargo xtask help`")),
        }
    }
    tasks.sort_unstable();
    let wanted = if tasks.is_empty() {
        "scenarios".to_owned()
    } else {
        tasks.join("-")
    };
    let task = TASKS.into_iter().find(|(task, _)| *task == wanted);
    let (task, cells) = task.ok_or("these options of the lab do not go together; see `cargo xtask help`")?;
    if headscale && task != "scenarios" {
        return Err(format!(
            "{task} runs on the test control server, not with --headscale"
        ));
    }
    check_tools(task)?;
    if task == "scenarios" && has_service(&rest) {
        check_python()?;
    }
    let folder = process::root().join("target/lab");
    let programs = folder.join("bin");
    fs::create_dir_all(&programs).map_err(|error| format!("{}: {error}", programs.display()))?;
    build_go(&programs)?;
    if headscale {
        build_headscale(&programs)?;
        rest.extend(["--control", "headscale"].map(str::to_owned));
    }
    let lab = build_lab(task)?;
    let name = if headscale { "headscale" } else { task };
    // Lines are measured side by side.
    let file = match cells {
        0 => folder.join(format!("{name}.md")),
        _ => folder.join(format!("{name}-{}.md", std::process::id())),
    };
    let has_table = !task.ends_with("soak");
    if has_table {
        rest.extend(["--file".to_owned(), file.display().to_string()]);
    }
    // There may be none, or one of another run.
    let _ = fs::remove_file(&file);
    let outcome = in_namespaces(&lab, &programs, task, &rest);
    // A failed run is recorded only for tables with independent rows: otherwise it would replace a whole
    // table.
    let is_recorded = outcome.is_ok() || (cells > 0 && file.exists());
    if record && has_table && is_recorded {
        let table = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        match (task, cells) {
            ("bench", _) => results::record("speed", &table)?,
            (_, 0) => results::record(name, &table)?,
            (_, cells) => results::record_rows(name, &table, cells)?,
        }
    }
    outcome
}

fn check_tools(task: &str) -> Result<(), String> {
    let works = |program: &str, args: &[&str]| {
        Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !works("go", &["version"]) {
        return Err("the lab needs Go (the programs `go`; on Debian: apt-get install golang-go)".to_owned());
    }
    if !works("ip", &["-V"]) {
        return Err("the lab needs the program `ip` (on Debian: apt-get install iproute2)".to_owned());
    }
    if task.starts_with("links") && !works("nft", &["--version"]) {
        return Err("--links needs the program `nft` (on Debian: apt-get install nftables)".to_owned());
    }
    if task.starts_with("links") && !works("miniupnpd", &["--version"]) {
        return Err(
            "--links needs the program `miniupnpd` (on Debian: apt-get install miniupnpd-nftables)"
                .to_owned(),
        );
    }
    if !works("unshare", &["-Urnpf", "--kill-child", "true"]) {
        return Err(
            "the lab needs user, network and process namespaces: `unshare -Urnpf true` fails here. \
                    On Debian and Ubuntu, `sysctl kernel.unprivileged_userns_clone=1` or \
                    `sysctl kernel.apparmor_restrict_unprivileged_userns=0` allows them"
                .to_owned(),
        );
    }
    Ok(())
}

/// Returns the Python interpreter of the lab's service, in the environment that `.ci/run` creates.
fn python() -> PathBuf {
    process::root().join("target/python/bin/python3")
}

/// Returns whether the run includes the Python service.
fn has_service(args: &[String]) -> bool {
    let is_chosen = |option: &str, value: &str| {
        let chosen = args.iter().skip_while(|arg| *arg != option).nth(1);
        chosen.is_none_or(|chosen| chosen.split(',').any(|wanted| wanted == value))
    };
    is_chosen("--only", "service") && is_chosen("--kinds", "embedded")
}

fn check_python() -> Result<(), String> {
    let mut command = Command::new(python());
    command
        .args(["-c", "import httpx, uvicorn"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(
        "the lab needs the Python client: `python3 -m venv target/python && target/python/bin/pip install \
         './clients/python[service]'` (on Debian: apt-get install python3-venv)"
            .to_owned(),
    )
}

/// Builds the Go programs, all from one module, so that their versions match.
fn build_go(programs: &Path) -> Result<(), String> {
    eprintln!("building the Go programs of the lab");
    let mut command = Command::new("go");
    command
        .current_dir(process::root().join("lab/go"))
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", "-o"])
        .arg(format!("{}/", programs.display()))
        .args([
            "./control",
            "./peer",
            "./relay",
            "tailscale.com/cmd/tailscaled",
            "tailscale.com/cmd/tailscale",
        ]);
    process::run(&mut command)
}

/// Builds Headscale, which needs another version of the shared module. The first build takes some minutes.
fn build_headscale(programs: &Path) -> Result<(), String> {
    eprintln!("building Headscale");
    let mut command = Command::new("go");
    command
        .current_dir(process::root().join("lab/headscale"))
        .env("CGO_ENABLED", "0")
        .args(["build", "-trimpath", "-o"])
        .arg(programs.join("headscale"))
        .arg("github.com/juanfont/headscale/cmd/headscale");
    process::run(&mut command)
}

/// Builds the program that runs the scenarios, and the programs that it runs. Measurements need optimised
/// builds.
fn build_lab(task: &str) -> Result<PathBuf, String> {
    let profile = if task == "bench" || task.starts_with("links") {
        process::run(process::cargo().args(["build", "--bin", "nara-lab", "--locked", "--release"]))?;
        "release"
    } else {
        process::build_programs()?;
        "debug"
    };
    Ok(process::target().join(profile).join("nara-lab"))
}

/// Runs the program in new namespaces, for a limited time. It is the first process of its namespace, so all
/// its child processes end with it.
fn in_namespaces(lab: &Path, programs: &Path, task: &str, rest: &[String]) -> Result<(), String> {
    let begin = Instant::now();
    let limit = if task.starts_with("links") {
        LIMIT_OF_LINKS
    } else {
        LIMIT
    };
    let seconds = rest.iter().skip_while(|arg| *arg != "--seconds").nth(1);
    let seconds = seconds
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_default();
    let limit = limit + Duration::from_secs(seconds);
    let mut child = Command::new("unshare")
        .args(["-Urnpf", "--mount-proc", "--kill-child", "sh", "-c", SETUP, "lab"])
        .arg(lab)
        .arg(programs)
        .arg(task)
        .args(rest)
        // Prevents Tailscale's Go programs from uploading logs and from waiting for a network other than
        // loopback.
        .env("TS_NO_LOGS_NO_SUPPORT", "true")
        .env("TS_ASSUME_NETWORK_UP_FOR_TEST", "1")
        .env("NARA_LAB_PYTHON", python())
        // Use the client of this repository, whatever is installed.
        .env("PYTHONPATH", process::root().join("clients/python/src"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot run unshare: {error}"))?;
    loop {
        match child.try_wait().map_err(|error| format!("unshare: {error}"))? {
            Some(status) if status.success() => {
                eprintln!("the lab took {:.0} s", begin.elapsed().as_secs_f64());
                return Ok(());
            }
            Some(status) => return Err(format!("the lab failed: {status}")),
            None if begin.elapsed() > limit => {
                // The first process ends with unshare, and all others with it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("the lab did not end within {limit:?}"));
            }
            None => thread::sleep(Duration::from_millis(200)),
        }
    }
}
