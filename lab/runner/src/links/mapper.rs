//! The port mapping daemon of a lab router: Debian's `miniupnpd`, which supports PCP, NAT-PMP and UPnP.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::sleep;

use crate::space::Space;

const PROGRAM: &str = "miniupnpd";
/// The timeout for the daemon to listen.
const READY: Duration = Duration::from_secs(5);
/// The port of PCP and NAT-PMP, in the notation of `/proc/net/udp`.
const PORT: &str = ":14E7 ";

/// A running daemon. Killed on drop.
#[derive(Debug)]
pub(super) struct Mapper {
    process: Child,
    _folder: TempDir,
}

impl Mapper {
    /// Starts the daemon on a router with the rules of [`Nat::Mapping`](super::grade::Nat::Mapping).
    pub(super) async fn start(router: &Space) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot run {PROGRAM}: {error}");
        let folder = TempDir::new().map_err(failed)?;
        let config = folder.path().join("miniupnpd.conf");
        std::fs::write(
            &config,
            "ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
enable_upnp=yes
ipv6_disable=yes
secure_mode=yes
upnp_table_name=router
upnp_nat_table_name=router
upnp_forward_chain=passing_mapped
upnp_nat_chain=arriving_mapped
upnp_nat_postrouting_chain=leaving_mapped
uuid=4ad26e4a-4cc2-40ad-a75c-01ad7450b38c
allow 1024-65535 192.168.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
",
        )
        .map_err(failed)?;
        let process = router
            .command(Path::new(PROGRAM))
            .arg("-d")
            .arg("-f")
            .arg(&config)
            .arg("-P")
            .arg(folder.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let listening = format!("/proc/{}/net/udp", router.pid());
        let begin = Instant::now();
        while !std::fs::read_to_string(&listening)
            .map_err(failed)?
            .contains(PORT)
        {
            if begin.elapsed() > READY {
                return Err(format!("{PROGRAM} does not listen"));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self {
            process,
            _folder: folder,
        })
    }

    pub(super) async fn end(mut self) {
        let _ = self.process.kill().await;
    }
}

/// Checks that the daemon can be run here.
pub(super) fn usable() -> Result<(), String> {
    let found = std::process::Command::new(PROGRAM).arg("--version").output();
    found
        .map(drop)
        .map_err(|error| format!("cannot run the program `{PROGRAM}`: {error}"))
}
