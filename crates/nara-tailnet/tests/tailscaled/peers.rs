use std::net::IpAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use nara_mesh::transport::{Candidate, PeerSource as _};
use nara_tailnet::MeshNode as _;
use nara_tailnet::status::{NodeState, NotReadyReason, PathKind};

use crate::support::FakePeer;
use crate::{LONG, running};

type Changes = Pin<Box<dyn Stream<Item = Vec<Candidate>> + Send>>;

/// Waits until the watched list matches.
async fn seen(changes: &mut Changes, expected: impl Fn(&[Candidate]) -> bool) -> Vec<Candidate> {
    let wait = async {
        loop {
            let candidates = changes.next().await.unwrap();
            if expected(&candidates) {
                return candidates;
            }
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap()
}

#[tokio::test]
async fn joining_leaving_going_offline_and_moving_are_seen() {
    let (_folder, daemon, node) = running().await;
    daemon.followed().await;
    assert_eq!(node.candidates().await.unwrap(), []);
    let mut changes: Changes = node.watch();

    daemon.change(|state| state.peers.push(FakePeer::new("bob-x7q2", "100.64.0.2")));
    let joined = seen(&mut changes, |peers| peers.len() == 1).await;
    assert_eq!(joined[0].host_name, "bob-x7q2");
    assert_eq!(joined[0].online, Some(true));

    daemon.change(|state| state.peers[0].online = false);
    seen(&mut changes, |peers| peers[0].online == Some(false)).await;
    // A control server that never reports which nodes are online.
    daemon.change(|state| state.peers[0].last_seen = false);
    seen(&mut changes, |peers| peers[0].online.is_none()).await;
    // Headscale reports which nodes are online, but no last-seen time for the others.
    daemon.change(|state| state.peers.push(FakePeer::new("carol-q2x7", "100.64.0.3")));
    seen(&mut changes, |peers| {
        let online = |host_name: &str| peers.iter().find(|peer| peer.host_name == host_name)?.online;
        (online("bob-x7q2"), online("carol-q2x7")) == (Some(false), Some(true))
    })
    .await;
    daemon.change(|state| state.peers.truncate(1));
    seen(&mut changes, |peers| peers.len() == 1).await;

    let address: IpAddr = "100.64.0.9".parse().unwrap();
    daemon.change(|state| state.peers[0].addresses = vec![address]);
    seen(&mut changes, |peers| peers[0].addresses == [address]).await;
    let name = node.owner_of(address).await.unwrap();
    assert_eq!(name.as_str(), "bob");

    daemon.change(|state| state.peers.clear());
    seen(&mut changes, <[Candidate]>::is_empty).await;
    assert_eq!(node.owner_of(address).await, None);
}

#[tokio::test]
async fn a_restart_of_the_daemon_is_survived_and_peers_are_kept_meanwhile() {
    let (_folder, mut daemon, node) = running().await;
    daemon.change(|state| state.peers.push(FakePeer::new("bob", "100.64.0.2")));
    let mut changes: Changes = node.watch();
    let known = node.candidates().await.unwrap();
    if known.is_empty() {
        seen(&mut changes, |peers| peers.len() == 1).await;
    }

    daemon.stop();
    let mut status = node.watch_status();
    let gone = status.wait_for(|status| matches!(status.state, NodeState::Waiting(_)));
    tokio::time::timeout(LONG, gone).await.unwrap().unwrap();
    let address = "100.64.0.2".parse().unwrap();
    assert!(node.owner_of(address).await.is_some());
    assert_eq!(node.status().addresses.len(), 2);

    // A starting daemon knows no peers; the known ones are kept.
    let peers = std::mem::take(&mut daemon.state().peers);
    daemon.state().backend_state = "Starting";
    daemon.listen();
    let mut status = node.watch_status();
    let starting = status.wait_for(|status| status.state == NodeState::Waiting(NotReadyReason::Connecting));
    tokio::time::timeout(LONG, starting).await.unwrap().unwrap();
    assert!(node.owner_of(address).await.is_some());
    daemon.followed().await;
    daemon.change(|state| {
        state.backend_state = "Running";
        state.peers = peers;
    });
    node.ready(LONG).await.unwrap();
    daemon.change(|state| state.peers.push(FakePeer::new("carol", "100.64.0.3")));
    seen(&mut changes, |peers| peers.len() == 2).await;
}

#[tokio::test]
async fn a_thousand_peers_that_join_at_once_are_asked_for_together() {
    let (_folder, daemon, node) = running().await;
    daemon.followed().await;
    let mut changes: Changes = node.watch();
    let before = daemon.state().count("status");
    for number in 0..1000_u32 {
        let address = format!("100.64.{}.{}", 1 + number / 250, 1 + number % 250);
        daemon.change(|state| {
            state
                .peers
                .push(FakePeer::new(&format!("nara{number}"), &address))
        });
    }
    let candidates = seen(&mut changes, |peers| peers.len() == 1000).await;
    assert_eq!(
        candidates.iter().filter(|peer| peer.online == Some(true)).count(),
        1000
    );
    // Without debouncing, each change would cause a query.
    let asked = daemon.state().count("status") - before;
    assert!(asked < 100, "{asked}");
}

#[tokio::test]
async fn the_path_to_a_peer_is_told() {
    let (_folder, daemon, node) = running().await;
    daemon.change(|state| {
        for (name, address, cur_addr, active) in [
            ("direct", "100.64.0.2", "10.77.0.1:42371", true),
            ("relayed", "100.64.0.3", "", true),
            ("silent", "100.64.0.4", "", false),
        ] {
            let mut peer = FakePeer::new(name, address);
            peer.cur_addr = cur_addr.to_owned();
            peer.active = active;
            state.peers.push(peer);
        }
    });
    let mut changes: Changes = node.watch();
    if node.candidates().await.unwrap().is_empty() {
        seen(&mut changes, |peers| peers.len() == 3).await;
    }
    for (address, expected) in [
        (
            "100.64.0.2",
            PathKind::Direct {
                endpoint: "10.77.0.1:42371".parse().ok(),
            },
        ),
        (
            "100.64.0.3",
            PathKind::Relay {
                region: "lab".to_owned(),
            },
        ),
        ("100.64.0.4", PathKind::Unknown),
        ("100.64.0.5", PathKind::Unknown),
        ("100.64.0.1", PathKind::Local),
    ] {
        assert_eq!(
            node.path_to(address.parse().unwrap()).await,
            expected,
            "{address}"
        );
    }
}

#[tokio::test]
async fn whois_returns_the_owner_of_an_address() {
    let (_folder, daemon, node) = running().await;
    // Not announced on the bus, so the daemon is queried.
    daemon.state().peers.push(FakePeer::new("bob-x7q2", "100.64.0.2"));
    let found = node
        .whois("100.64.0.2:1234".parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.host_name, "bob-x7q2");
    assert_eq!(found.dns_name, "bob-x7q2.lab.internal");
    assert!(found.node_key.starts_with("nodekey:"));
    assert_eq!(node.whois("100.64.0.3:1".parse().unwrap()).await.unwrap(), None);
}
