//! Unsigned requests, proven by the handshake alone because both ends chose this.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{HeaderMap, Request, StatusCode};
use nara_mesh::Coverage;
use nara_mesh::client::MeshClient;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::proto::v2::ChannelBinding;
use nara_mesh::registry::PeerProtocol;
use nara_mesh::server::{MeshServerBuilder, VerifiedSender};
use nara_mesh::tls::ChannelTrust;

use crate::naras::known;
use crate::support::{ALICE, BOB, MALLORY, Mallory, Mesh, address, exchange, head_and_body, speaks_raw};

fn speaks_everything() -> PeerProtocol {
    let mut protocol = speaks_raw();
    protocol.v2 = true;
    protocol
}

/// Returns bob's server, whose route `/proof` returns the proof of a request.
fn server(mesh: &Mesh, trust: ChannelTrust) -> MeshServerBuilder {
    let proof = async |sender: VerifiedSender, headers: HeaderMap| {
        assert_eq!(sender.coverage(), Coverage::Channel);
        let signed = headers.contains_key("signature") || headers.contains_key("signature-input");
        format!(
            "{} {}",
            sender.name(),
            if signed { "signature" } else { "handshake" }
        )
    };
    mesh.server()
        .channel_trust(trust)
        .routes(Router::new().route("/proof", get(proof)))
}

fn client(mesh: &Mesh, trust: ChannelTrust) -> MeshClient {
    let client = mesh.stranger().channel_trust(trust).build();
    let peer = client.registry().register(known(&mesh.bob, Some(address(BOB))));
    client
        .registry()
        .learn_protocol(&peer.unwrap(), speaks_everything());
    client
}

/// Returns the proof of a request of alice, as bob saw it.
async fn proof(client: &MeshClient, mesh: &Mesh) -> String {
    let request = Request::get("/proof").body(String::new()).unwrap();
    let answer = client.peer(mesh.bob.id()).request(request).await.unwrap();
    assert!(answer.is_verified() && answer.verification().channel);
    String::from_utf8(answer.body().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_handshake_alone_proves_requests_between_peers_that_both_chose_it() {
    use ChannelTrust::{Handshake, Trust, VerifyAlways};
    for (ours, theirs, expected) in [
        (Handshake, Handshake, "alice handshake"),
        (Handshake, Trust, "alice signature"),
        (Trust, Handshake, "alice signature"),
    ] {
        let mesh = Mesh::new();
        let _server = server(&mesh, theirs).serve(address(BOB)).await.unwrap();
        let client = client(&mesh, ours);
        for _ in 0..2 {
            assert_eq!(proof(&client, &mesh).await, expected, "{ours:?} to {theirs:?}");
        }
        let answer = client
            .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
            .await
            .unwrap();
        assert!(answer.verification().channel);
        assert_eq!(answer.verification().key, Some(mesh.bob.public_key()));
    }
    let mesh = Mesh::new();
    let _server = mesh
        .server()
        .channel_trust(VerifyAlways)
        .serve(address(BOB))
        .await
        .unwrap();
    let answer = client(&mesh, Handshake)
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.verification().header && !answer.verification().channel);
}

#[tokio::test(start_paused = true)]
async fn a_request_refused_by_a_handler_is_not_retried() {
    let mesh = Mesh::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let refuse = move || async move {
        counted.fetch_add(1, Ordering::SeqCst);
        StatusCode::UNAUTHORIZED
    };
    let server = mesh.server().channel_trust(ChannelTrust::Handshake);
    let routes = Router::new().route("/never", get(refuse));
    let _server = server.routes(routes).serve(address(BOB)).await.unwrap();
    let client = client(&mesh, ChannelTrust::Handshake);
    let request = Request::get("/never").body(String::new()).unwrap();
    let answer = client.peer(mesh.bob.id()).request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.verification().channel);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_back_to_signatures_gets_them() {
    let mesh = Mesh::new();
    let running = server(&mesh, ChannelTrust::Handshake)
        .serve(address(BOB))
        .await
        .unwrap();
    let client = client(&mesh, ChannelTrust::Handshake);
    assert_eq!(proof(&client, &mesh).await, "alice handshake");
    running.shutdown(Duration::from_secs(1)).await;
    let _server = server(&mesh, ChannelTrust::Trust)
        .serve(address(BOB))
        .await
        .unwrap();
    assert_eq!(proof(&client, &mesh).await, "alice signature");
    assert_eq!(proof(&client, &mesh).await, "alice signature");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_asked_for_with_a_signature() {
    use futures_util::StreamExt as _;
    let mesh = Mesh::new();
    let ledger = Arc::new(MemoryLedger::new());
    let event = crate::naras::tease(&mesh.bob, "alice", 1_769_100_000_250_000_000);
    ledger.insert_verified(vec![event.clone()]).await.unwrap();
    let _server = nara_mesh::server::MeshServer::builder(mesh.bob.clone(), ledger)
        .registry(crate::naras::registry(&[&mesh.alice]))
        .clock(Arc::new(mesh.clock.clone()))
        .transport(Arc::new(mesh.network.host(address(BOB).ip())))
        .channel_trust(ChannelTrust::Handshake)
        .serve(address(BOB))
        .await
        .unwrap();
    let client = client(&mesh, ChannelTrust::Handshake);
    let options = nara_mesh::client::SubscribeOptions::default().oldest();
    let mut events = client.peer(mesh.bob.id()).subscribe(options);
    let first = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
    assert_eq!(first.unwrap().unwrap().unwrap().event.id, event.id);
}

/// Returns an unsigned request with this binding.
fn unsigned(binding: Option<ChannelBinding>, from: &str) -> Vec<u8> {
    let mut headers = HeaderMap::new();
    if let Some(binding) = binding {
        binding.write_to(&mut headers);
    }
    let body = format!(r#"{{"from":"{from}"}}"#);
    head_and_body("POST", "/events/sync", &headers, body.as_bytes())
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("closed")
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_signature_is_refused_where_the_handshake_is_not_its_proof() {
    let mesh = Mesh::new();
    let _server = server(&mesh, ChannelTrust::Handshake)
        .serve(address(BOB))
        .await
        .unwrap();
    let alice = Mallory::with_the_key_of(&mesh.alice);
    let (mut stream, binding) = alice.connect_bound(mesh.dial(ALICE).await).await;
    assert_eq!(
        status(&exchange(&mut stream, &unsigned(Some(binding), "alice")).await),
        "200"
    );
    // Written for another connection, like a request that a proxy with her key forwards.
    for foreign in [None, Some(ChannelBinding::new([7; 32]))] {
        let (mut stream, _) = alice.connect_bound(mesh.dial(ALICE).await).await;
        assert_eq!(
            status(&exchange(&mut stream, &unsigned(foreign, "alice")).await),
            "401"
        );
    }
    // In the name of another nara, or with an unknown key.
    let (mut stream, binding) = alice.connect_bound(mesh.dial(ALICE).await).await;
    assert_eq!(
        status(&exchange(&mut stream, &unsigned(Some(binding), "bob")).await),
        "403"
    );
    let (mut stream, binding) = Mallory::new().connect_bound(mesh.dial(MALLORY).await).await;
    assert_eq!(
        status(&exchange(&mut stream, &unsigned(Some(binding), "alice")).await),
        "401"
    );
    // On a plain connection, or for a stream.
    let plain = exchange(&mut mesh.dial(ALICE).await, &unsigned(Some(binding), "alice")).await;
    assert_eq!(status(&plain), "401");
    let (mut stream, binding) = alice.connect_bound(mesh.dial(ALICE).await).await;
    let mut headers = HeaderMap::new();
    binding.write_to(&mut headers);
    let asked = head_and_body("GET", "/events/stream", &headers, b"");
    assert_eq!(status(&exchange(&mut stream, &asked).await), "401");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_did_not_choose_the_handshake_wants_signatures() {
    for trust in [ChannelTrust::Trust, ChannelTrust::VerifyAlways] {
        let mesh = Mesh::new();
        let _server = mesh
            .server()
            .channel_trust(trust)
            .serve(address(BOB))
            .await
            .unwrap();
        let alice = Mallory::with_the_key_of(&mesh.alice);
        let (mut stream, binding) = alice.connect_bound(mesh.dial(ALICE).await).await;
        let answer = exchange(&mut stream, &unsigned(Some(binding), "alice")).await;
        assert_eq!(status(&answer), "401", "{trust:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_taken_away_ends_what_its_handshake_proves() {
    let mesh = Mesh::new();
    let registry = crate::naras::registry(&[&mesh.alice]);
    let _server = mesh
        .server()
        .registry(registry.clone())
        .channel_trust(ChannelTrust::Handshake)
        .serve(address(BOB))
        .await
        .unwrap();
    let alice = Mallory::with_the_key_of(&mesh.alice);
    let (mut stream, binding) = alice.connect_bound(mesh.dial(ALICE).await).await;
    let request = unsigned(Some(binding), "alice");
    assert_eq!(status(&exchange(&mut stream, &request).await), "200");
    registry.remove(&registry.by_name("alice").unwrap());
    assert_eq!(status(&exchange(&mut stream, &request).await), "401");
}
