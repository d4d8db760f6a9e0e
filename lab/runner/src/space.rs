//! Network namespaces beside the one in which the lab runs.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// How long a namespace may take.
const READY: Duration = Duration::from_secs(5);

/// A network namespace, kept by a process that does nothing.
#[derive(Debug)]
pub(crate) struct Space {
    keeper: Child,
    pid: u32,
}

impl Space {
    pub(crate) async fn new() -> Result<Self, String> {
        let keeper = Command::new("unshare")
            .args(["-n", "sleep", "infinity"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let pid = keeper.id().ok_or("the keeper of a namespace has ended")?;
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
        let ours = of("self").map_err(|error| format!("/proc/self/ns/net: {error}"))?;
        let begin = Instant::now();
        while of(&pid.to_string()).is_ok_and(|theirs| theirs == ours) {
            if begin.elapsed() > READY {
                return Err("a network namespace cannot be made".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(Self { keeper, pid })
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// A program that runs there.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a script there.
    pub(crate) async fn shell(&self, script: &str) -> Result<(), String> {
        let mut command = self.command("sh".as_ref());
        command.arg("-eu");
        run(command, script).await
    }

    /// Sets the rules of its nftables.
    pub(crate) async fn set_rules(&self, rules: &str) -> Result<(), String> {
        let mut command = self.command("nft".as_ref());
        command.args(["-f", "-"]);
        run(command, rules).await
    }

    pub(crate) async fn end(mut self) {
        let _ = self.keeper.kill().await;
    }
}

/// Why network devices of our own cannot be made here, if they cannot.
pub(crate) fn tun_usable() -> Result<(), String> {
    let device = "/dev/net/tun";
    let opened = std::fs::File::options().read(true).write(true).open(device);
    opened
        .map(drop)
        .map_err(|error| format!("{device} cannot be used here: {error}"))
}

/// Runs a script in our own namespace.
pub(crate) async fn shell(script: &str) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-eu");
    run(command, script).await
}

/// Sets rules of nftables in our own namespace.
pub(crate) async fn set_rules(rules: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    run(command, rules).await
}

async fn run(mut command: Command, input: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("the machines cannot be set up: {error}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("the machines cannot be set up: {}\n{input}", said.trim()))
}
