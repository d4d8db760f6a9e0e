use futures_util::StreamExt as _;
use nara_mesh::transport::PeerSource as _;
use nara_tailnet::MeshNode as _;
use nara_tailnet::status::{NodeState, NotReadyReason};
use nara_tailnet::tailscaled::TailscaledNode;

use crate::support::{FakeDaemon, FakePeer, Fault};
use crate::{LONG, running};

#[tokio::test]
async fn a_daemon_that_misbehaves_is_the_reason_and_can_recover() {
    for fault in [
        Fault::Status(403, "invalid localapi request\n"),
        Fault::Status(500, "server has no local backend"),
        Fault::HalfJson,
        Fault::Oversized,
    ] {
        let folder = tempfile::tempdir().unwrap();
        let daemon = FakeDaemon::start(folder.path());
        daemon.state().faults.insert("status", fault.clone());
        let node = TailscaledNode::new(daemon.socket());
        let mut status = node.watch_status();
        let told = status.wait_for(|status| {
            matches!(
                status.state,
                NodeState::Waiting(NotReadyReason::DaemonMisbehaves { .. })
            )
        });
        tokio::time::timeout(LONG, told).await.unwrap().unwrap();
        daemon.state().faults.clear();
        assert!(node.ready(LONG).await.unwrap().is_running(), "{fault:?}");
    }
}

#[tokio::test]
async fn the_error_names_what_is_wrong_with_an_answer() {
    let (_folder, daemon, node) = running().await;
    for (fault, said) in [
        (
            Fault::Status(403, "whois access denied\n"),
            "403 Forbidden: whois access denied",
        ),
        (
            Fault::Status(500, "\x1b[2Jboo\nmore"),
            "500 Internal Server Error: [2Jboo",
        ),
        (Fault::HalfJson, "the answer to whois?addr=100.64.0.7%3A1"),
        (Fault::Oversized, "exceeds 33554432 bytes"),
    ] {
        daemon.state().faults.insert("whois", fault);
        let error = node
            .whois("100.64.0.7:1".parse().unwrap())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_call_to_a_daemon_that_does_not_answer_times_out() {
    let (_folder, daemon, node) = running().await;
    daemon.state().faults.insert("whois", Fault::Silent);
    // The paused clock advances by itself when the runtime is idle.
    tokio::time::pause();
    let error = node.whois("100.64.0.7:1".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn broken_and_endless_messages_on_the_bus_do_no_harm() {
    let (_folder, daemon, node) = running().await;
    daemon.followed().await;
    let mut changes = node.watch();
    daemon.say("{\"ErrMessage\":");
    daemon.say("\u{0}\u{1}");
    daemon.say("");
    for _ in 0..64 {
        daemon.say_raw(vec![b'x'; 1 << 18]);
    }
    daemon.say("");
    daemon.change(|state| state.peers.push(FakePeer::new("bob", "100.64.0.2")));
    let seen = async { while changes.next().await.unwrap().len() != 1 {} };
    tokio::time::timeout(LONG, seen).await.unwrap();
    assert!(node.status().is_running());
}
