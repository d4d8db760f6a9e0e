//! Addresses that naras claim.

use std::net::SocketAddr;
use std::time::Duration;

use nara_mesh::Nara;
use nara_mesh::client::MeshClient;
use nara_mesh::registry::{KeySource, PeerEvent, PeerInfo, PinnedKey};
use nara_proto::sync::SyncRequest;

use crate::naras::{nara, pinned};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_from_elsewhere_proves_nothing_about_the_address_that_a_nara_claims() {
    let (ghost, caller) = (nara("ghost-7"), nara("alice"));
    let attacker = Nara::builder(ghost.clone())
        .listen("127.0.0.1:0".parse().unwrap())
        .know(caller.as_peer(None))
        .without_gossip()
        .catch_up(false)
        .start()
        .await
        .unwrap();
    let alice = MeshClient::builder(caller).build();
    let at = |address: SocketAddr| PeerInfo {
        name: Some(ghost.name().clone()),
        address: Some(address),
        ..PeerInfo::default()
    };
    let introduced = PeerInfo {
        key: Some(PinnedKey {
            id: None,
            source: KeySource::HeyThere {
                told_by: Some("eve".parse().unwrap()),
            },
            ..pinned(&ghost)
        }),
        // The address of a victim.
        ..at(([127, 0, 0, 9], 9632).into())
    };
    let known = alice.registry().register(introduced).unwrap();
    alice.registry().sign_of_life(&known);
    let mut changes = alice.registry().subscribe();
    let mut is_proven = move || {
        let mut told = std::iter::from_fn(|| changes.try_recv().ok());
        told.any(|change| matches!(change, PeerEvent::Seen(_)))
    };

    // The attacker answers in the name of the ghost, at its own address.
    let address = attacker.address().unwrap();
    let answer = alice.fetch_sync_events(address, SyncRequest::recent(1)).await;
    assert_eq!(answer.unwrap().verification().key, Some(ghost.public_key()));
    assert!(!is_proven());
    // At the address that it claims, an answer counts.
    alice.registry().register(at(address)).unwrap();
    let answer = alice
        .fetch_sync_events(ghost.name(), SyncRequest::recent(1))
        .await;
    assert_eq!(answer.unwrap().verification().key, Some(ghost.public_key()));
    assert!(is_proven());
    attacker.shutdown(Duration::from_secs(5)).await;
}
