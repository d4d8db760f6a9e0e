//! What a secure connection proves, so that signatures need not prove it again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{MeshClient, SubscribeOptions, Verification};
use nara_mesh::clock::Clock as _;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::proto::identity::PublicKey;
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::proto::v2::{
    ChannelBinding, ContentDigest, Nonce, Recipient, RequestLine, RequestToSign, SignedBody,
};
use nara_mesh::registry::PeerProtocol;
use nara_mesh::server::MeshServer;
use nara_mesh::tls::{CertificateKind, ChannelTrust, Security};

use crate::naras::{known, registry, tease};
use crate::support::{ALICE, BOB, Mallory, Mesh, address, exchange, head_and_body, speaks_raw, speaks_tls};

fn speaks_everything() -> PeerProtocol {
    let mut protocol = speaks_raw();
    protocol.v2 = true;
    protocol
}

async fn sync(client: &MeshClient, mesh: &Mesh) -> Verification {
    let answer = client
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.is_verified());
    answer.verification().clone()
}

#[tokio::test(start_paused = true)]
async fn between_peers_that_trust_their_connection_it_is_the_proof() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let proof = sync(&mesh.client(BOB, speaks_everything()), &mesh).await;
    assert!(proof.channel && proof.bound && !proof.header && !proof.inner);
    assert_eq!(proof.key, Some(mesh.bob.public_key()));
    assert_eq!(proof.responder.as_ref(), Some(mesh.bob.name()));
    assert_eq!(proof.signed_at, Some(mesh.clock.now_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_for_signatures_gets_them() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let client = mesh.stranger().channel_trust(ChannelTrust::VerifyAlways).build();
    let peer = client.registry().register(known(&mesh.bob, Some(address(BOB))));
    client
        .registry()
        .learn_protocol(&peer.unwrap(), speaks_everything());
    let proof = sync(&client, &mesh).await;
    assert!(!proof.channel && proof.bound && proof.header && !proof.inner);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_always_verifies_signs_its_answers_too() {
    let mesh = Mesh::new();
    let server = mesh.server().channel_trust(ChannelTrust::VerifyAlways);
    let _server = server.serve(address(BOB)).await.unwrap();
    let proof = sync(&mesh.client(BOB, speaks_everything()), &mesh).await;
    assert!(!proof.channel && proof.bound && proof.header && !proof.inner);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_not_known_to_speak_v2_gets_everything_signed() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let client = mesh.client(BOB, speaks_tls());
    let proof = sync(&client, &mesh).await;
    assert!(!proof.channel && proof.bound && proof.header && proof.inner);
    // Its answer has proven that it supports v2.
    assert!(sync(&client, &mesh).await.channel);
}

#[tokio::test(start_paused = true)]
async fn an_announcement_of_tls_makes_the_next_connection_secure() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let client = mesh.client(BOB, PeerProtocol::default());
    let security = async || client.ping(mesh.bob.id()).await.unwrap().security;
    assert_eq!(security().await, Security::Plain);
    assert_eq!(security().await, Security::Tls(CertificateKind::RawPublicKey));
    assert!(sync(&client, &mesh).await.channel);
}

#[tokio::test(start_paused = true)]
async fn a_stream_runs_over_a_secure_connection() {
    let mesh = Mesh::new();
    let ledger = Arc::new(MemoryLedger::new());
    let _server = MeshServer::builder(mesh.bob.clone(), ledger.clone())
        .registry(registry(&[&mesh.alice]))
        .clock(Arc::new(mesh.clock.clone()))
        .transport(Arc::new(mesh.network.host(address(BOB).ip())))
        .serve(address(BOB))
        .await
        .unwrap();
    let event = tease(&mesh.bob, "alice", mesh.clock.now_nanos().get());
    ledger.insert_verified(vec![event.clone()]).await.unwrap();
    let client = mesh.client(BOB, speaks_everything());
    let mut events = client
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default().oldest());
    // A client that cannot connect retries for ever.
    let first = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap().event.id, event.id);
}

/// Returns a v2 request of alice for a connection with this binding.
fn bound_request(mesh: &Mesh, binding: Option<[u8; 32]>) -> Vec<u8> {
    let body = br#"{"from":"alice"}"#;
    let mut headers = http::HeaderMap::new();
    let now = mesh.clock.now_millis();
    let signed = mesh.alice.signer().sign_request(&RequestToSign {
        line: RequestLine {
            method: "POST",
            path: "/events/sync",
            query: None,
        },
        to: &Recipient::Id(mesh.bob.id().clone()),
        body: SignedBody::Digest(ContentDigest::of(body)),
        now,
        nonce: Nonce::new(now, [0; 10]),
        channel: binding.map(ChannelBinding::new),
    });
    signed.write_to(&mut headers);
    head_and_body("POST", "/events/sync", &headers, body)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_signed_for_another_connection_is_refused() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let alice = Mallory::with_the_key_of(&mesh.alice);
    for binding in [None, Some([7; 32])] {
        let mut stream = alice.connect(mesh.dial(ALICE).await).await;
        let text = exchange(&mut stream, &bound_request(&mesh, binding)).await;
        assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    }
    // A request for a secure connection is not valid on a plain one.
    let text = exchange(&mut mesh.dial(ALICE).await, &bound_request(&mesh, Some([7; 32]))).await;
    assert!(text.starts_with("HTTP/1.1 401"), "{text}");
    let text = exchange(&mut mesh.dial(ALICE).await, &bound_request(&mesh, None)).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[test]
fn the_test_has_the_key_of_alice() {
    let mesh = Mesh::new();
    let key: PublicKey = Mallory::with_the_key_of(&mesh.alice).public_key();
    assert_eq!(key, mesh.alice.public_key());
}
