//! A Headscale with its configuration, database and relay map in its own folder.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// The timeout for the server to listen, and for its command line.
const READY: Duration = Duration::from_secs(40);
/// The time after which Headscale removes an ephemeral node that did not log out; it refuses less than 65 s.
pub(super) const EPHEMERAL_TIMEOUT_S: u32 = 70;

/// A running Headscale. Killed on drop.
#[derive(Debug)]
pub(super) struct Headscale {
    program: PathBuf,
    folder: PathBuf,
    address: String,
    process: Option<Child>,
}

/// A node in Headscale's list.
#[derive(Debug, Deserialize)]
pub(super) struct KnownNode {
    id: u64,
    pub(super) name: String,
}

impl Headscale {
    /// Starts a Headscale with one user and no nodes. `relay` is the node of the relay map in region `region`.
    pub(super) async fn start(
        programs: &Path,
        folder: &Path,
        address: &str,
        region: u32,
        relay: &Value,
    ) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let write = |name: &str, text: String| {
            std::fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))
        };
        write("relays.yaml", relay_map(region, relay))?;
        write("config.yaml", configuration(folder, address))?;
        let mut server = Self {
            program: programs.join("headscale"),
            folder: folder.to_owned(),
            address: address.to_owned(),
            process: None,
        };
        server.serve().await?;
        server.ask(&["users", "create", "naras"]).await?;
        Ok(server)
    }

    /// Starts the server on the existing database.
    pub(super) async fn serve(&mut self) -> Result<(), String> {
        let log = std::fs::File::create(self.folder.join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let mut process = self
            .command(&["serve"])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", self.program.display()))?;
        let begin = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() || self.ask(&["users", "list"]).await.is_err()
        {
            let ended = process.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || begin.elapsed() > READY {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(format!("Headscale does not serve ({ended:?}): {log}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Kills the server. Its database stays.
    pub(super) async fn kill(&mut self) -> Result<(), String> {
        match self.process.take() {
            Some(mut process) => process.kill().await.map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }

    /// Creates an auth key for nodes of the user.
    pub(super) async fn make_key(&self, reusable: bool, ephemeral: bool) -> Result<String, String> {
        let mut args = vec!["preauthkeys", "create", "--user", "1", "--expiration", "24h"];
        if reusable {
            args.push("--reusable");
        }
        if ephemeral {
            args.push("--ephemeral");
        }
        Ok(self.ask(&args).await?.trim().to_owned())
    }

    pub(super) async fn nodes(&self) -> Result<Vec<KnownNode>, String> {
        let text = self.ask(&["nodes", "list", "--output", "json"]).await?;
        let nodes: Option<_> =
            serde_json::from_str(&text).map_err(|error| format!("nodes: {error}: {text}"))?;
        Ok(nodes.unwrap_or_default())
    }

    /// Expires the keys of all nodes.
    pub(super) async fn expire_all(&self) -> Result<(), String> {
        for node in self.nodes().await? {
            let id = node.id.to_string();
            self.ask(&["nodes", "expire", "--identifier", &id]).await?;
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.folder.join("config.yaml"))
            .args(args);
        command
    }

    /// Runs Headscale's command line, which talks to the server over a socket.
    async fn ask(&self, args: &[&str]) -> Result<String, String> {
        let output = self
            .command(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(READY, output)
            .await
            .map_err(|_| format!("headscale {args:?} does not exit"))?
            .map_err(|error| format!("headscale {args:?}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("headscale {args:?}: {}", text(&output.stderr)))
        }
    }
}

/// Formats the relay map. Headscale expects its keys in lower case.
fn relay_map(region: u32, relay: &Value) -> String {
    let fields: Vec<_> = relay
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{}: {value}", key.to_lowercase()))
        .collect();
    let node = fields.join(", ");
    format!(
        "regions:\n  {region}:\n    regionid: {region}\n    regioncode: lab\n    regionname: Lab\n    nodes:\n      - {{{node}}}\n"
    )
}

/// Formats the configuration: listens on loopback, with update checks and the built-in relay disabled.
fn configuration(folder: &Path, address: &str) -> String {
    let folder = folder.display();
    format!(
        "\
server_url: http://{address}
listen_addr: {address}
metrics_listen_addr: 127.0.0.1:0
grpc_listen_addr: 127.0.0.1:0
noise: {{private_key_path: {folder}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: 'fd7a:115c:a1e0::/48', allocation: sequential}}
derp:
  server: {{enabled: false}}
  urls: []
  paths: [{folder}/relays.yaml]
  auto_update_enabled: false
  update_frequency: 24h
disable_check_updates: true
ephemeral_node_inactivity_timeout: {EPHEMERAL_TIMEOUT_S}s
database: {{type: sqlite, sqlite: {{path: {folder}/db.sqlite, write_ahead_log: true}}}}
policy: {{mode: file, path: ''}}
dns: {{magic_dns: true, base_domain: lab.internal, override_local_dns: false, nameservers: {{global: []}}}}
unix_socket: {folder}/socket
unix_socket_permission: '0700'
logtail: {{enabled: false}}
log: {{level: info}}
"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::relay_map;

    #[test]
    fn the_keys_of_the_relay_map_are_lower_case_and_its_region_is_a_number() {
        let map = relay_map(
            900,
            &json!({ "Name": "900a", "DERPPort": 1, "CertName": "sha256-raw:AB" }),
        );
        assert!(map.contains("\n  900:\n"), "{map}");
        assert!(
            map.contains("name: \"900a\"") && map.contains("derpport: 1"),
            "{map}"
        );
        assert!(map.contains("certname: \"sha256-raw:AB\""), "{map}");
    }
}
