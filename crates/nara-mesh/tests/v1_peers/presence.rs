//! Presence: v1 peers learn it from us, and we from them.

use nara_mesh::Nara;
use nara_mesh::proto::event::Service;
use nara_mesh::proto::presence::PresenceState;

use crate::support::{GRACE, Mesh, V1Peer, configured, ip, until};

fn presence(alice: &Nara, name: &str) -> PresenceState {
    alice.registry().by_name(name).unwrap().presence()
}

/// Returns whether a v1 peer has an event of this service by alice.
fn heard(peer: &V1Peer, service: Service) -> bool {
    let events = peer.events();
    events
        .iter()
        .any(|event| event.emitter == "alice" && event.service() == Some(service))
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_hears_at_once_that_we_come_and_that_we_go() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.alice().know(configured(&greta)).start().await.unwrap();
    let begun = tokio::time::Instant::now();
    until(async || heard(&greta, Service::HeyThere)).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    assert_eq!(greta.is_online("alice"), Some(true));
    // After an exchange a peer counts as online.
    until(async || presence(&alice, "greta") == PresenceState::Online).await;

    alice.shutdown(GRACE).await;
    assert!(heard(&greta, Service::Chau));
    assert_eq!(greta.is_online("alice"), Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_that_appears_later_hears_that_we_are_there() {
    let mesh = Mesh::new();
    let alice = mesh.alice().start().await.unwrap();
    let greta = mesh.v1("greta", 2).await;
    alice.registry().register(configured(&greta)).unwrap();
    until(async || heard(&greta, Service::HeyThere)).await;
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn without_gossip_no_peer_is_told() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.alice().without_gossip().know(configured(&greta));
    let alice = alice.start().await.unwrap();
    alice.peer("greta").ping().await.unwrap();
    alice.shutdown(GRACE).await;
    assert_eq!(greta.is_online("alice"), None);
}

#[tokio::test(start_paused = true)]
async fn presence_follows_from_events_and_calls() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    assert_eq!(presence(&alice, "greta"), PresenceState::Unknown);
    alice.peer("greta").ping().await.unwrap();
    assert_eq!(presence(&alice, "greta"), PresenceState::Online);

    greta.send_zine(ip(1), vec![greta.chau()]).await;
    assert_eq!(presence(&alice, "greta"), PresenceState::Offline);
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    mesh.clock.advance(std::time::Duration::from_secs(60));
    greta.send_zine(ip(1), vec![greta.hey_there()]).await;
    assert_eq!(presence(&alice, "greta"), PresenceState::Online);

    mesh.network.silence(ip(2));
    mesh.network.cut(ip(2));
    alice.peer("greta").ping().await.unwrap_err();
    assert_eq!(presence(&alice, "greta"), PresenceState::Missing);
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn goodbyes_survive_a_restart() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let start = || {
        let alice = mesh.alice().without_gossip().catch_up(false);
        alice.know(configured(&greta)).start()
    };
    let alice = start().await.unwrap();
    greta.send_zine(ip(1), vec![greta.hey_there()]).await;
    mesh.clock.advance(std::time::Duration::from_secs(1));
    greta.send_zine(ip(1), vec![greta.chau()]).await;
    alice.shutdown(GRACE).await;
    let alice = start().await.unwrap();
    assert_eq!(presence(&alice, "greta"), PresenceState::Offline);
    alice.shutdown(GRACE).await;
}
