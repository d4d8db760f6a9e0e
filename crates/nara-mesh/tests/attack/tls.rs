//! The same attacks against TLS, over real sockets. Faults of one end of a handshake are in `tests/tls`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::PeerProtocol;
use nara_mesh::server::MeshServer;
use nara_mesh::tls::{ChannelTrust, TlsPolicy};
use nara_proto::event::SyncEvent;
use nara_proto::sync::SyncRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::relay::Relay;
use crate::support::{NOW, Target, free_port, known, nara, request, seen};

/// Between peers that support v2 the connection is the only proof.
fn speaks_tls() -> PeerProtocol {
    let mut protocol = PeerProtocol::default();
    protocol.v2 = true;
    protocol.tls = true;
    protocol.raw_public_key = true;
    protocol
}

/// Returns alice's client, which knows the target, that it supports TLS, and `address` as its address.
fn alice(target: &Target, address: std::net::SocketAddr) -> MeshClient {
    let client = MeshClient::builder(nara("alice"))
        .clock(Arc::new(target.clock.clone()))
        .build();
    let peer = client.registry().register(known(&target.local, Some(address)));
    client.registry().learn_protocol(&peer.unwrap(), speaks_tls());
    client
}

async fn sync(client: &MeshClient, target: &Target) -> Result<(), ClientError> {
    let answer = client
        .fetch_sync_events(target.local.id(), SyncRequest::recent(1))
        .await?;
    assert!(answer.is_verified());
    Ok(())
}

/// Returns a direct message with recognisable words.
fn secret() -> SyncEvent {
    seen(
        &nara("alice"),
        "a-name-nobody-should-read",
        "mesh",
        NOW.to_nanos(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_man_in_the_middle_of_tls_reads_nothing() {
    let target = Target::start().await;
    let relay = Relay::before(target.address()).await;
    let client = alice(&target, relay.address);
    client.send_dm(target.local.id(), secret()).await.unwrap();
    sync(&client, &target).await.unwrap();
    assert_eq!(*target.senders.0.lock().unwrap(), ["alice"]);
    let sent = relay.sent().concat();
    for words in [
        "a-name-nobody-should-read",
        "alice",
        "/dm",
        "X-Nara",
        "x-nara",
        "target",
    ] {
        let found = sent.windows(words.len()).any(|window| window == words.as_bytes());
        assert!(!found, "{words:?} can be read");
    }
}

/// Returns how many bytes a direct message takes over TLS, to the server and back.
async fn lengths() -> (usize, usize) {
    let target = Target::start().await;
    let relay = Relay::before(target.address()).await;
    let back = Arc::new(AtomicUsize::new(0));
    let count = back.clone();
    relay.to_client(move |_, piece| {
        count.fetch_add(piece.len(), Ordering::SeqCst);
        true
    });
    let client = alice(&target, relay.address);
    client.send_dm(target.local.id(), secret()).await.unwrap();
    (relay.sent().concat().len(), back.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_anywhere_in_a_tls_conversation_ends_it() {
    // Hellos, keys, proofs, the request and its answer: each direction is cut into eight parts.
    let (out, back) = lengths().await;
    for part in 1..8 {
        for (place, to_server) in [(out * part / 8, true), (back * part / 8, false)] {
            let target = Target::start().await;
            let relay = Relay::before(target.address()).await;
            let flip = move |at: usize, piece: &mut Vec<u8>| {
                if let Some(byte) = place.checked_sub(at).and_then(|index| piece.get_mut(index)) {
                    *byte ^= 1;
                }
                true
            };
            if to_server {
                relay.to_server(flip);
            } else {
                relay.to_client(flip);
            }
            let client = alice(&target, relay.address);
            let outcome = client.send_dm(target.local.id(), secret()).await;
            assert!(outcome.is_err(), "byte {place}, to the server: {to_server}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_recorded_of_tls_is_worth_nothing_on_another_connection() {
    let target = Target::start().await;
    let relay = Relay::before(target.address()).await;
    let client = alice(&target, relay.address);
    client.send_dm(target.local.id(), secret()).await.unwrap();
    let recorded = relay.sent().remove(0);
    let mut stream = tokio::net::TcpStream::connect(target.address()).await.unwrap();
    // The server closes as soon as the recorded keys do not match.
    let _ = stream.write_all(&recorded).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.windows(5).any(|window| window == b"HTTP/"));
    assert_eq!(target.senders.0.lock().unwrap().len(), 1);
    assert_eq!(target.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_connection_that_is_led_to_another_nara_is_refused() {
    let target = Target::start().await;
    let other = MeshServer::builder(nara("mallory"), Arc::new(MemoryLedger::new()))
        .serve(free_port())
        .await
        .unwrap();
    let relay = Relay::before(target.address()).await;
    relay.divert(other.local_addr());
    let client = alice(&target, relay.address);
    let error = sync(&client, &target).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_conversation_that_is_cut_short_is_an_error() {
    let (_, back) = lengths().await;
    let target = Target::start().await;
    let relay = Relay::before(target.address()).await;
    relay.to_client(move |at, piece| {
        piece.truncate((back - 1).saturating_sub(at));
        at + piece.len() < back - 1
    });
    let client = alice(&target, relay.address);
    assert!(client.send_dm(target.local.id(), secret()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_proven_tls_cannot_be_answered_for_in_plain_text() {
    let target = Target::start().await;
    let listener = tokio::net::TcpListener::bind(free_port()).await.unwrap();
    let client = alice(&target, listener.local_addr().unwrap());
    let attacker = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1024];
        let count = stream.read(&mut first).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"from\":\"target\"}";
        stream.write_all(answer).await.unwrap();
        first[..count].to_vec()
    });
    assert!(sync(&client, &target).await.is_err());
    assert_eq!(
        attacker.await.unwrap()[0],
        0x16,
        "nothing but a handshake was said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_only_server_gives_a_plain_request_no_chance_to_be_read_twice() {
    let target = Target::start_with(|builder| builder.tls(TlsPolicy::Require)).await;
    let answer = target.post(&nara("alice"), "/events/sync", br#"{"from":"alice"}"#);
    assert_ne!(answer.status, 200);
    let relay = Relay::before(target.address()).await;
    sync(&alice(&target, relay.address), &target).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_man_in_the_middle_gains_nothing_where_the_handshake_is_the_only_proof() {
    let target = Target::start_with(|builder| builder.channel_trust(ChannelTrust::Handshake)).await;
    let relay = Relay::before(target.address()).await;
    let client = MeshClient::builder(nara("alice"))
        .clock(Arc::new(target.clock.clone()))
        .channel_trust(ChannelTrust::Handshake)
        .build();
    let peer = client
        .registry()
        .register(known(&target.local, Some(relay.address)))
        .unwrap();
    client.registry().learn_protocol(&peer, speaks_tls());
    client.send_dm(target.local.id(), secret()).await.unwrap();
    sync(&client, &target).await.unwrap();
    assert_eq!(*target.senders.0.lock().unwrap(), ["alice"]);
    // Recorded, redirected or plain messages are worthless.
    let mut stream = tokio::net::TcpStream::connect(target.address()).await.unwrap();
    let _ = stream.write_all(&relay.sent().concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.windows(5).any(|window| window == b"HTTP/"));
    let binding = [("X-Nara-Channel".to_owned(), b":AAAA:".to_vec())];
    let plain = request("POST", "/events/sync", &binding, br#"{"from":"alice"}"#);
    assert_eq!(target.send(&plain).status, 401);
    let other = MeshServer::builder(nara("mallory"), Arc::new(MemoryLedger::new()))
        .channel_trust(ChannelTrust::Handshake)
        .serve(free_port())
        .await
        .unwrap();
    relay.divert(other.local_addr());
    let diverted = MeshClient::builder(nara("alice"))
        .channel_trust(ChannelTrust::Handshake)
        .build();
    let peer = diverted
        .registry()
        .register(known(&target.local, Some(relay.address)))
        .unwrap();
    diverted.registry().learn_protocol(&peer, speaks_tls());
    let error = sync(&diverted, &target).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    assert_eq!(target.senders.0.lock().unwrap().len(), 1);
}
