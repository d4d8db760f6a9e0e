//! A whole client: answers of arbitrary bytes, or signed answers of a known peer with an arbitrary body.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, nara, registry};
use nara_mesh::client::{MeshClient, PeerRef, SubscribeOptions, SyncOptions};
use nara_mesh::clock::ManualClock;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::transport::{MemoryNetwork, Transport as _};
use nara_proto::reconcile::Scope;
use nara_proto::sync::SyncRequest;
use nara_proto::v1::ResponseAuth;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Builder;

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns an answer signed by bob, as bytes.
fn signed(body: &[u8]) -> Vec<u8> {
    let bob = nara("bob");
    let mut headers = HeaderMap::new();
    ResponseAuth::sign(bob.keypair(), bob.name(), NOW, body).write_to(&mut headers);
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in &headers {
        bytes.extend_from_slice(format!("{name}: ").as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, rest)) = bytes.split_first() else {
        return;
    };
    // Letters, so that seeds can be written by hand: after a capital letter, the answer is sent as it is.
    let answer = if how.is_ascii_uppercase() {
        rest.to_vec()
    } else {
        signed(rest)
    };
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let network = MemoryNetwork::new();
        let address = SocketAddr::from(([100, 64, 0, 2], 9632));
        let mut listener = network
            .host(address.ip())
            .listen(address)
            .await
            .expect("a listener");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while matches!(stream.read(&mut request).await, Ok(1..)) {
                        if stream.write_all(&answer).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let bob = nara("bob");
        let registry = registry(&[]);
        registry.register(bob.as_peer(Some(address))).expect("room");
        let client = MeshClient::builder(nara("alice"))
            .registry(registry)
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .transport(Arc::new(network.host([100, 64, 0, 1].into())))
            .build();
        let calls = async {
            match how.to_ascii_lowercase() {
                b'p' => drop(client.ping(bob.id()).await),
                b'd' => drop(client.discover_key(address, None).await),
                b's' => drop(client.fetch_sync_events(bob.id(), SyncRequest::recent(10)).await),
                b'z' => drop(client.peer(bob.id()).exchange_zine(Vec::new()).await),
                b'q' => drop(client.query_peer(&"carol".parse().expect("a name")).await),
                b'c' => drop(client.peer(bob.id()).fetch_checkpoints().await),
                b'r' => {
                    let ledger = MemoryLedger::new();
                    let peer = PeerRef::from(bob.id());
                    drop(
                        client
                            .peer(peer)
                            .reconcile(&ledger, Scope::all(), SyncOptions::default())
                            .await,
                    );
                }
                b'e' => {
                    use futures_util::StreamExt as _;
                    let mut events = client.peer(bob.id()).subscribe(SubscribeOptions::default());
                    while events.next().await.is_some() {}
                }
                _ => {}
            }
        };
        let _ = tokio::time::timeout(PATIENCE, calls).await;
    });
});
