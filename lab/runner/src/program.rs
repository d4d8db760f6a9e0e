//! The program `nara-mesh`, used as documented.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// The timeout for a command, and for an expected line.
const LIMIT: Duration = Duration::from_secs(60);

/// The program with its own home folder, isolated from the files of this user.
#[derive(Debug)]
pub(crate) struct Program {
    file: PathBuf,
    home: PathBuf,
    /// The folder of tailscaled.
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

    /// Returns the home folder.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the folder for the sockets of running programs.
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

    /// Runs a command, which must succeed, and returns its output.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<Value, String> {
        let output = timeout(LIMIT, self.command(args).output())
            .await
            .map_err(|_| format!("{args:?} does not exit"))?
            .map_err(|error| format!("{args:?}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            let (said, why) = (text(&output.stdout), text(&output.stderr));
            return Err(format!("{args:?}: {}: {why} {said}", output.status));
        }
        let said = text(&output.stdout);
        serde_json::from_str(&said).map_err(|error| format!("{args:?} says {said:?}: {error}"))
    }

    /// Starts a command in the background.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Running, String> {
        let mut child = self
            .command(args)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.file.display()))?;
        let output = child.stdout.take().ok_or("the command has no standard output")?;
        Ok(Running {
            child,
            lines: BufReader::new(output).lines(),
        })
    }
}

/// A running command and its output lines. Killed on drop.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Reads up to the next line with these fields, and returns it.
    pub(crate) async fn until(&mut self, wanted: &[(&str, &str)]) -> Result<Value, String> {
        let find = async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                let line: Value =
                    serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
                if wanted.iter().all(|(field, value)| line[*field] == *value) {
                    return Ok(line);
                }
            }
            Err(format!("the output ended before {wanted:?}"))
        };
        match timeout(LIMIT, find).await {
            Ok(found) => found,
            Err(_) => Err(format!("no {wanted:?} within {LIMIT:?}")),
        }
    }

    /// Ends the command with SIGINT.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        let id = self
            .child
            .id()
            .ok_or("the command has already exited")?
            .to_string();
        let told = Command::new("kill").args(["-INT", &id]).status().await;
        if !told.is_ok_and(|status| status.success()) {
            return Err("cannot send SIGINT".to_owned());
        }
        let status = timeout(LIMIT, self.child.wait())
            .await
            .map_err(|_| "the command does not exit after SIGINT".to_owned())?
            .map_err(|error| error.to_string())?;
        match status.success() {
            true => Ok(()),
            false => Err(format!("the command exited with {status}")),
        }
    }
}
