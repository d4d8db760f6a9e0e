//! The tailnet of the lab: a control server and relays.

mod headscale;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use self::headscale::Headscale;
use crate::process::Process;

/// The auth key of the test control server.
pub(crate) const AUTH_KEY: &str = "tskey-auth-lab";
/// The address of the servers in the namespace of the nodes.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The port of the control server.
const CONTROL_PORT: u16 = 18090;
/// The timeout for a killed server to release its port.
const FREE: Duration = Duration::from_secs(20);
/// The relay regions. The first is home for all nodes until it fails.
const REGIONS: [u32; 1] = [900];

/// The control server of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlKind {
    /// The test control server of the tailscale.com module: see `lab/go/control`.
    Test,
    /// Headscale: see `lab/headscale`.
    Headscale,
}

#[derive(Debug)]
enum Control {
    Test(Box<Process>),
    Headscale(Box<Headscale>),
}

/// A control server and relays, stopped on drop.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) programs: PathBuf,
    pub(crate) folder: tempfile::TempDir,
    auth_key: String,
    address: SocketAddr,
    control: Mutex<Control>,
    relay: Mutex<Option<Process>>,
    relay_port: String,
    host6: Option<IpAddr>,
}

impl Network {
    /// Starts a network with the test control server.
    pub(crate) async fn start(programs: &Path) -> Result<Self, String> {
        Self::start_on(programs, ControlKind::Test).await
    }

    pub(crate) async fn start_on(programs: &Path, kind: ControlKind) -> Result<Self, String> {
        Self::start_at(programs, kind, HERE, None).await
    }

    /// Starts a network with its servers on this local address, and the relay on a second one too.
    pub(crate) async fn start_at(
        programs: &Path,
        kind: ControlKind,
        host: IpAddr,
        host6: Option<IpAddr>,
    ) -> Result<Self, String> {
        let address = SocketAddr::new(host, CONTROL_PORT);
        until_free(address).await?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (relay, node) = start_relay(programs, folder.path(), (host, host6), "0").await?;
        let relay_port = node["DERPPort"].to_string();
        let region = REGIONS[0];
        let (control, auth_key) = match kind {
            ControlKind::Test => {
                let map = json!({ "Regions": { region.to_string(): {
                    "RegionID": region, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node],
                }}});
                let map_file = folder.path().join("relays.json");
                std::fs::write(&map_file, map.to_string()).map_err(|error| error.to_string())?;
                let control = start_control(programs, address, &map_file).await?;
                (Control::Test(Box::new(control)), AUTH_KEY.to_owned())
            }
            ControlKind::Headscale => {
                let folder = folder.path().join("headscale");
                let server = Headscale::start(programs, &folder, &address.to_string(), region, &node).await?;
                let auth_key = server.make_key(true, false).await?;
                (Control::Headscale(Box::new(server)), auth_key)
            }
        };
        Ok(Self {
            programs: programs.to_owned(),
            folder,
            auth_key,
            address,
            control: Mutex::new(control),
            relay: Mutex::new(Some(relay)),
            relay_port,
            host6,
        })
    }

    /// Returns the auth key for nodes.
    pub(crate) fn auth_key(&self) -> &str {
        &self.auth_key
    }

    pub(crate) fn control_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the folder of a node with that name.
    pub(crate) fn folder_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sends a command to the control server: see `lab/go/control`. With Headscale, "down" kills the server and "up"
    /// restarts it on its database.
    pub(crate) async fn control(&self, command: &str) -> Result<(), String> {
        match (&mut *self.control.lock().await, command) {
            (Control::Test(process), command) => process.command(command).await,
            (Control::Headscale(server), "down") => server.kill().await,
            (Control::Headscale(server), "up") => server.serve().await,
            (Control::Headscale(server), "expire") => server.expire_all().await,
            // Headscale re-admits a node that presents its auth key.
            (Control::Headscale(_), "unexpire") => Ok(()),
            (Control::Headscale(_), other) => Err(format!("Headscale does not support {other:?}")),
        }
    }

    /// Creates an auth key with these properties; only Headscale supports that.
    pub(crate) async fn make_key(&self, reusable: bool, ephemeral: bool) -> Result<String, String> {
        match &*self.control.lock().await {
            Control::Test(_) => Err("the test control server has one key".to_owned()),
            Control::Headscale(server) => server.make_key(reusable, ephemeral).await,
        }
    }

    /// Lists the host names of all nodes; only Headscale supports that.
    pub(crate) async fn nodes(&self) -> Result<Vec<String>, String> {
        match &*self.control.lock().await {
            Control::Test(_) => Err("the test control server does not list its nodes".to_owned()),
            Control::Headscale(server) => {
                Ok(server.nodes().await?.into_iter().map(|node| node.name).collect())
            }
        }
    }

    /// Replaces the test control server by a new one without state.
    pub(crate) async fn replace_control(&self) -> Result<(), String> {
        let Control::Test(control) = &mut *self.control.lock().await else {
            return Err("a new Headscale does not have the auth key".to_owned());
        };
        let map_file = self.folder.path().join("relays.json");
        // The old server must release its port first.
        control.command("down").await?;
        let new = start_control(&self.programs, self.address, &map_file).await?;
        let old = std::mem::replace(&mut **control, new);
        old.kill().await
    }

    /// Stops the relay.
    pub(crate) async fn stop_relay(&self) -> Result<(), String> {
        match self.relay.lock().await.take() {
            Some(relay) => relay.kill().await,
            None => Ok(()),
        }
    }

    /// Restarts the relay with the same address and certificate.
    pub(crate) async fn start_relay(&self) -> Result<(), String> {
        let folder = self.folder.path();
        let hosts = (self.address.ip(), self.host6);
        let (relay, _) = start_relay(&self.programs, folder, hosts, &self.relay_port).await?;
        *self.relay.lock().await = Some(relay);
        Ok(())
    }
}

/// Waits until the control server of an earlier network has released its port.
async fn until_free(address: SocketAddr) -> Result<(), String> {
    let begin = Instant::now();
    while let Err(error) = TcpListener::bind(address).await {
        if begin.elapsed() > FREE {
            return Err(format!("{address}: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn start_control(programs: &Path, address: SocketAddr, map_file: &Path) -> Result<Process, String> {
    let (address, map_file) = (address.to_string(), map_file.to_string_lossy());
    let args = ["-listen", &address, "-auth-key", AUTH_KEY, "-relays", &map_file];
    let mut control = Process::start(&programs.join("control"), &args)?;
    control.ready().await?;
    Ok(control)
}

async fn start_relay(
    programs: &Path,
    folder: &Path,
    (host, host6): (IpAddr, Option<IpAddr>),
    port: &str,
) -> Result<(Process, Value), String> {
    let (host, folder) = (host.to_string(), folder.join("relay"));
    let (host6, folder) = (
        host6.map(|host| host.to_string()).unwrap_or_default(),
        folder.to_string_lossy(),
    );
    let args = [
        "-folder", &folder, "-host", &host, "-host6", &host6, "-port", port,
    ];
    let mut relay = Process::start(&programs.join("relay"), &args)?;
    let node = relay.ready_json().await?;
    Ok((relay, node))
}
