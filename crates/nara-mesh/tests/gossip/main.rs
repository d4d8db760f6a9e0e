//! Complete naras that gossip, on an in-memory network with paused time.

#![expect(clippy::unwrap_used, reason = "tests and their helpers may panic")]

mod support;

use std::time::Duration;

use nara_mesh::client::StreamState;
use nara_mesh::gossip::{GossipLink, GossipStatus};
use nara_mesh::ledger::EventStore as _;

use support::{DEGREE, Mesh, within};

fn live_streams(status: &GossipStatus) -> usize {
    let live = GossipLink::Stream(StreamState::Live);
    status.peers.iter().filter(|peer| peer.link == live).count()
}

/// Returns whether all intended streams are live.
fn is_settled(status: &GossipStatus) -> bool {
    live_streams(status) == DEGREE
}

#[tokio::test(start_paused = true)]
async fn an_event_reaches_every_nara_exactly_once() {
    let mesh = Mesh::start(8).await;
    for nara in &mesh.naras {
        nara.wait_for(is_settled).await;
    }
    for (maker, ts) in [(0, 1), (3, 2), (7, 3)] {
        let id = mesh.naras[maker].make_event(ts).await;
        for nara in &mesh.naras {
            within(Duration::from_secs(1), nara.has(&id)).await;
        }
    }
    let mut copies = 0;
    for (index, nara) in mesh.naras.iter().enumerate() {
        assert_eq!(nara.ledger.count().await.unwrap(), 3);
        let own = [0, 3, 7].contains(&index);
        let total = nara
            .wait_for(|status| status.total.new == 3 - u64::from(own))
            .await
            .total;
        assert_eq!(total.received, total.new + total.duplicate);
        copies += total.received;
    }
    // Each nara receives it at most once from each neighbour, and at least once.
    assert!((3 * 7..=3 * 8 * DEGREE as u64).contains(&copies), "{copies}");
}

#[tokio::test(start_paused = true)]
async fn a_nara_that_was_away_catches_up_and_its_own_events_reach_the_others() {
    let mut mesh = Mesh::start(8).await;
    for nara in &mesh.naras {
        nara.wait_for(is_settled).await;
    }
    let before = mesh.naras[0].make_event(1).await;
    within(Duration::from_secs(1), mesh.naras[7].has(&before)).await;

    mesh.stop(7).await;
    let missed = mesh.naras[1].make_event(2).await;
    let own = mesh.naras[7].make_event(3).await;
    for nara in &mesh.naras[..7] {
        within(Duration::from_secs(1), nara.has(&missed)).await;
    }
    // Long enough for the others to give it up.
    tokio::time::sleep(Duration::from_secs(60)).await;
    mesh.restart(7).await;
    within(Duration::from_secs(5), mesh.naras[7].has(&missed)).await;
    for nara in &mesh.naras {
        // Its former neighbours retry it after their pause at the latest.
        within(Duration::from_secs(120), nara.has(&own)).await;
        assert_eq!(nara.ledger.count().await.unwrap(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_streams_is_served_by_zines_and_its_events_reach_everybody() {
    let mut mesh = Mesh::start(4).await;
    let old = mesh.join_without_streams().await;
    let zines = |status: &GossipStatus| {
        let old = |peer: &&nara_mesh::gossip::GossipPeer| peer.peer == "nara-4";
        status
            .peers
            .iter()
            .find(old)
            .is_some_and(|peer| peer.link == GossipLink::Zines)
    };
    mesh.wait_for_any(zines).await;
    let ours = mesh.naras[0].make_event(1).await;
    let theirs = mesh.naras[old].make_event(2).await;
    for nara in &mesh.naras {
        // Rounds of zines are 30 to 300 s apart.
        within(Duration::from_secs(601), nara.has(&ours)).await;
        within(Duration::from_secs(601), nara.has(&theirs)).await;
    }
    for nara in &mesh.naras {
        assert_eq!(nara.ledger.count().await.unwrap(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forged_event_is_refused_where_it_is_heard_and_goes_no_further() {
    let mesh = Mesh::start(3).await;
    for nara in &mesh.naras {
        nara.wait_for(|status| live_streams(status) == 2).await;
    }
    mesh.naras[0].forge_event().await;
    for nara in &mesh.naras[1..] {
        let total = nara.wait_for(|status| status.total.received > 0).await.total;
        assert_eq!((total.received, total.refused, total.new), (1, 1, 0));
        assert_eq!(nara.ledger.count().await.unwrap(), 0);
        // Forwarding a forged event is not misbehaviour: the peer stays a neighbour.
        nara.wait_for(|status| live_streams(status) == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_removed_is_not_listened_to_any_more_and_a_new_one_is() {
    let mesh = Mesh::start(3).await;
    let nara = &mesh.naras[0];
    let listens_to = |status: &GossipStatus, name: &str| status.peers.iter().any(|peer| peer.peer == name);
    nara.wait_for(|status| listens_to(status, "nara-1") && listens_to(status, "nara-2"))
        .await;
    let gone = nara.client.registry().by_name("nara-1").unwrap();
    nara.client.registry().remove(&gone);
    nara.wait_for(|status| !listens_to(status, "nara-1")).await;
    nara.client.registry().register(gone.info()).unwrap();
    nara.wait_for(|status| listens_to(status, "nara-1")).await;
}

#[tokio::test(start_paused = true)]
async fn no_event_arrives_after_stop() {
    let mut mesh = Mesh::start(2).await;
    mesh.naras[0].wait_for(|status| live_streams(status) == 1).await;
    mesh.naras[0].gossip.take().unwrap().stop().await;
    mesh.naras[1].make_event(1).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(mesh.naras[0].ledger.count().await.unwrap(), 0);
}
