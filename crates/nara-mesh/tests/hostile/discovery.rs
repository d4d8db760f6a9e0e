//! Key discovery: which senders are asked, and how often.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use nara_mesh::Signatures;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::{KeySource, PeerEvent};
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport};

use crate::raw_http;
use crate::support::{LOOPBACK, NOW, Target, free_port, nara, nara_with_seed, registry, request, signed};

/// A TCP transport that counts its dials.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counting(Arc<AtomicUsize>);

impl Transport for Counting {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, std::io::Result<BoxMeshStream>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        TcpTransport.dial(peer)
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn MeshListener>>> {
        TcpTransport.listen(local)
    }
}

impl Counting {
    pub(crate) fn dials(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Starts a server that calls unknown senders back on `port`, on loopback too if `inside`.
pub(crate) async fn target(port: u16, inside: bool, limits: ServerLimits) -> (Target, Counting) {
    let dials = Counting::default();
    let registry = registry(&[&nara("alice"), &nara("bob")]);
    let shared = registry.clone();
    let mut target = Target::start_with(|builder| {
        let client = MeshClient::builder(nara("target"))
            .registry(registry.clone())
            .transport(Arc::new(dials.clone()))
            .build();
        let builder = builder
            .registry(registry)
            .client(client)
            .mesh_port(port)
            .limits(limits);
        if inside {
            builder.loopback_for_tests()
        } else {
            builder
        }
    })
    .await;
    target.registry = shared;
    (target, dials)
}

/// Starts a nara that answers `/ping`, and whose requests the tests sign.
pub(crate) async fn online(nara: &LocalNara) -> RunningServer {
    MeshServer::builder(nara.clone(), Arc::new(MemoryLedger::new()))
        .signatures(Signatures::V1Only)
        .serve(free_port())
        .await
        .unwrap()
}

fn sync(target: &Target, sender: &LocalNara) -> u16 {
    let body = format!("{{\"from\":\"{}\"}}", sender.name());
    target.post(sender, "/events/sync", body.as_bytes()).status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_outside_of_the_mesh_is_not_called_back() {
    let listener = std::net::TcpListener::bind(free_port()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (target, dials) = target(port, false, ServerLimits::default()).await;
    let answer = target.post(&nara("carol"), "/events/sync", br#"{"from":"carol"}"#);
    assert_eq!(answer.status, 401);
    assert_eq!(answer.text(), "Authentication failed: unknown sender: carol\n");
    assert_eq!(dials.dials(), 0);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_of_the_mesh_is_asked_once_for_its_key() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, dials) = target(server.local_addr().port(), true, ServerLimits::default()).await;
    assert_eq!(sync(&target, &carol), 200);
    assert_eq!(sync(&target, &carol), 200);
    assert_eq!(dials.dials(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_whose_key_is_forgotten_is_asked_again_at_once() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, _) = target(server.local_addr().port(), true, ServerLimits::default()).await;
    assert_eq!(sync(&target, &carol), 200);
    let known = target.registry.by_name("carol").unwrap();
    target.registry.remove(&known);
    assert_eq!(sync(&target, &carol), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_whose_name_cannot_be_seen_is_not_met() {
    let hidden = nara("ali\u{200b}ce");
    let server = online(&hidden).await;
    let (target, _) = target(server.local_addr().port(), true, ServerLimits::default()).await;
    let answer = target.post(&hidden, "/events/sync", "{\"from\":\"ali\u{200b}ce\"}".as_bytes());
    assert_eq!(answer.status, 401);
    assert!(!answer.text().contains('\u{200b}'), "{}", answer.text());
    assert!(
        target
            .registry
            .by_name("ali\u{200b}ce")
            .is_none_or(|peer| peer.key().is_none())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_of_one_stranger_make_one_call() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, dials) = target(server.local_addr().port(), true, ServerLimits::default()).await;
    let address = target.address();
    let requests = (0..8).map(|index| {
        let at = nara_proto::time::UnixMillis::new(NOW.get() + index);
        let headers = signed(&carol, at, "POST", "/events/sync");
        let bytes = request("POST", "/events/sync", &headers, br#"{"from":"carol"}"#);
        tokio::task::spawn_blocking(move || raw_http::send(address, &bytes).unwrap().unwrap().status)
    });
    for status in join_all(requests).await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(dials.dials(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_under_another_name_is_refused_and_not_retried() {
    let dave = online(&nara("dave")).await;
    let (target, dials) = target(dave.local_addr().port(), true, ServerLimits::default()).await;
    assert_eq!(sync(&target, &nara("carol")), 401);
    let after_the_first = dials.dials();
    assert_eq!(sync(&target, &nara("carol")), 401);
    assert_eq!(dials.dials(), after_the_first);
    assert_eq!(sync(&target, &nara("dave")), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_cannot_make_us_call_without_end() {
    // The port is closed: each discovery fails at once.
    let mut limits = ServerLimits::default();
    limits.discoveries_per_minute = 2;
    let (target, dials) = target(1, true, limits).await;
    for name in ["c", "d"] {
        assert_eq!(sync(&target, &nara(name)), 401);
    }
    let allowed = dials.dials();
    for name in ["e", "f", "g"] {
        assert_eq!(sync(&target, &nara(name)), 401);
    }
    assert_eq!(dials.dials(), allowed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_name_with_a_new_key_is_refused_and_reported() {
    let impostor = nara_with_seed("alice", 200);
    let server = online(&impostor).await;
    let registry = registry(&[&nara("alice")]);
    let mut watch = registry.subscribe();
    let port = server.local_addr().port();
    let client = MeshClient::builder(nara("target"))
        .registry(registry.clone())
        .build();
    let target = Target::start_with(|builder| {
        builder
            .registry(registry.clone())
            .client(client)
            .mesh_port(port)
            .loopback_for_tests()
    })
    .await;
    assert_eq!(sync(&target, &impostor), 401);
    // Without the discovery it would wait for ever.
    let event = tokio::time::timeout(Duration::from_secs(60), watch.recv()).await;
    let PeerEvent::KeyConflict(conflict) = event.expect("no discovery happened").unwrap() else {
        panic!("another event");
    };
    assert_eq!(conflict.offered, impostor.public_key());
    assert_eq!(
        conflict.offered_by,
        KeySource::Ping(SocketAddr::new(LOOPBACK, port))
    );
    let alice = registry.by_name("alice").unwrap();
    assert_eq!(alice.key(), Some(nara("alice").public_key()));
    assert_eq!(sync(&target, &nara("alice")), 200);
}

/// Starts a server at `listen` that knows no peer and calls strangers of these ranges back on `port`.
async fn wary(listen: &str, port: u16, ranges: &[&str]) -> Option<RunningServer> {
    let client = MeshClient::builder(nara("target")).build();
    let ranges: Vec<ipnet::IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let serving = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
        .client(client)
        .clock(Arc::new(nara_mesh::clock::ManualClock::new(NOW.to_nanos())))
        .mesh_ranges(ranges)
        .mesh_port(port)
        .serve(listen.parse().unwrap());
    match serving.await {
        Ok(server) => Some(server),
        Err(error) => {
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(!listen.starts_with("127."), "{error}: {cause}");
            // This machine has no IPv6.
            None
        }
    }
}

/// Returns the status of carol's request to this address.
fn carol_asks(address: SocketAddr) -> u16 {
    let headers = signed(&nara("carol"), NOW, "POST", "/events/sync");
    let bytes = request("POST", "/events/sync", &headers, br#"{"from":"carol"}"#);
    raw_http::send(address, &bytes).unwrap().unwrap().status
}

async fn carol_at(listen: &str) -> Option<RunningServer> {
    MeshServer::builder(nara("carol"), Arc::new(MemoryLedger::new()))
        .signatures(Signatures::V1Only)
        .serve(listen.parse().unwrap())
        .await
        .ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_of_both_families_are_called_back_inside_of_the_ranges_only() {
    for (listen, inside, outside) in [
        ("127.0.0.1:0", "127.0.0.0/8", "::1/128"),
        ("[::1]:0", "::1/128", "127.0.0.0/8"),
    ] {
        let Some(carol) = carol_at(listen).await else {
            continue;
        };
        let port = carol.local_addr().port();
        for (range, status) in [(inside, 200), (outside, 401)] {
            let Some(server) = wary(listen, port, &[range]).await else {
                continue;
            };
            assert_eq!(carol_asks(server.local_addr()), status, "{listen} in {range}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_ipv4_on_a_socket_of_ipv6_is_judged_as_ipv4() {
    let carol = carol_at("127.0.0.1:0").await.unwrap();
    let port = carol.local_addr().port();
    for (ranges, status) in [
        // As IPv6 it is in this range, but it is an IPv4 address.
        (&["::ffff:0:0/96", "::/0"][..], 401),
        (&["127.0.0.0/8"][..], 200),
    ] {
        let Some(server) = wary("[::]:0", port, ranges).await else {
            return;
        };
        let address = SocketAddr::new(LOOPBACK, server.local_addr().port());
        assert_eq!(carol_asks(address), status, "{ranges:?}");
    }
}

/// Answers all connections to a loopback port with these bytes, and counts them.
fn answering(bytes: Vec<u8>) -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind(free_port()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&bytes);
            if bytes.is_empty() {
                silent.push(stream);
            }
        }
    });
    (port, connections)
}

fn ping_of_carol(padding: usize) -> String {
    format!(
        r#"{{"from":"carol","mesh_ip":"","public_key":"{}","t":1,"padding":"{}"}}"#,
        nara("carol").public_key(),
        "x".repeat(padding)
    )
}

fn http(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_follows_no_redirect() {
    let carol = carol_at("127.0.0.1:0").await.unwrap();
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let location = format!("Location: http://{}/ping\r\n", carol.local_addr());
        // The body would be a valid answer.
        let (port, connections) = answering(http(status, &location, &ping_of_carol(0)));
        let server = wary("127.0.0.1:0", port, &["127.0.0.0/8"]).await.unwrap();
        assert_eq!(carol_asks(server.local_addr()), 401, "{status}");
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_reads_4_kib_and_no_more() {
    let beside = ping_of_carol(0).len();
    for (size, status) in [(4096, 200), (4097, 401)] {
        let body = ping_of_carol(size - beside);
        assert_eq!(body.len(), size);
        let (port, _) = answering(http("200 OK", "", &body));
        let server = wary("127.0.0.1:0", port, &["127.0.0.0/8"]).await.unwrap();
        assert_eq!(carol_asks(server.local_addr()), status, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_back_that_is_never_answered_ends() {
    let (port, connections) = answering(Vec::new());
    let server = wary("127.0.0.1:0", port, &["127.0.0.0/8"]).await.unwrap();
    // After 2 s; a test with paused time checks the exact time.
    assert_eq!(carol_asks(server.local_addr()), 401);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
