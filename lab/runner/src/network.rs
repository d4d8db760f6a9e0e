//! The tailnet of the lab: its control server and its relays.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::process::Process;

/// The key with which nodes join.
pub(crate) const AUTH_KEY: &str = "tskey-auth-lab";
/// Where the control server listens.
const CONTROL: &str = "127.0.0.1:18090";
/// The regions: the first is where all nodes are at home until it fails.
const REGIONS: [u32; 1] = [900];

/// A control server and relays, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) programs: PathBuf,
    pub(crate) folder: tempfile::TempDir,
    control: Mutex<Process>,
    relay: Mutex<Option<Process>>,
    relay_port: String,
}

impl Network {
    pub(crate) async fn start(programs: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (relay, node) = start_relay(programs, folder.path(), "0").await?;
        let relay_port = node["DERPPort"].to_string();
        let region = REGIONS[0];
        let map = json!({ "Regions": { region.to_string(): {
            "RegionID": region, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node],
        }}});
        let map_file = folder.path().join("relays.json");
        std::fs::write(&map_file, map.to_string()).map_err(|error| error.to_string())?;
        let control = start_control(programs, &map_file).await?;
        Ok(Self {
            programs: programs.to_owned(),
            folder,
            control: Mutex::new(control),
            relay: Mutex::new(Some(relay)),
            relay_port,
        })
    }

    pub(crate) fn control_url(&self) -> String {
        format!("http://{CONTROL}")
    }

    /// A folder for a node of that name.
    pub(crate) fn folder_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command for the control server: see `lab/go/control`.
    pub(crate) async fn control(&self, command: &str) -> Result<(), String> {
        self.control.lock().await.command(command).await
    }

    /// Kills the control server. The next one knows nothing of what this one knew.
    pub(crate) async fn replace_control(&self) -> Result<(), String> {
        let mut control = self.control.lock().await;
        let map_file = self.folder.path().join("relays.json");
        // The old one must have let go of its port before.
        control.command("down").await?;
        let old = std::mem::replace(&mut *control, start_control(&self.programs, &map_file).await?);
        old.kill().await
    }

    /// Kills the relay.
    pub(crate) async fn stop_relay(&self) -> Result<(), String> {
        match self.relay.lock().await.take() {
            Some(relay) => relay.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the relay again, at the same place and with the same certificate.
    pub(crate) async fn start_relay(&self) -> Result<(), String> {
        let (relay, _) = start_relay(&self.programs, self.folder.path(), &self.relay_port).await?;
        *self.relay.lock().await = Some(relay);
        Ok(())
    }
}

async fn start_control(programs: &Path, map_file: &Path) -> Result<Process, String> {
    let map_file = map_file.to_string_lossy();
    let args = ["-listen", CONTROL, "-auth-key", AUTH_KEY, "-relays", &map_file];
    let mut control = Process::start(&programs.join("control"), &args)?;
    control.ready().await?;
    Ok(control)
}

async fn start_relay(programs: &Path, folder: &Path, port: &str) -> Result<(Process, Value), String> {
    let folder = folder.join("relay");
    let folder = folder.to_string_lossy();
    let mut relay = Process::start(&programs.join("relay"), &["-folder", &folder, "-port", port])?;
    let node = relay.ready_json().await?;
    Ok((relay, node))
}
