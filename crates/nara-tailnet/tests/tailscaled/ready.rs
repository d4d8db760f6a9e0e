use nara_tailnet::MeshNode as _;
use nara_tailnet::status::{NodeState, NotReadyReason};
use nara_tailnet::tailscaled::TailscaledNode;

use crate::support::{FakeDaemon, State};
use crate::{LONG, running};

#[tokio::test]
async fn a_running_node_reports_its_addresses_and_the_granted_name() {
    let (_folder, _daemon, node) = running().await;
    let status = node.status();
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["100.64.0.1", "fd7a:115c:a1e0::1"]);
    assert_eq!(status.granted_name.as_deref(), Some("own-1"));
    assert_eq!(status.control_url.as_deref(), Some("http://127.0.0.1:18090"));
    assert_eq!(status.version.as_deref(), Some("1.92.4"));
}

#[tokio::test]
async fn a_node_that_does_not_run_reports_why() {
    const REFUSED: &str = "You are logged out. The last login error was: invalid authkey";
    const UNREACHABLE: &str = "You are logged out. The last login error was: fetch control key: Get \
                               \"http://127.0.0.1:18090/key?v=131\": dial tcp 127.0.0.1:18090: connect: \
                               connection refused";
    let state = |backend_state, health: &str| {
        let health = health.to_owned();
        move |state: &mut State| {
            state.backend_state = backend_state;
            state.addresses.clear();
            state.health = vec![health];
        }
    };
    type Change = Box<dyn FnOnce(&mut State)>;
    type Expected = fn(&NotReadyReason) -> bool;
    let cases: Vec<(Change, Expected)> = vec![
        (
            Box::new(state("NeedsLogin", REFUSED)),
            |reason| matches!(reason, NotReadyReason::KeyRefused { detail } if detail == "invalid authkey"),
        ),
        (
            Box::new(state("NeedsLogin", UNREACHABLE)),
            |reason| matches!(reason, NotReadyReason::ControlUnreachable { detail } if detail.starts_with("fetch control key")),
        ),
        (Box::new(state("NeedsLogin", "")), |reason| {
            matches!(reason, NotReadyReason::NeedsLogin { url: None })
        }),
        (
            Box::new(|state: &mut State| {
                state.backend_state = "NeedsLogin";
                state.auth_url = "https://login.example/a/1";
            }),
            |reason| matches!(reason, NotReadyReason::NeedsLogin { url: Some(url) } if url.ends_with("/a/1")),
        ),
        (Box::new(state("NeedsMachineAuth", "")), |reason| {
            matches!(reason, NotReadyReason::NeedsApproval)
        }),
        (Box::new(state("Stopped", "")), |reason| {
            matches!(reason, NotReadyReason::Stopped)
        }),
        (Box::new(state("Starting", "")), |reason| {
            matches!(reason, NotReadyReason::Connecting)
        }),
        (Box::new(state("Running", "")), |reason| {
            matches!(reason, NotReadyReason::NoAddress)
        }),
        (
            Box::new(state("InUseOtherUser", "")),
            |reason| matches!(reason, NotReadyReason::Other { detail } if detail.contains("InUseOtherUser")),
        ),
    ];
    for (change, expected) in cases {
        let (_folder, daemon, node) = running().await;
        daemon.change(change);
        let mut status = node.watch_status();
        let told =
            status.wait_for(|status| matches!(&status.state, NodeState::Waiting(reason) if expected(reason)));
        tokio::time::timeout(LONG, told).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_refused_key_ends_the_wait_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = FakeDaemon::start(folder.path());
    daemon.state().backend_state = "NeedsLogin";
    daemon.state().health = vec!["The last login error was: invalid key: not found".to_owned()];
    let node = TailscaledNode::new(daemon.socket());
    // The wait must end early.
    let not_ready = node.ready(10 * LONG).await.unwrap_err();
    assert!(!not_ready.reason.may_pass());
    assert!(
        not_ready.reason.hint().unwrap().contains("make a new key"),
        "{not_ready}"
    );
}

#[tokio::test]
async fn a_daemon_that_comes_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = FakeDaemon::start(folder.path());
    daemon.stop();
    let node = TailscaledNode::new(daemon.socket());
    let mut status = node.watch_status();
    let waiting = status.wait_for(|status| {
        matches!(
            status.state,
            NodeState::Waiting(NotReadyReason::DaemonNotRunning { .. })
        )
    });
    tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    daemon.listen();
    assert!(node.ready(LONG).await.unwrap().is_running());
}

#[tokio::test]
async fn an_error_of_the_control_server_on_the_bus_is_the_reason() {
    let (_folder, daemon, node) = running().await;
    daemon.followed().await;
    daemon.say(r#"{"ErrMessage":"invalid key: unable to validate API key"}"#);
    daemon.change(|state| {
        state.backend_state = "NeedsLogin";
        state.addresses.clear();
    });
    let mut status = node.watch_status();
    let told = status
        .wait_for(|status| matches!(&status.state, NodeState::Waiting(NotReadyReason::KeyRefused { detail }) if detail.contains("API key")));
    tokio::time::timeout(LONG, told).await.unwrap().unwrap();
}
