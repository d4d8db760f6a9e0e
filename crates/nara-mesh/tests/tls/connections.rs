//! The lifetime and number of connections.

use std::time::Duration;

use nara_mesh::client::MeshClient;
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::server::{RateLimit, ServerLimits, Shutdown};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::support::{ALICE, BOB, MALLORY, Mallory, Mesh, TLS, address, answer, exchange, speaks_raw};

const PING: &[u8] = b"GET /ping HTTP/1.1\r\nHost: nara\r\n\r\n";

async fn sync(client: &MeshClient, mesh: &Mesh) -> bool {
    client
        .fetch_sync_events(mesh.bob.id(), SyncRequest::recent(1))
        .await
        .is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_does_not_end_costs_its_connection_after_five_seconds() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let mut stream = mesh.dial(ALICE).await;
    // Idle is fine for a while; then a handshake begins, and arrives slowly.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let began = Instant::now();
    stream.write_all(&[TLS, 3, 1, 0, 200]).await.unwrap();
    loop {
        if stream.write_all(&[1]).await.is_err() {
            break;
        }
        let waiting = tokio::time::timeout(Duration::from_secs(1), answer(&mut stream));
        if waiting.await.is_ok() {
            break;
        }
    }
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_says_a_byte_is_closed_as_idle() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let began = Instant::now();
    assert_eq!(answer(&mut mesh.dial(ALICE).await).await, "");
    assert_eq!(began.elapsed(), Duration::from_secs(75));
}

#[tokio::test(start_paused = true)]
async fn a_secure_connection_is_idle_as_long_as_a_plain_one_and_its_headers_as_slow() {
    let mesh = Mesh::new();
    let _server = mesh.server().serve(address(BOB)).await.unwrap();
    let mut stream = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(exchange(&mut stream, PING).await.starts_with("HTTP/1.1 200"));
    let began = Instant::now();
    assert_eq!(answer(&mut stream).await, "");
    assert_eq!(began.elapsed(), Duration::from_secs(75));

    let mut stream = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    let began = Instant::now();
    assert_eq!(exchange(&mut stream, &PING[..20]).await, "");
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn handshakes_count_among_the_connections_of_an_address() {
    let mesh = Mesh::new();
    let mut limits = ServerLimits::default();
    limits.connections_per_address = 2;
    let _server = mesh.server().limits(limits).serve(address(BOB)).await.unwrap();
    let mut stuck = Vec::new();
    for _ in 0..2 {
        let mut stream = mesh.dial(ALICE).await;
        stream.write_all(&[TLS, 3, 1]).await.unwrap();
        stuck.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let client = mesh.client(BOB, speaks_raw());
    assert!(!sync(&client, &mesh).await);
    drop(stuck);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(sync(&client, &mesh).await);
}

#[tokio::test(start_paused = true)]
async fn an_address_begins_handshakes_no_faster_than_it_may() {
    let mesh = Mesh::new();
    let mut limits = ServerLimits::default();
    limits.handshakes_per_address = Some(RateLimit::new(1, 2));
    let _server = mesh.server().limits(limits).serve(address(BOB)).await.unwrap();
    // A new client each time, so that each dials.
    let connects = async || sync(&mesh.client(BOB, speaks_raw()), &mesh).await;
    assert!(connects().await && connects().await);
    assert!(!connects().await, "the third at once");
    let mut other = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    assert!(exchange(&mut other, PING).await.starts_with("HTTP/1.1 200"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(connects().await);
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_neither_for_handshakes_nor_for_idle_connections() {
    let mesh = Mesh::new();
    let server = mesh.server().serve(address(BOB)).await.unwrap();
    let mut idle = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    assert!(exchange(&mut idle, PING).await.starts_with("HTTP/1.1 200"));
    let mut handshaking = mesh.dial(ALICE).await;
    handshaking.write_all(&[TLS, 3, 1]).await.unwrap();
    let silent = mesh.dial(ALICE).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let began = Instant::now();
    assert_eq!(server.shutdown(Duration::from_secs(5)).await, Shutdown::Graceful);
    assert_eq!(began.elapsed(), Duration::ZERO);
    for mut stream in [idle, handshaking, silent] {
        assert_eq!(answer(&mut stream).await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_a_request_end_within_the_deadline() {
    let mesh = Mesh::new();
    let server = mesh.server().serve(address(BOB)).await.unwrap();
    let mut stream = Mallory::new().connect(mesh.dial(MALLORY).await).await;
    let head = b"POST /api/events/import HTTP/1.1\r\nHost: nara\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let finish = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        exchange(&mut stream, b"{}").await
    };
    let (outcome, text) = tokio::join!(server.shutdown(Duration::from_secs(5)), finish);
    assert_eq!(outcome, Shutdown::Graceful);
    assert!(text.starts_with("HTTP/1.1 "), "{text}");
}
