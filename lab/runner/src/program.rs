//! The program `nara-mesh`, used as the documentation says.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// How long it may say nothing that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// The program with a home of its own, so that nothing of this machine's user is read or written.
#[derive(Debug)]
pub(crate) struct Program {
    file: PathBuf,
    home: PathBuf,
    /// Where tailscaled is.
    path: PathBuf,
}

impl Program {
    pub(crate) fn new(programs: &Path, home: PathBuf) -> Result<Self, String> {
        let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
        std::fs::create_dir_all(&home).map_err(|error| error.to_string())?;
        Ok(Self {
            file: ourselves.with_file_name("nara-mesh"),
            home,
            path: programs.to_owned(),
        })
    }

    /// The home folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The folder for the sockets of the programs that run.
    pub(crate) fn runtime_folder(&self) -> PathBuf {
        self.home.join("run")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.file);
        command
            .args(args)
            .arg("--json")
            .env_clear()
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", self.runtime_folder())
            .env("PATH", format!("{}:/usr/bin:/bin", self.path.display()))
            .envs(["TS_NO_LOGS_NO_SUPPORT", "TS_ASSUME_NETWORK_UP_FOR_TEST"].map(|name| (name, "true")))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end, which must be a success, and returns what it prints.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<Value, String> {
        let output = timeout(LIMIT, self.command(args).output())
            .await
            .map_err(|_| format!("{args:?} does not end"))?
            .map_err(|error| format!("{args:?}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            let (said, why) = (text(&output.stdout), text(&output.stderr));
            return Err(format!("{args:?}: {}: {why} {said}", output.status));
        }
        let said = text(&output.stdout);
        serde_json::from_str(&said).map_err(|error| format!("{args:?} says {said:?}: {error}"))
    }

    /// Starts a command that runs on.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Running, String> {
        let mut child = self
            .command(args)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.file.display()))?;
        let output = child.stdout.take().ok_or("it has no standard output")?;
        Ok(Running {
            child,
            lines: BufReader::new(output).lines(),
        })
    }
}

/// A command that runs, and its lines. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line that has these fields; others are read over.
    pub(crate) async fn until(&mut self, wanted: &[(&str, &str)]) -> Result<Value, String> {
        let find = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                let line: Value =
                    serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
                if wanted.iter().all(|(field, value)| line[*field] == *value) {
                    return Ok(line);
                }
            }
            Err(format!("it ended before {wanted:?}"))
        };
        match timeout(LIMIT, find).await {
            Ok(found) => found,
            Err(_) => Err(format!("no {wanted:?} within {LIMIT:?}")),
        }
    }

    /// Ends it as ctrl-C does.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        let id = self.child.id().ok_or("it has ended already")?.to_string();
        let told = Command::new("kill").args(["-INT", &id]).status().await;
        if !told.is_ok_and(|status| status.success()) {
            return Err("it cannot be told to end".to_owned());
        }
        let status = timeout(LIMIT, self.child.wait())
            .await
            .map_err(|_| "it does not end".to_owned())?
            .map_err(|error| error.to_string())?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("it ends with {status}")),
        }
    }
}
