use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};

use super::config::ManagedConfig;
use crate::localapi::LocalApi;

/// Runs its arguments as a child and terminates it when standard input closes, which happens on every exit of this
/// process. (A parent-death signal would need unsafe code.)
///
/// A second process waits for the end of the input; it ends before the pid of the child can be reused.
const RUN_UNTIL_STDIN_CLOSES: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
{ cat <&3 >/dev/null; kill -TERM "$child"; sleep 4; kill -KILL "$child"; } 2>/dev/null &
watcher=$!
exec 3<&-
wait "$child"
code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// The exit codes of a shell for a program that it cannot run.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// Returns whether the daemon inherits an environment variable: paths, locale and network settings. Souls and auth
/// keys are not passed on, because other processes of this user can read the environment of the daemon.
fn is_passed_on(name: &OsStr) -> bool {
    const PASSED_ON: [&str; 9] = [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "XDG_CACHE_HOME",
    ];
    const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
    name.to_str().is_some_and(|name| {
        PASSED_ON.contains(&name)
            || PROXIES.contains(&&*name.to_ascii_uppercase())
            || name.starts_with("TS_DEBUG_")
    })
}

/// How long to wait for the daemon to exit.
const END_TIMEOUT: Duration = Duration::from_secs(6);

/// The maximum length in bytes of a forwarded log line.
const MAX_LOG_LINE: usize = 4 << 10;

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    shell: Child,
    /// The daemon runs for as long as this pipe is open.
    stdin: Option<ChildStdin>,
    last_line: Arc<Mutex<String>>,
}

impl Daemon {
    pub(super) fn start(config: &ManagedConfig, api: &LocalApi) -> io::Result<Self> {
        let with_path = |flag: &str, path: &std::path::Path| {
            let mut argument = std::ffi::OsString::from(flag);
            argument.push(path);
            argument
        };
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", RUN_UNTIL_STDIN_CLOSES, "nara-mesh-tailscaled"])
            .arg(&config.program)
            .arg("--tun=userspace-networking")
            .arg(with_path("--statedir=", &config.folder))
            .arg(with_path("--socket=", api.socket()))
            // Port 0: several daemons may run on the machine.
            .arg("--port=0")
            // Disables the upload of logs; they are forwarded to ours.
            .arg("--no-logs-no-support");
        if config.ephemeral {
            command.arg("--state=mem:");
        }
        let mut shell = command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Keeps Ctrl-C from the daemon, which is ended during our shutdown.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdin = shell.stdin.take();
        let last_line = Arc::default();
        if let Some(log) = shell.stderr.take() {
            tokio::spawn(forward_log(log, Arc::clone(&last_line)));
        }
        Ok(Self {
            shell,
            stdin,
            last_line,
        })
    }

    /// Waits until the daemon exits. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.shell.wait().await
    }

    /// Terminates the daemon.
    pub(super) async fn end(mut self) {
        self.stdin = None;
        match timeout(END_TIMEOUT, self.shell.wait()).await {
            Ok(Ok(status)) => tracing::debug!(%status, "tailscaled has exited"),
            Ok(Err(error)) => tracing::warn!(%error, "the exit status of tailscaled is unknown"),
            Err(_) => tracing::warn!("tailscaled does not exit"),
        }
    }

    /// Returns the last line of its log.
    pub(super) fn last_line(&self) -> String {
        self.last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Returns whether the program could not be executed.
pub(super) fn cannot_run(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| CANNOT_RUN.contains(&code))
}

async fn forward_log(log: tokio::process::ChildStderr, last_line: Arc<Mutex<String>>) {
    let mut lines = FramedRead::new(log, LinesCodec::new_with_max_length(MAX_LOG_LINE));
    while let Some(line) = lines.next().await {
        match line {
            Ok(line) => {
                let line: String = line.chars().filter(|character| !character.is_control()).collect();
                tracing::debug!("tailscaled: {line}");
                *last_line.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
            Err(tokio_util::codec::LinesCodecError::MaxLineLengthExceeded) => {
                tracing::debug!("tailscaled: (a line that is too long)");
            }
            Err(tokio_util::codec::LinesCodecError::Io(error)) => {
                tracing::debug!(%error, "the log of tailscaled cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_inherits_no_secret_from_the_environment() {
        for name in [
            "PATH",
            "HOME",
            "https_proxy",
            "NO_PROXY",
            "SSL_CERT_FILE",
            "TS_DEBUG_MTU",
        ] {
            assert!(is_passed_on(OsStr::new(name)), "{name}");
        }
        for name in [
            "NARA_MESH_SOUL",
            "NARA_SOUL",
            "TS_AUTHKEY",
            "TS_AUTH_KEY",
            "TS_API_KEY",
            "AWS_SECRET_KEY",
            "",
        ] {
            assert!(!is_passed_on(OsStr::new(name)), "{name}");
        }
    }
}
