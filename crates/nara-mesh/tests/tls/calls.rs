//! Which calls use TLS, and what an observer sees.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_mesh::client::{ClientErrorKind, MeshClient};
use nara_mesh::clock::SystemClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::proto::time::UnixMillis;
use nara_mesh::registry::{PeerChange, PeerInfo, PeerProtocol};
use nara_mesh::tls::{CertificateKind, Security, TlsPolicy};
use nara_mesh::transport::TcpTransport;

use crate::naras::known;
use crate::support::{ALICE, BOB, Mesh, Tap, address, speaks_raw, speaks_tls};

/// The address of the tap.
const TAP: u8 = 9;

const X509: Security = Security::Tls(CertificateKind::X509);
const RAW: Security = Security::Tls(CertificateKind::RawPublicKey);

async fn sync(client: &MeshClient, peer: &LocalNara) {
    let answer = client
        .fetch_sync_events(peer.id(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.is_verified());
}

#[tokio::test(start_paused = true)]
async fn calls_are_protected_as_far_as_the_peer_has_proven_that_it_can() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    for (protocol, security) in [
        (PeerProtocol::default(), Security::Plain),
        (speaks_tls(), X509),
        (speaks_raw(), RAW),
    ] {
        let client = mesh.client(BOB, protocol);
        let report = client.ping(mesh.bob.id()).await.unwrap();
        assert_eq!((report.security, report.key_matches), (security, Some(true)));
        sync(&client, &mesh.bob).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_went_back_to_plain_connections_is_called_again_once_it_is_forgotten() {
    let mesh = Mesh::new();
    let server = mesh.server().tls(TlsPolicy::Plain);
    let _server = server.serve(address(BOB)).await.unwrap();
    let client = mesh.client(BOB, speaks_tls());
    client.ping(mesh.bob.id()).await.unwrap_err();
    // Like `peers reset`.
    let peer = client.peer(mesh.bob.id()).known().unwrap();
    let mut record = peer.info().into_record().unwrap();
    let at = UnixMillis::new(1);
    record.apply(PeerChange::Forget { at }).unwrap();
    client.registry().restore(record).unwrap();
    let again = known(&mesh.bob, Some(address(BOB)));
    client.registry().register(again).unwrap();
    sync(&client, &mesh.bob).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_requires_tls_reports_a_peer_without_it() {
    let mesh = Mesh::new();
    let server = mesh.server().tls(TlsPolicy::Plain);
    let _server = server.serve(address(BOB)).await.unwrap();
    let client = mesh.stranger().tls(TlsPolicy::Require).build();
    let bob = known(&mesh.bob, Some(address(BOB)));
    client.registry().register(bob).unwrap();
    let error = client.ping(mesh.bob.id()).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Tls);
    assert!(
        error.hint().unwrap().contains("allow plain connections"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_time_in_a_ping_is_proven_by_a_connection_to_the_holder_of_the_pinned_key() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    for (protocol, proven) in [
        (PeerProtocol::default(), false),
        (speaks_tls(), true),
        (speaks_raw(), true),
    ] {
        let client = mesh.client(BOB, protocol);
        let report = client.ping(mesh.bob.id()).await.unwrap();
        assert_eq!(report.clock_offset.unwrap().nanos(), 0);
        assert_eq!(report.clock_proven, proven);
        let learned = client.peer(mesh.bob.id()).known().unwrap().clock_offset();
        assert_eq!(learned, report.clock_offset.filter(|_| proven));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_from_before_is_not_used_once_a_peer_has_proven_tls() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let tap = Tap::start(&mesh, TAP).await;
    let client = mesh.client(TAP, PeerProtocol::default());
    sync(&client, &mesh.bob).await;
    sync(&client, &mesh.bob).await;
    let peer = client.peer(mesh.bob.id()).known().unwrap();
    client.registry().learn_protocol(&peer, speaks_raw());
    sync(&client, &mesh.bob).await;
    sync(&client, &mesh.bob).await;
    assert_eq!(tap.were_tls(), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_proven_tls_is_never_called_without() {
    let mesh = Mesh::new();
    let _server = mesh
        .server()
        .tls(TlsPolicy::Plain)
        .serve(address(BOB))
        .await
        .unwrap();
    let tap = Tap::start(&mesh, TAP).await;
    let client = mesh.client(TAP, speaks_tls());
    let failed = client
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
        .await;
    let error = failed.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the peer spoke TLS before"), "{text}");
    assert_eq!(error.kind(), ClientErrorKind::TlsGone);
    // Nor is a nara at its address, by a caller that does not expect a certain key.
    client.discover_key(address(TAP), None).await.unwrap_err();
    client.ping(address(TAP)).await.unwrap_err();
    assert_eq!(tap.were_tls(), [true; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_speaks_tls_only_never_speaks_anything_else() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let tap = Tap::start(&mesh, TAP).await;
    let client = mesh.stranger().tls(TlsPolicy::Require).build();
    // It meets bob for the first time.
    let asked = client.discover_key(address(TAP), None).await.unwrap();
    assert_eq!(asked.key, mesh.bob.public_key());
    let answer = client
        .fetch_sync_events(address(TAP), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.is_verified());
    client.ping(address(TAP)).await.unwrap();
    let connections = tap.were_tls();
    assert!(
        connections.len() > 1 && connections.iter().all(|tls| *tls),
        "{connections:?}"
    );
    let spoken = tap.connections().concat();
    assert!(!spoken.windows(4).any(|bytes| bytes == b"HTTP"));
}

#[tokio::test(start_paused = true)]
async fn a_policy_for_one_peer_wins_over_that_of_the_client() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    for (policy, protocol, security) in [
        (TlsPolicy::Plain, speaks_tls(), Security::Plain),
        (TlsPolicy::Prefer, speaks_tls(), X509),
        (TlsPolicy::Require, PeerProtocol::default(), X509),
    ] {
        let client = mesh.client(BOB, protocol);
        let decided = PeerInfo {
            tls: Some(policy),
            ..known(&mesh.bob, None)
        };
        client.registry().register(decided).unwrap();
        assert_eq!(client.ping(mesh.bob.id()).await.unwrap().security, security);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_over_tls_only_refuses_everything_else() {
    let mesh = Mesh::new();
    let _server = mesh
        .server()
        .tls(TlsPolicy::Require)
        .serve(address(BOB))
        .await
        .unwrap();
    let client = mesh.client(BOB, PeerProtocol::default());
    let error = client.ping(mesh.bob.id()).await.unwrap_err();
    assert_eq!(error.status().unwrap().as_u16(), 403);
    assert!(error.text().unwrap().contains("TLS only"), "{error}");
    sync(&mesh.client(BOB, speaks_tls()), &mesh.bob).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_to_use_tls_is_refused_without() {
    let mesh = Mesh::new();
    let known_to_bob = crate::naras::registry(&[&mesh.alice]);
    let decided = PeerInfo {
        tls: Some(TlsPolicy::Require),
        ..known(&mesh.alice, None)
    };
    known_to_bob.register(decided).unwrap();
    let _server = mesh
        .server()
        .registry(known_to_bob)
        .serve(address(BOB))
        .await
        .unwrap();
    let client = mesh.client(BOB, PeerProtocol::default());
    let failed = client
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10))
        .await;
    let error = failed.unwrap_err();
    assert_eq!(error.status().unwrap().as_u16(), 403);
    assert!(error.text().unwrap().contains("alice"), "{error}");
    sync(&mesh.client(BOB, speaks_tls()), &mesh.bob).await;
}

#[tokio::test]
async fn plain_and_secure_calls_share_a_socket() {
    let mesh = Mesh::new();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = mesh
        .server()
        .clock(Arc::new(SystemClock))
        .transport(Arc::new(TcpTransport))
        .serve(local)
        .await
        .unwrap();
    let mut seen = Vec::new();
    for protocol in [PeerProtocol::default(), speaks_tls(), speaks_raw()] {
        let client = MeshClient::builder(mesh.alice.clone()).build();
        let peer = client
            .registry()
            .register(known(&mesh.bob, Some(server.local_addr())));
        client.registry().learn_protocol(&peer.unwrap(), protocol);
        sync(&client, &mesh.bob).await;
        seen.push(client.ping(mesh.bob.id()).await.unwrap().security);
    }
    assert_eq!(seen, [Security::Plain, X509, RAW]);
}

/// Returns bob's server with one connection allowed per address.
fn crowded(mesh: &Mesh) -> nara_mesh::server::MeshServerBuilder {
    let mut limits = nara_mesh::server::ServerLimits::default();
    limits.connections_per_address = 1;
    mesh.server().limits(limits)
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_place_says_so_over_tls_and_over_plain_http() {
    let mesh = Mesh::new();
    let _server = crowded(&mesh).serve(address(BOB)).await.unwrap();
    let held = mesh.dial(ALICE).await;
    // The server must see the first connection before the second.
    tokio::task::yield_now().await;
    for (protocol, told) in [
        (speaks_raw(), "it has too many connections from our address"),
        (
            PeerProtocol::default(),
            "Too many connections from your address: at most 1 at once",
        ),
    ] {
        let client = mesh.client(BOB, protocol);
        let call = client.fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10));
        let error = call.await.unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::AskedToWait, "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(error.retry_after(), Some(std::time::Duration::from_secs(1)));
        let peer = client.peer(mesh.bob.id()).known().unwrap();
        assert_eq!(
            peer.breaker_state(),
            nara_mesh::proto::breaker::BreakerState::Closed
        );
    }
    drop(held);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let client = mesh.client(BOB, speaks_raw());
    sync(&client, &mesh.bob).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_closed_within_the_handshake_is_not_taken_for_stripped_tls() {
    let mesh = Mesh::new();
    let host = mesh.network.host(address(BOB).ip());
    let mut listener = nara_mesh::transport::Transport::listen(&host, address(BOB))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let client = mesh.client(BOB, speaks_tls());
    let call = client.fetch_sync_events(mesh.bob.id(), SyncRequest::recent(10));
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Tls, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("closed before the TLS handshake was complete"),
        "{text}"
    );
}
