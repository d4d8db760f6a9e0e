//! Child processes of the lab.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::space::Space;

/// The timeout for a process to report that it is ready.
const READY: Duration = Duration::from_secs(75);
/// The timeout for the answer to a command.
const ANSWER: Duration = Duration::from_secs(5);

/// A process with a line-based protocol on its standard streams. Killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(program: &Path, args: &[&str]) -> Result<Self, String> {
        Self::spawn(None, program, args, &[])
    }

    /// Starts a process with additional environment variables.
    pub(crate) fn start_with(
        program: &Path,
        args: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Self, String> {
        Self::spawn(None, program, args, environment)
    }

    /// Starts a process in another network namespace.
    pub(crate) fn start_in(space: Option<&Space>, program: &Path, args: &[&str]) -> Result<Self, String> {
        Self::spawn(space, program, args, &[])
    }

    fn spawn(
        space: Option<&Space>,
        program: &Path,
        args: &[&str],
        environment: &[(&str, &Path)],
    ) -> Result<Self, String> {
        let name = program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut command = match space {
            Some(space) => space.command(program),
            None => Command::new(program),
        };
        let mut child = command
            .args(args)
            .env("TS_NO_LOGS_NO_SUPPORT", "true")
            // Otherwise Go nodes wait for a network interface other than loopback.
            .env("TS_ASSUME_NETWORK_UP_FOR_TEST", "1")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let missing = || format!("{name} has no standard streams");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        Ok(Self {
            name,
            child,
            input,
            output,
        })
    }

    /// Reads the line with which the process reports that it is ready.
    pub(crate) async fn ready(&mut self) -> Result<String, String> {
        self.line(READY).await
    }

    /// Reads the line with which the process reports that it is ready, as JSON.
    pub(crate) async fn ready_json<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        self.json(READY).await
    }

    /// Reads the next line as JSON, within this time.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, String> {
        let line = self.line(limit).await?;
        serde_json::from_str(&line).map_err(|error| format!("{} printed {line:?}: {error}", self.name))
    }

    async fn line(&mut self, limit: Duration) -> Result<String, String> {
        match timeout(limit, self.output.next_line()).await {
            Ok(Ok(Some(line))) => Ok(line),
            Ok(Ok(None)) => Err(format!("{} has ended", self.name)),
            Ok(Err(error)) => Err(format!("{}: {error}", self.name)),
            Err(_) => Err(format!("{} printed nothing within {limit:?}", self.name)),
        }
    }

    /// Sends a command, which the process confirms with the same line.
    pub(crate) async fn command(&mut self, command: &str) -> Result<(), String> {
        self.send(command).await?;
        let answer = self.line(ANSWER).await?;
        if answer == command {
            Ok(())
        } else {
            Err(format!("{} answered {answer:?} to {command:?}", self.name))
        }
    }

    /// Sends a command, which the process answers with JSON.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &mut self,
        command: &str,
        limit: Duration,
    ) -> Result<T, String> {
        self.send(command).await?;
        self.json(limit).await
    }

    async fn send(&mut self, command: &str) -> Result<(), String> {
        let line = format!("{command}\n");
        let written = self.input.write_all(line.as_bytes()).await;
        written.map_err(|error| format!("{}: {error}", self.name))
    }

    /// Returns the pid, or 0 after the exit.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills the process with SIGKILL and waits for its exit.
    pub(crate) async fn kill(mut self) -> Result<(), String> {
        self.child
            .kill()
            .await
            .map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Returns the resident memory of a process, in MB.
pub(crate) fn memory_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    kib * 1024.0 / 1e6
}
