//! The `tailscaled` of a machine, with a network device, started as an administrator would.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use crate::network::Network;

const READY: Duration = Duration::from_secs(30);

/// A running `tailscaled`. Killed on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
    process: Child,
}

impl Daemon {
    /// Starts a daemon, with the state of an earlier one of this name.
    pub(crate) async fn start(network: &Network, name: &str) -> Result<Self, String> {
        let folder = network.folder_of(&format!("daemon-{name}"));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let socket = folder.join("tailscaled.sock");
        let log = std::fs::File::create(folder.join("log")).map_err(|error| error.to_string())?;
        let mut process = Command::new(network.programs.join("tailscaled"))
            .arg("--tun=nara0")
            .arg(format!("--statedir={}", folder.display()))
            .arg(format!("--socket={}", socket.display()))
            .args(["--port=0", "--no-logs-no-support"])
            // Keeps the daemon's own packets out of its device: the lab has no firewall whose mode it could detect.
            .env("TS_DEBUG_FIREWALL_MODE", "nftables")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start tailscaled: {error}"))?;
        let begin = Instant::now();
        while tokio::net::UnixStream::connect(&socket).await.is_err() {
            let ended = process.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || begin.elapsed() > READY {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(format!("tailscaled does not start ({ended:?}): {log}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { socket, process })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Runs `tailscale up` as documented in `docs/tailnet.md`.
    pub(crate) async fn log_in(&self, network: &Network, host_name: &str) -> Result<(), String> {
        let output = Command::new(network.programs.join("tailscale"))
            .arg(format!("--socket={}", self.socket.display()))
            .arg("up")
            .arg(format!("--login-server={}", network.control_url()))
            .arg(format!("--auth-key={}", network.auth_key()))
            .arg(format!("--hostname={host_name}"))
            // The lab has neither a firewall tool nor a name server.
            .args(["--netfilter-mode=off", "--accept-dns=false", "--timeout=30s"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("tailscale up: {error}"))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(format!(
                "tailscale up: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }

    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.process.kill().await.map_err(|error| error.to_string())
    }
}
