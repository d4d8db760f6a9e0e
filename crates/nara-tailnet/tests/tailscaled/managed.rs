use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nara_mesh::transport::Transport as _;
use nara_tailnet::managed::{ManagedConfig, ManagedNode};
use nara_tailnet::status::{NodeState, NotReadyReason};
use nara_tailnet::{AuthKey, MeshNode as _};
use serde_json::Value;

use crate::LONG;
use crate::support::{FakeDaemon, FakePeer};

/// A stand-in for tailscaled that records its arguments and pid, and runs until SIGTERM.
const PROGRAM: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
echo "$@" > arguments
env > environment
trap 'echo ended >> ends; exit 0' TERM
echo "started $$" >&2
echo $$ >> pids
while :; do sleep 0.05; done
"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tailscaled");
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> ManagedConfig {
        let mut config = ManagedConfig::new(self.path("state"), "alice-x7q2");
        config.program = self.path("tailscaled");
        config.control_url = Some("http://127.0.0.1:18090".to_owned());
        config.auth_key = Some(AuthKey::new("tskey-lab", "test").unwrap());
        config
    }

    fn pids(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("pids")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.unwrap();
    }
}

fn is_alive(pid: &str) -> bool {
    // A zombie has exited.
    let status = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", pid])
        .output()
        .unwrap();
    let state = String::from_utf8_lossy(&status.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn kill(pid: &str) {
    assert!(
        std::process::Command::new("kill")
            .args(["-KILL", pid])
            .status()
            .unwrap()
            .success()
    );
}

/// Returns the body of the last such call.
fn last_body(daemon: &FakeDaemon, call: &str) -> Value {
    let state = daemon.state();
    let (_, body) = state.calls.iter().rev().find(|(path, _)| path == call).unwrap();
    serde_json::from_str(body).unwrap()
}

/// Returns the body of the first such call.
fn body(daemon: &FakeDaemon, call: &str) -> Value {
    let state = daemon.state();
    let (_, body) = state.calls.iter().find(|(path, _)| path == call).unwrap();
    serde_json::from_str(body).unwrap()
}

#[tokio::test]
async fn the_daemon_inherits_only_paths_and_network_settings_from_our_environment() {
    let place = Place::new(PROGRAM);
    let node = ManagedNode::start(place.config()).unwrap();
    place.until(|place| !place.pids().is_empty()).await;
    let environment = fs::read_to_string(place.path("environment")).unwrap();
    node.leave().await.unwrap();
    let names: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    // Cargo sets these variables; they stand for variables that must not be passed on.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(
        names.contains(&"PATH") && !names.iter().any(|name| name.starts_with("CARGO")),
        "{names:?}"
    );
}

#[tokio::test]
async fn the_socket_of_a_folder_is_found_however_deep_the_folder_is() {
    let place = Place::new(PROGRAM);
    let mut config = place.config();
    let shallow = config.folder.clone();
    let node = ManagedNode::start(config.clone()).unwrap();
    assert_eq!(ManagedNode::socket_in(&shallow), node.socket());
    node.leave().await.unwrap();

    // The path of a unix socket is limited to about a hundred bytes.
    config.folder = shallow.join("x".repeat(60)).join("y".repeat(60));
    let deep = config.folder.clone();
    for _ in 0..2 {
        let node = ManagedNode::start(config.clone()).unwrap();
        assert!(node.socket().as_os_str().len() < 100);
        // Other commands know only the folder.
        assert_eq!(ManagedNode::socket_in(&deep), node.socket());
        node.leave().await.unwrap();
    }
}

#[tokio::test]
async fn it_runs_in_userspace_in_a_closed_folder_and_logs_in_with_the_key() {
    let place = Place::new(PROGRAM);
    let daemon = FakeDaemon::start(&place.path("state"));
    daemon.state().backend_state = "NeedsLogin";
    daemon.state().state_after_login = Some("Running");
    let node = ManagedNode::start(place.config()).unwrap();
    node.ready(LONG).await.unwrap();
    place.until(|place| !place.pids().is_empty()).await;

    let arguments = fs::read_to_string(place.path("arguments")).unwrap();
    for argument in ["--tun=userspace-networking", "--port=0", "--no-logs-no-support"] {
        assert!(arguments.contains(argument), "{arguments}");
    }
    assert!(!arguments.contains("tskey"), "{arguments}");
    assert!(!arguments.contains("mem:"), "{arguments}");
    let mode = fs::metadata(place.path("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let start = body(&daemon, "start");
    assert_eq!(start["AuthKey"], "tskey-lab");
    assert_eq!(start["UpdatePrefs"]["ControlURL"], "http://127.0.0.1:18090");
    assert_eq!(start["UpdatePrefs"]["Hostname"], "alice-x7q2");
    assert_eq!(start["UpdatePrefs"]["WantRunning"], true);
    assert_eq!(daemon.state().count("login-interactive"), 1);
    node.leave().await.unwrap();
}

#[tokio::test]
async fn a_node_that_has_joined_before_does_not_log_in_again() {
    let place = Place::new(PROGRAM);
    let daemon = FakeDaemon::start(&place.path("state"));
    let node = ManagedNode::start(place.config()).unwrap();
    node.ready(LONG).await.unwrap();
    place.until(|_| daemon.state().count("start") == 1).await;
    node.leave().await.unwrap();
    assert_eq!(daemon.state().count("login-interactive"), 0);
    // The node stays on the tailnet.
    assert_eq!(daemon.state().count("logout"), 0);
}

#[tokio::test]
async fn a_daemon_that_dies_is_started_again() {
    let place = Place::new(PROGRAM);
    let _daemon = FakeDaemon::start(&place.path("state"));
    let node = ManagedNode::start(place.config()).unwrap();
    place.until(|place| place.pids().len() == 1).await;
    kill(&place.pids()[0]);
    place.until(|place| place.pids().len() == 2).await;
    node.leave().await.unwrap();
    assert!(!is_alive(&place.pids()[1]));
}

#[tokio::test]
async fn leaving_ends_the_daemon_and_forgets_an_ephemeral_node() {
    let place = Place::new(PROGRAM);
    let daemon = FakeDaemon::start(&place.path("state"));
    let mut config = place.config();
    config.ephemeral = true;
    let node = ManagedNode::start(config).unwrap();
    place.until(|place| place.pids().len() == 1).await;
    assert!(
        fs::read_to_string(place.path("arguments"))
            .unwrap()
            .contains("--state=mem:")
    );
    node.leave().await.unwrap();
    daemon.stop();
    assert_eq!(daemon.state().count("logout"), 1);
    assert_eq!(fs::read_to_string(place.path("ends")).unwrap(), "ended\n");
    let mut status = node.watch_status();
    let left = status.wait_for(|status| status.state == NodeState::Left);
    tokio::time::timeout(LONG, left).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_is_dropped_takes_its_daemon_with_it() {
    let place = Place::new(PROGRAM);
    let _daemon = FakeDaemon::start(&place.path("state"));
    let node = ManagedNode::start(place.config()).unwrap();
    place.until(|place| place.pids().len() == 1).await;
    drop(node);
    place.until(|place| !is_alive(&place.pids()[0])).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_run_or_ends_is_the_reason() {
    let place = Place::new("#!/bin/sh\necho 'no space left' >&2\nexit 3\n");
    let node = ManagedNode::start(place.config()).unwrap();
    let mut status = node.watch_status();
    let told = status.wait_for(|status| {
        matches!(&status.state, NodeState::Waiting(NotReadyReason::Other { detail }) if detail.contains("no space left"))
    });
    tokio::time::timeout(LONG, told).await.unwrap().unwrap();

    let mut config = place.config();
    config.program = Path::new("/nowhere/tailscaled").to_owned();
    let node = ManagedNode::start(config).unwrap();
    let not_ready = node.ready(LONG).await.unwrap_err();
    assert!(
        matches!(not_ready.reason, NotReadyReason::ProgramMissing { .. }),
        "{not_ready}"
    );
    assert!(
        not_ready
            .to_string()
            .contains("/nowhere/tailscaled cannot be run"),
        "{not_ready}"
    );
}

#[tokio::test]
async fn a_second_nara_of_the_machine_gets_a_port_of_its_own_forwarded() {
    let place = Place::new(PROGRAM);
    let daemon = FakeDaemon::start(&place.path("state"));
    daemon.state().peers.push(FakePeer::new("bob", "100.64.0.2"));
    let node = ManagedNode::start(place.config()).unwrap();
    node.ready(LONG).await.unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut listener = node
        .listen(std::net::SocketAddr::from(([100, 64, 0, 1], port)))
        .await
        .unwrap();
    assert_eq!(listener.local_addr().to_string(), format!("100.64.0.1:{port}"));

    let config = body(&daemon, "serve-config");
    let forward = &config["TCP"][port.to_string()];
    assert_eq!(forward["ProxyProtocol"], 1);
    let connect = || tokio::net::TcpStream::connect(forward["TCPForward"].as_str().unwrap().to_owned());
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // A source that is no peer, and bytes that are no header.
    for forged in [
        "PROXY TCP4 100.64.0.9 100.64.0.1 59722 9632\r\n",
        "GET /ping HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = connect().await.unwrap();
        stream.write_all(forged.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes))
            .await
            .unwrap();
        assert!(read.is_err() || bytes.is_empty());
    }
    let mut stream = connect().await.unwrap();
    stream
        .write_all(b"PROXY TCP4 100.64.0.2 100.64.0.1 59722 9632\r\nhello")
        .await
        .unwrap();
    let (mut accepted, source) = tokio::time::timeout(LONG, listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(source.to_string(), "100.64.0.2:59722");
    let mut bytes = [0; 5];
    accepted.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"hello");

    // Another port of the node, forwarded by default or not, leaves this port configured.
    let free = node.listen("100.64.0.1:0".parse().unwrap()).await.unwrap();
    assert_eq!(last_body(&daemon, "serve-config"), config);
    let also_taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let also = also_taken.local_addr().unwrap().port();
    let second = node
        .listen(std::net::SocketAddr::from(([100, 64, 0, 1], also)))
        .await
        .unwrap();
    let both = last_body(&daemon, "serve-config");
    assert_eq!(both["TCP"][port.to_string()], *forward);
    assert!(both["TCP"][also.to_string()].is_object(), "{both}");
    drop((free, second));
    node.leave().await.unwrap();
}
