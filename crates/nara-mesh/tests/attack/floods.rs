//! Floods and oversized messages.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Response};
use nara_mesh::client::MeshClient;
use nara_mesh::clock::ManualClock;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, TcpTransport, Transport as _};
use nara_proto::sync::SyncRequest;
use nara_proto::v1::ResponseAuth;
use nara_proto::v2::{ContentDigest, Nonce, Recipient, RequestLine, RequestToSign, SignedBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::fake_peer::{Answer, FakePeer};
use crate::raw_http;
use crate::support::{NOW, Target, free_port, known, nara, registry, request, signed};

const SYNC: &[u8] = br#"{"from":"alice","mode":"recent"}"#;
const GIBIBYTE: usize = 1 << 30;

fn head(length: &str) -> Vec<u8> {
    let mut head = b"POST /dm HTTP/1.1\r\nHost: nara\r\n".to_vec();
    for (name, value) in signed(&nara("alice"), NOW, "POST", "/dm") {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(&value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(format!("{length}\r\n\r\n").as_bytes());
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_that_is_announced_is_refused_before_a_byte_of_it_is_read() {
    let target = Target::start().await;
    let mut stream = raw_http::connect(target.address()).unwrap();
    stream
        .write_all(&head(&format!("Content-Length: {GIBIBYTE}")))
        .unwrap();
    let answer = raw_http::read_response(&mut stream, false).unwrap().unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_digest_does_not_hide_how_large_a_body_is() {
    let target = Target::start().await;
    let signed = nara("alice").signer().sign_request(&RequestToSign {
        line: RequestLine {
            method: "POST",
            path: "/dm",
            query: None,
        },
        to: &Recipient::Id(target.local.id().clone()),
        body: SignedBody::Digest(ContentDigest::of(b"whatever it is")),
        now: NOW,
        nonce: Nonce::new(NOW, [7; 10]),
        channel: None,
    });
    let mut headers = HeaderMap::new();
    signed.write_to(&mut headers);
    let mut head = format!("POST /dm HTTP/1.1\r\nHost: nara\r\nContent-Length: {GIBIBYTE}\r\n").into_bytes();
    for (name, value) in &headers {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let mut stream = raw_http::connect(target.address()).unwrap();
    stream.write_all(&head).unwrap();
    let answer = raw_http::read_response(&mut stream, false).unwrap().unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_that_just_comes_is_cut_off() {
    let target = Target::start().await;
    let mut stream = raw_http::connect(target.address()).unwrap();
    stream.write_all(&head("Transfer-Encoding: chunked")).unwrap();
    let mut chunk = b"10000\r\n".to_vec();
    chunk.resize(chunk.len() + 0x10000, b' ');
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0;
    while sent < GIBIBYTE && stream.write_all(&chunk).is_ok() {
        sent += chunk.len();
    }
    // The limit, plus the buffers of both sockets.
    assert!(sent < GIBIBYTE / 16, "{sent}");
    assert_eq!(target.post(&nara("alice"), "/events/sync", SYNC).status, 200);
}

/// Returns `content` as gzip without compression: one stored block.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut crc = !0_u32;
    for byte in content {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    let length = u16::try_from(content.len()).unwrap();
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&(!length).to_le_bytes());
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(&(!crc).to_le_bytes());
    bytes.extend_from_slice(&u32::from(length).to_le_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_request_is_never_unpacked() {
    // A server that does not decompress is immune to decompression bombs.
    let target = Target::start().await;
    let alice = nara("alice");
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        target.clock.advance(Duration::from_millis(1));
        let now = nara_mesh::clock::Clock::now_millis(&target.clock);
        let mut headers = signed(&alice, now, "POST", "/events/sync");
        headers.push(("Content-Encoding".to_owned(), encoding.as_bytes().to_vec()));
        let answer = target.send(&request("POST", "/events/sync", &headers, &gzip(SYNC)));
        assert_eq!(answer.status, 400, "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_neither_asked_for_nor_unpacked() {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let body = gzip(br#"{"from":"bob"}"#);
    let answering = bob.clone();
    let peer = FakePeer::start(TcpTransport, free_port(), move |_| {
        let mut response = Response::new(body.clone().into());
        ResponseAuth::sign(answering.keypair(), answering.name(), NOW, &body)
            .write_to(response.headers_mut());
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert("content-encoding", gzip);
        Answer::With(response)
    })
    .await;
    let client = MeshClient::builder(alice)
        .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
        .build();
    client
        .registry()
        .register(known(&bob, Some(peer.address)))
        .unwrap();
    let error = client
        .fetch_sync_events(bob.id(), SyncRequest::recent(1))
        .await
        .unwrap_err();
    assert!(!error.is_unauthenticated(), "it is signed, and not JSON: {error}");
    assert!(!peer.last().headers.contains_key("accept-encoding"));
}

const HOST: [u8; 4] = [100, 64, 0, 1];

/// The server `target` in an in-memory network, where strangers are called back.
struct Crowd {
    network: MemoryNetwork,
    registry: PeerRegistry,
    server: RunningServer,
}

impl Crowd {
    async fn start() -> Self {
        let network = MemoryNetwork::new();
        let registry = registry(&[&nara("alice")]);
        let transport = Arc::new(network.host(HOST.into()));
        let client = MeshClient::builder(nara("target"))
            .registry(registry.clone())
            .transport(transport.clone())
            .build();
        let server = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
            .client(client)
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .transport(transport)
            .serve(SocketAddr::from((HOST, 9632)))
            .await
            .unwrap();
        Self {
            network,
            registry,
            server,
        }
    }

    async fn connect_from(&self, host: [u8; 4]) -> std::io::Result<BoxMeshStream> {
        self.network
            .host(host.into())
            .dial(self.server.local_addr())
            .await
    }

    /// Returns how long alice waits for the answer to a signed request, from her own address.
    async fn alice_is_served_within(&self) -> Duration {
        let began = Instant::now();
        let mut stream = self.connect_from([100, 127, 0, 1]).await.unwrap();
        let headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
        stream
            .write_all(&request("POST", "/events/sync", &headers, SYNC))
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_names_leave_nothing_behind() {
    let crowd = Crowd::start().await;
    let some_signature = signed(&nara("mallory"), NOW, "POST", "/dm");
    let callers = (0..100_u8).map(|host| {
        let (crowd, some_signature) = (&crowd, &some_signature);
        async move {
            let stream = crowd.connect_from([100, 65, 0, host]).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let ask = async {
                for index in 0..1000 {
                    let mut headers = some_signature.clone();
                    let name = headers.iter_mut().find(|(name, _)| name == "x-nara-name");
                    name.unwrap().1 = format!("m-{host}-{index}").into_bytes();
                    let bytes = request("POST", "/dm", &headers, b"");
                    let mut text = String::from_utf8(bytes).unwrap();
                    if index < 999 {
                        text = text.replace("Connection: close\r\n", "");
                    }
                    write.write_all(text.as_bytes()).await.unwrap();
                }
            };
            let mut answers = String::new();
            let ((), outcome) = tokio::join!(ask, read.read_to_string(&mut answers));
            outcome.unwrap();
            let refused = answers.matches("HTTP/1.1 4").count();
            assert_eq!((refused, answers.matches("HTTP/1.1 ").count()), (1000, 1000));
        }
    });
    join_all(callers).await;
    assert_eq!(crowd.registry.len(), 1, "alice");
    assert_eq!(crowd.alice_is_served_within().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_connections_of_one_address_delay_nobody_else() {
    let crowd = Crowd::start().await;
    let mut held = Vec::new();
    for _ in 0..10_000 {
        let mut stream = crowd.connect_from([100, 65, 0, 1]).await.unwrap();
        let _ = stream.write_all(b"G").await;
        held.push(stream);
        tokio::task::yield_now().await;
    }
    assert_eq!(crowd.alice_is_served_within().await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_connections_of_two_hundred_addresses_delay_nobody_else() {
    let crowd = Arc::new(Crowd::start().await);
    let attackers: Vec<_> = (0..10_000_u32)
        .map(|index| {
            let crowd = crowd.clone();
            let [_, _, high, low] = (index % 200).to_be_bytes();
            tokio::spawn(async move {
                let mut stream = crowd.connect_from([100, 65, high, low]).await.unwrap();
                // Half of them are silent, the others begin a header; all stay open as long as the server allows.
                if index % 2 == 0 {
                    let _ = stream.write_all(b"G").await;
                }
                let _ = stream.read_to_end(&mut Vec::new()).await;
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(crowd.alice_is_served_within().await, Duration::ZERO);
    for attacker in attackers {
        attacker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_sockets_of_one_address_sixty_four_are_served() {
    let target = Target::start().await;
    let mut held = Vec::new();
    let (mut served, mut refused) = (0, 0);
    for _ in 0..100 {
        let mut stream = raw_http::connect(target.address()).unwrap();
        stream
            .write_all(b"GET /ping HTTP/1.1\r\nHost: nara\r\n\r\n")
            .unwrap();
        let answer = raw_http::read_response(&mut stream, false).unwrap().unwrap();
        match answer.status {
            200 => served += 1,
            503 => {
                refused += 1;
                assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
                assert_eq!(answer.header("connection").as_deref(), Some("close"));
                assert!(answer.text().contains("at most 64 at once"), "{}", answer.text());
            }
            other => panic!("{other}: {}", answer.text()),
        }
        held.push(stream);
    }
    assert_eq!((served, refused), (64, 36));
}
