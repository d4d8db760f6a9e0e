//! Two naras, each with a client and a server: how they learn to use v2, and what happens to downgrades.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nara_mesh::Signatures;
use nara_mesh::client::{MeshClient, SubscribeOptions};
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::registry::{PeerEvent, PeerRegistry};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::sync::SyncRequest;

use crate::naras::tease;
use crate::support::{Bob, client, client_of_bob, free_port, nara};

async fn is_bound(client: &MeshClient) -> bool {
    let bob = nara("bob");
    let answer = client
        .fetch_sync_events(bob.id(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.is_verified());
    answer.verification().bound
}

#[tokio::test(flavor = "multi_thread")]
async fn two_naras_speak_v2_from_the_first_call_on() {
    let bob = Bob::start(|builder| builder).await;
    let client = client_of_bob(bob.address());
    assert!(is_bound(&client).await);
    assert!(
        bob.registry.by_name("alice").unwrap().protocol().v2,
        "bob has seen it"
    );
    assert!(
        client.registry().by_name("bob").unwrap().protocol().v2,
        "and alice"
    );
    assert!(is_bound(&client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_called_by_address_is_asked_for_its_identity() {
    let bob = Bob::start(|builder| builder).await;
    let client = client(|builder| builder);
    let answer = client
        .fetch_sync_events(bob.address(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.verification().bound);
    let known = client.registry().by_name("bob").unwrap();
    assert!(known.protocol().v2);
    assert_eq!(known.key(), Some(nara("bob").public_key()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nara_without_v2_is_served_and_serves() {
    let old = |builder: nara_mesh::server::MeshServerBuilder| builder.signatures(Signatures::V1Only);
    let bob = Bob::start(old).await;
    let new = client_of_bob(bob.address());
    assert!(!is_bound(&new).await);
    assert!(!new.registry().by_name("bob").unwrap().protocol().v2);
    let by_address = client(|builder| builder);
    let answer = by_address
        .fetch_sync_events(bob.address(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(!answer.verification().bound);

    let bob = Bob::start(|builder| builder).await;
    let old = client(|builder| builder.signatures(Signatures::V1Only));
    old.registry()
        .register(crate::support::known(&nara("bob"), Some(bob.address())))
        .unwrap();
    assert!(!is_bound(&old).await);
    assert!(!bob.registry.by_name("alice").unwrap().protocol().v2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_back_is_not_called_with_less() {
    let bob = Bob::start(|builder| builder).await;
    let address = bob.address();
    let knows = client_of_bob(address);
    assert!(is_bound(&knows).await);
    bob.running.shutdown(std::time::Duration::ZERO).await;
    // Another client with the same knowledge: its own connection may not have noticed yet that the server is gone.
    let client = client(|builder| builder.registry(knows.registry().clone()));
    let _old = Bob::start_at(address, |builder| builder.signatures(Signatures::V1Only)).await;
    let error = client
        .fetch_sync_events(nara("bob").id(), SyncRequest::recent(10))
        .await
        .unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
}

/// Returns a nara whose client and server share their registry.
async fn whole(
    name: &str,
    knows: &PeerRegistry,
    signatures: Signatures,
) -> (MeshClient, RunningServer, Arc<MemoryLedger>) {
    let ledger = Arc::new(MemoryLedger::new());
    let client = MeshClient::builder(nara(name))
        .registry(knows.clone())
        .signatures(signatures)
        .build();
    let server = MeshServer::builder(nara(name), ledger.clone())
        .client(client.clone())
        .signatures(signatures)
        .loopback_for_tests()
        .serve(free_port())
        .await
        .unwrap();
    (client, server, ledger)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_proves_its_server_with_either_signature() {
    for signatures in [Signatures::V2AndV1, Signatures::V1Only] {
        let registry = crate::support::registry(&[&nara("alice")]);
        let (_, server, ledger) = whole("bob", &registry, signatures).await;
        let client = MeshClient::builder(nara("alice")).build();
        let address = server.local_addr();
        client
            .registry()
            .register(crate::support::known(&nara("bob"), Some(address)))
            .unwrap();
        let event = tease(&nara("bob"), "alice", 1_769_100_000_000_000_000);
        ledger.insert_verified(vec![event.clone()]).await.unwrap();
        let mut events = client
            .peer(nara("bob").id())
            .subscribe(SubscribeOptions::default().oldest());
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.event, event);
        let v2 = signatures == Signatures::V2AndV1;
        assert_eq!(client.registry().by_name("bob").unwrap().protocol().v2, v2);
        assert_eq!(registry.by_name("alice").unwrap().protocol().v2, v2);
        server.shutdown(std::time::Duration::ZERO).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_called_back_and_known_to_speak_v2() {
    let registry = PeerRegistry::default();
    let mut learned = registry.subscribe();
    let carol_knows = PeerRegistry::default();
    let (carol, carol_server, _) = whole("carol", &carol_knows, Signatures::V2AndV1).await;
    let port = carol_server.local_addr().port();
    let bob_client = MeshClient::builder(nara("bob"))
        .registry(registry.clone())
        .build();
    let bob = MeshServer::builder(nara("bob"), Arc::new(MemoryLedger::new()))
        .client(bob_client)
        .loopback_for_tests()
        .mesh_port(port)
        .serve(free_port())
        .await
        .unwrap();
    let answer = carol
        .fetch_sync_events(bob.local_addr(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.verification().bound);
    assert!(registry.by_name("carol").unwrap().protocol().v2);
    let mut seen = Vec::new();
    while let Ok(event) = learned.try_recv() {
        seen.push(event);
    }
    assert!(
        seen.iter()
            .any(|event| matches!(event, PeerEvent::ProtocolLearned(_))),
        "{seen:?}"
    );
}
