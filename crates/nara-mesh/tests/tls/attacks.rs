//! Attacks of a man in the middle, or of an impostor, that must fail.

use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::registry::{KeySource, PeerEvent};
use nara_mesh::tls::TlsPolicy;

use crate::support::{BOB, MALLORY, Mallory, Mesh, address, exchange, speaks_tls};

#[tokio::test(start_paused = true)]
async fn a_known_peer_cannot_be_impersonated() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    Mallory::new().pose_as_bob(&mesh).await;
    let client = mesh.client(MALLORY, speaks_tls());
    let mut events = client.registry().subscribe();
    let failed = client
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
        .await;
    let error = failed.unwrap_err();
    assert!(error.is_unauthenticated() && !error.is_unreachable(), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("bob is pinned to key "), "{cause}");
    let Ok(PeerEvent::KeyConflict(conflict)) = events.try_recv() else {
        panic!("subscribers are notified");
    };
    assert_eq!(conflict.offered_by, KeySource::Tls(address(MALLORY)));
    assert_eq!(
        client.peer(mesh.bob.id()).known().unwrap().key(),
        Some(mesh.bob.public_key())
    );
    // It is not bob's fault, so his breaker stays closed however often it happens.
    for _ in 0..20 {
        let error = client.ping(mesh.bob.id()).await.unwrap_err();
        assert!(!error.is_circuit_open(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forwarder_of_answers_is_not_mistaken_for_the_nara() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    Mallory::new().pose_as_bob(&mesh).await;
    let client = mesh.stranger().tls(TlsPolicy::Require).build();
    // Alice has never met bob, so she accepts any key in the handshake; his signature does not match it.
    let error = client.discover_key(address(MALLORY), None).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    let failed = client
        .fetch_sync_events(address(MALLORY), SyncRequest::recent(10))
        .await;
    let error = failed.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    assert!(client.peer(mesh.bob.id()).known().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_signed_request_is_refused_on_the_connection_of_somebody_else() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let request = mesh.signed_by_alice("POST", "/events/sync");
    let mut stream = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    let text = exchange(&mut stream, &request).await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    assert!(text.contains("does not belong to alice"), "{text}");
    // On a plain connection, bob has not seen this request yet.
    let text = exchange(&mut mesh.dial(MALLORY).await, &request).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
