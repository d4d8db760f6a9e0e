//! Slow readers, and the number of streams.

use std::time::Duration;

use nara_mesh::client::{StreamState, SubscribeOptions};
use nara_mesh::clock::Clock as _;
use nara_mesh::ledger::EventStore as _;
use nara_mesh::proto::v1::{RequestAuth, Stamp};
use nara_mesh::server::ServerLimits;
use nara_mesh::transport::{BoxMeshStream, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Mesh, address, event, is_waiting, ledger, next_ts, until};

#[tokio::test(start_paused = true)]
async fn a_slow_reader_delays_no_other_and_gets_all_events() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let _server = mesh.serve(bobs.clone()).await;
    let mut slow = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    let mut fast = mesh
        .client_of(&mesh.carol, 3)
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&slow, |state| *state == StreamState::Live).await;
    until(&fast, |state| *state == StreamState::Live).await;
    // Far more than the connection, the decoder and the queue of items hold.
    let count = 4000;
    for ts in 0..count {
        bobs.insert_verified(vec![event(&mesh.bob, ts)]).await.unwrap();
        assert_eq!(next_ts(&mut fast).await, ts);
    }
    let mut states = slow.state();
    states.mark_unchanged();
    let mut lagged = false;
    for ts in 0..count {
        assert_eq!(next_ts(&mut slow).await, ts);
        lagged |= *states.borrow() == StreamState::Lagged;
    }
    assert!(lagged, "the reader was told that it is too slow");
    until(&slow, |state| *state == StreamState::Live).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_may_have_so_many_streams_and_no_more() {
    let mesh = Mesh::new();
    let _server = mesh.serve(ledger()).await;
    let client = mesh.client();
    let mut open = Vec::new();
    for _ in 0..4 {
        let events = client.peer(mesh.bob.id()).subscribe(SubscribeOptions::default());
        until(&events, |state| *state == StreamState::Live).await;
        open.push(events);
    }
    let fifth = client.peer(mesh.bob.id()).subscribe(SubscribeOptions::default());
    let state = until(&fifth, is_waiting).await.to_string();
    assert!(state.contains("503"), "{state}");
    assert!(state.contains("4 streams open"), "{state}");
    let other = mesh
        .client_of(&mesh.carol, 3)
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&other, |state| *state == StreamState::Live).await;
    open.pop();
    until(&fifth, |state| *state == StreamState::Live).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_has_so_many_streams_and_no_more() {
    let mesh = Mesh::new();
    let mut limits = ServerLimits::default();
    limits.streams = 1;
    let _server = mesh.serve_with(ledger(), limits).await;
    let first = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    until(&first, |state| *state == StreamState::Live).await;
    let second = mesh
        .client_of(&mesh.carol, 3)
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    let state = until(&second, is_waiting).await.to_string();
    assert!(state.contains("503") && state.contains("/events/sync"), "{state}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_in_the_turn_of_its_peer() {
    let mesh = Mesh::new();
    let mut limits = ServerLimits::default();
    // The ledger has no place for reads.
    limits.reads = 0;
    let _server = mesh.serve_with(ledger(), limits).await;
    let events = mesh
        .client()
        .peer(mesh.bob.id())
        .subscribe(SubscribeOptions::default());
    let state = until(&events, is_waiting).await.to_string();
    assert!(
        state.contains("no complete answer before the deadline"),
        "{state}"
    );
}

/// Sends a signed request of alice and returns the connection and the first bytes of the answer.
async fn get(mesh: &Mesh, stamp: &mut Stamp, target: &str, headers: &str) -> (BoxMeshStream, String) {
    let mut stream = mesh.network.host(address(1).ip()).dial(address(2)).await.unwrap();
    let now = stamp.next(mesh.clock.now_millis());
    let path = target.split('?').next().unwrap();
    let auth = RequestAuth::sign(mesh.alice.keypair(), mesh.alice.name(), now, "GET", path);
    let request = format!(
        "GET {target} HTTP/1.1\r\nhost: bob\r\nx-nara-name: alice\r\nx-nara-timestamp: {now}\r\n\
         x-nara-signature: {}\r\n{headers}\r\n",
        auth.signature().to_base64()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        stream.read_buf(&mut answer).await.unwrap();
    }
    stream.read_buf(&mut answer).await.unwrap();
    (stream, String::from_utf8(answer).unwrap())
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_refused_with_a_hint() {
    let mesh = Mesh::new();
    let _server = mesh.serve(ledger()).await;
    let mut stamp = Stamp::default();
    for (target, headers, text) in [
        ("/events/stream?since=now", "", "since is not a number"),
        ("/events/stream?since=1&since=2", "", "is repeated"),
        ("/events/stream?subjects=%ff", "", "not UTF-8"),
        ("/events/stream", "last-event-id: 17\r\n", "not a stream cursor"),
        (
            "/events/stream",
            "last-event-id: 00000000000000ab:1\r\nlast-event-id: 00000000000000ab:2\r\n",
            "not a stream cursor",
        ),
    ] {
        let (_, answer) = get(&mesh, &mut stamp, target, headers).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{target} {headers}: {answer}"
        );
        assert!(answer.contains(text), "{target} {headers}: {answer}");
        assert!(
            answer.contains("x-nara-signature"),
            "refusals are signed: {answer}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_opening_needs_a_signature_and_is_no_replay() {
    let mesh = Mesh::new();
    let _server = mesh.serve(ledger()).await;
    let (_first, answer) = get(&mesh, &mut Stamp::default(), "/events/stream", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    assert!(answer.contains("event: hello\n"), "{answer}");
    assert!(
        !answer.contains("x-nara-signature"),
        "the body has no end: {answer}"
    );
    // The identical request.
    let (_second, answer) = get(&mesh, &mut Stamp::default(), "/events/stream", "").await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(answer.contains("replayed"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_unread_stream_is_closed_and_frees_its_place() {
    let mesh = Mesh::new();
    let bobs = ledger();
    let mut limits = ServerLimits::default();
    limits.streams_per_peer = 1;
    let _server = mesh.serve_with(bobs.clone(), limits).await;
    let mut stamp = Stamp::default();
    let (_unread, answer) = get(&mesh, &mut stamp, "/events/stream", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for ts in 0..2000 {
        bobs.insert_verified(vec![event(&mesh.bob, ts)]).await.unwrap();
    }
    let (_, answer) = get(&mesh, &mut stamp, "/events/stream", "").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (_, answer) = get(&mesh, &mut stamp, "/events/stream", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}
