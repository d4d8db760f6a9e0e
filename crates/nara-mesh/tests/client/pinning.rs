//! The registry's data after an answer.

use bytes::Bytes;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::sync::{SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::registry::PeerInfo;

use crate::support::{Mesh, address, json, nara, ping_answer, pinned, signed};

fn body(responder: &LocalNara) -> Bytes {
    json(&SyncResponse::signed(
        responder.name().as_str(),
        Vec::new(),
        UnixSeconds::new(1_769_100_000),
        responder.keypair(),
    ))
}

async fn sync(client: &MeshClient, bob: &LocalNara) {
    let answer = client.fetch_sync_events(bob.id(), SyncRequest::recent(1)).await;
    assert!(answer.unwrap().is_verified());
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_pinned_for_an_id_proves_the_name_that_stands_beside_it() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, body(&bob)).await;
    let info = PeerInfo {
        id: Some(bob.id().clone()),
        address: Some(address(2)),
        key: Some(pinned(&bob)),
        ..PeerInfo::default()
    };
    client.registry().register(info).unwrap();
    sync(&client, &bob).await;
    assert_eq!(peer.received().len(), 1, "its key is not asked for");
    let known = client.peer(bob.name()).known().unwrap().info();
    assert_eq!(known.id.as_ref(), Some(bob.id()));
    assert_eq!(client.registry().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_move_back_a_nara_that_moved_meanwhile() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    client.register_peer(bob.id(), address(2)).unwrap();
    let (registry, answering, clock) = (client.registry().clone(), bob.clone(), mesh.clock.clone());
    let _peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/ping" => ping_answer(&answering),
            _ => {
                registry.register_address(answering.id(), address(3)).unwrap();
                signed(&answering, &clock, 200, body(&answering))
            }
        })
        .await;
    sync(&client, &bob).await;
    let known = client.peer(bob.name()).known().unwrap().info();
    assert_eq!(known.address, Some(address(3)));
}
