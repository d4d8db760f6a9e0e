//! One test per row of sections 4 to 6 and 8 of the mesh client specification. The names of the tests identify the
//! rows.
#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue fails the test"
)]

#[path = "support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
#[path = "support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
#[path = "support/raw_http.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod raw_http;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{HeaderMap, Method};
use nara_mesh::client::{AddressOverrides, MeshClient};
use nara_mesh::clock::ManualClock;
use nara_mesh::discovery::{Discovery, Found};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::{Candidate, MemoryNetwork, PeerSource, TcpTransport};
use nara_proto::event::SyncEvent;
use nara_proto::identity::{NaraName, Signature};
use nara_proto::sync::SyncRequest;
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::{RequestAuth, request_signature_base, signed_path};
use nara_proto::world::WorldMessage;

use fake_peer::{FakePeer, Received, plain};
use naras::{known, nara, registry};
use raw_http::RawResponse;

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

/// A nara with a server on loopback that knows `friends` and can call them.
struct Running {
    me: LocalNara,
    client: MeshClient,
    ledger: Arc<MemoryLedger>,
    server: RunningServer,
}

impl Running {
    async fn start(me: LocalNara, friends: &[&LocalNara]) -> Self {
        let client = MeshClient::builder(me.clone())
            .registry(registry(friends))
            .build();
        let ledger = Arc::new(MemoryLedger::new());
        let server = MeshServer::builder(me.clone(), ledger.clone())
            .client(client.clone())
            .serve(SocketAddr::from((LOOPBACK, 0)))
            .await
            .unwrap();
        // A request that is signed in the millisecond in which a server started counts as signed before.
        tokio::time::sleep(Duration::from_millis(2)).await;
        Self {
            me,
            client,
            ledger,
            server,
        }
    }

    fn knows_address_of(&self, other: &Self) {
        self.client
            .register_peer(other.me.id(), other.server.local_addr())
            .unwrap();
    }
}

/// Returns alice and bob, who know each other.
async fn friends() -> (Running, Running) {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let alice_runs = Running::start(alice.clone(), &[&bob]).await;
    let bob_runs = Running::start(bob, &[&alice]).await;
    alice_runs.knows_address_of(&bob_runs);
    bob_runs.knows_address_of(&alice_runs);
    (alice_runs, bob_runs)
}

fn tease(from: &LocalNara, to: &str) -> SyncEvent {
    naras::tease(from, to, 1_769_100_000_000_000_000)
}

/// Starts a peer that answers 503.
async fn recorder() -> FakePeer {
    let free_port = SocketAddr::from((LOOPBACK, 0));
    FakePeer::start(TcpTransport, free_port, |_| plain(503, "")).await
}

/// Returns a recorded signed call of alice.
async fn recorded_sync() -> (LocalNara, Received) {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let peer = recorder().await;
    let client = MeshClient::builder(alice.clone()).build();
    client
        .registry()
        .register(known(&bob, Some(peer.address)))
        .unwrap();
    client
        .fetch_sync_events(bob.id(), SyncRequest::recent(1))
        .await
        .unwrap_err();
    (alice, peer.last())
}

/// Sends a request of alice to bob with unchanged headers.
fn send_raw(to: SocketAddr, auth: &RequestAuth, change: impl FnOnce(&mut HeaderMap)) -> RawResponse {
    let mut headers = HeaderMap::new();
    auth.write_to(&mut headers);
    change(&mut headers);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let request = raw_http::request("POST", "/events/sync", &headers, br#"{"from":"alice"}"#);
    raw_http::send(to, &request).unwrap().expect("an answer")
}

fn signed_now(nara: &LocalNara) -> RequestAuth {
    use nara_mesh::clock::{Clock as _, SystemClock};
    RequestAuth::sign(
        nara.keypair(),
        nara.name(),
        SystemClock.now_millis(),
        "POST",
        "/events/sync",
    )
}

#[tokio::test]
async fn section_4_header_x_nara_name_is_the_senders_name() {
    let (alice, recorded) = recorded_sync().await;
    assert_eq!(recorded.headers["x-nara-name"], alice.name().as_str());
}

#[tokio::test]
async fn section_4_header_x_nara_timestamp_is_unix_milliseconds() {
    use nara_mesh::clock::{Clock as _, SystemClock};
    let before = SystemClock.now_millis();
    let (_, recorded) = recorded_sync().await;
    let after = SystemClock.now_millis();
    let timestamp: i64 = recorded.headers["x-nara-timestamp"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((before.get()..=after.get()).contains(&timestamp));
}

#[tokio::test]
async fn section_4_header_x_nara_signature_covers_name_timestamp_method_path() {
    let (alice, recorded) = recorded_sync().await;
    let timestamp = recorded.headers["x-nara-timestamp"].to_str().unwrap();
    let signature =
        Signature::from_canonical_base64(recorded.headers["x-nara-signature"].as_bytes()).unwrap();
    let text = format!("alice{timestamp}POST/events/sync");
    alice.public_key().verify(text.as_bytes(), &signature).unwrap();
}

#[tokio::test]
async fn section_4_capability_ping_nara_measures_the_round_trip_to_a_peer() {
    let (alice, bob) = friends().await;
    let report = alice.client.ping(bob.me.id()).await.unwrap();
    assert!(report.rtt > Duration::ZERO);
    assert_eq!(report.response.from, "bob");
}

#[tokio::test]
async fn section_4_capability_fetch_sync_events_posts_to_events_sync() {
    let (alice, bob) = friends().await;
    bob.ledger
        .insert_verified(vec![tease(&bob.me, "alice")])
        .await
        .unwrap();
    let answer = alice
        .client
        .fetch_sync_events(bob.me.id(), SyncRequest::recent(10))
        .await
        .unwrap();
    assert!(answer.is_verified());
    assert_eq!(answer.events.accepted.len(), 1);
    let (_, recorded) = recorded_sync().await;
    assert_eq!(
        (recorded.method, recorded.target.as_str()),
        (Method::POST, "/events/sync")
    );
}

#[tokio::test]
async fn section_4_capability_relay_world_message_forwards_a_multi_hop_postcard() {
    let (alice, bob) = friends().await;
    let postcard = WorldMessage::new("alice", "hello world", UnixNanos::new(1));
    // Bob adds his hop and forwards it to its originator, alice, who adds the last one.
    alice
        .client
        .relay_world_message(bob.me.id(), &postcard)
        .await
        .unwrap();
    let journeys = |ledger: Arc<MemoryLedger>| async move { ledger.count().await.unwrap() };
    assert_eq!(journeys(bob.ledger.clone()).await, 1);
    assert_eq!(journeys(alice.ledger.clone()).await, 1);
}

#[tokio::test]
async fn section_4_capability_send_dm_delivers_a_direct_message() {
    let (alice, bob) = friends().await;
    let receipt = alice
        .client
        .send_dm(bob.me.id(), tease(&alice.me, "bob"))
        .await
        .unwrap();
    assert!(receipt.success);
    assert_eq!(bob.ledger.count().await.unwrap(), 1);
}

#[tokio::test]
async fn section_5_signing_step_1_captures_method_and_path() {
    let (_, recorded) = recorded_sync().await;
    assert_eq!(
        (recorded.method, recorded.target.as_str()),
        (Method::POST, "/events/sync")
    );
}

#[tokio::test]
async fn section_5_signing_step_2_generates_the_current_timestamp() {
    let clock = ManualClock::new(UnixNanos::new(1_700_000_000_123_000_000));
    let peer = recorder().await;
    let client = MeshClient::builder(nara("alice")).clock(Arc::new(clock)).build();
    let bob = nara("bob");
    client
        .registry()
        .register(known(&bob, Some(peer.address)))
        .unwrap();
    client
        .fetch_sync_events(bob.id(), SyncRequest::recent(1))
        .await
        .unwrap_err();
    let recorded = peer.last();
    assert_eq!(recorded.headers["x-nara-timestamp"], "1700000000123");
}

#[test]
fn section_5_signing_step_3_joins_name_timestamp_method_path() {
    let base = request_signature_base("alice", UnixMillis::new(5), "POST", &signed_path("/a%20b"));
    assert_eq!(base, b"alice5POST/a b");
}

#[test]
fn section_5_signing_step_4_signs_with_ed25519() {
    let alice = nara("alice");
    let auth = RequestAuth::sign(alice.keypair(), alice.name(), UnixMillis::new(5), "GET", "/x");
    alice
        .public_key()
        .verify(b"alice5GET/x", auth.signature())
        .unwrap();
}

#[tokio::test]
async fn section_5_signing_step_5_sets_the_headers_and_executes_the_request() {
    let (_, recorded) = recorded_sync().await;
    for header in ["x-nara-name", "x-nara-timestamp", "x-nara-signature"] {
        assert_eq!(recorded.headers.get_all(header).iter().count(), 1, "{header}");
    }
}

/// A fixed list of nodes.
#[derive(Debug)]
struct Nodes(Vec<Candidate>);

impl PeerSource for Nodes {
    fn candidates(&self) -> BoxFuture<'_, std::io::Result<Vec<Candidate>>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        Box::pin(futures_util::stream::empty())
    }

    fn owner_of(&self, _: std::net::IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(async { None })
    }
}

async fn discover(nodes: Vec<Candidate>, port: u16) -> (MeshClient, Vec<Found>) {
    let client = MeshClient::builder(nara("alice")).build();
    let discovery = Discovery::new(client.clone(), Arc::new(Nodes(nodes)))
        .ports([port])
        .loopback_for_tests();
    let found = discovery.run_once().await.unwrap();
    (client, found)
}

#[tokio::test]
async fn section_5_discovery_steps_1_and_2_query_the_status_and_look_at_every_peer() {
    let (_, bob) = friends().await;
    let nodes = vec![
        Candidate::new("bob", vec![LOOPBACK.into()]),
        Candidate::new("without-address", Vec::new()),
    ];
    let (_, found) = discover(nodes, bob.server.local_addr().port()).await;
    assert_eq!(found.len(), 2);
    assert!(found.iter().any(|found| matches!(found, Found::Nara { .. })));
    assert!(found.iter().any(|found| matches!(found, Found::Skipped(_))));
}

#[tokio::test]
async fn section_5_discovery_step_3_filters_tools_out() {
    let (_, bob) = friends().await;
    let nodes = vec![Candidate::new("nara-backup-12345", vec![LOOPBACK.into()])];
    let (client, found) = discover(nodes, bob.server.local_addr().port()).await;
    assert!(matches!(found[..], [Found::Skipped(_)]));
    assert!(client.registry().is_empty());
}

#[tokio::test]
async fn section_5_discovery_step_4_registers_name_and_first_address() {
    let (_, bob) = friends().await;
    let nodes = vec![Candidate::new("bob-x7q2", vec![LOOPBACK.into()])];
    let (client, found) = discover(nodes, bob.server.local_addr().port()).await;
    assert!(matches!(
        found[..],
        [Found::Nara {
            host_name_fits: true,
            ..
        }]
    ));
    let peer = client.registry().by_name("bob").unwrap().info();
    assert_eq!(peer.address, Some(bob.server.local_addr()));
    assert_eq!(peer.key.unwrap().key, bob.me.public_key());
}

#[tokio::test(start_paused = true)]
async fn section_6_an_offline_peer_costs_at_most_five_seconds_and_then_nothing() {
    let network = MemoryNetwork::new();
    let offline = SocketAddr::from(([100, 64, 0, 7], 9632));
    network.silence(offline.ip());
    let transport = Arc::new(network.host([100, 64, 0, 1].into()));
    let client = MeshClient::builder(nara("alice")).transport(transport).build();
    let bob = nara("bob");
    client.register_peer(bob.id(), offline).unwrap();

    let start = tokio::time::Instant::now();
    let error = client.ping(bob.id()).await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    // Time is paused and advances from timer to timer: this is exact on any machine.
    assert!(
        start.elapsed() <= Duration::from_millis(5001),
        "{:?}",
        start.elapsed()
    );

    let start = tokio::time::Instant::now();
    let error = client.ping(bob.id()).await.unwrap_err();
    assert!(error.is_circuit_open(), "{error}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn section_6_a_request_older_than_thirty_seconds_is_refused() {
    let (alice, bob) = friends().await;
    use nara_mesh::clock::{Clock as _, SystemClock};
    let old = UnixMillis::new(SystemClock.now_millis().get() - 31_000);
    let auth = RequestAuth::sign(alice.me.keypair(), alice.me.name(), old, "POST", "/events/sync");
    let answer = send_raw(bob.server.local_addr(), &auth, |_| {});
    assert_eq!(answer.status, 401);
    assert!(
        answer.text().contains("timestamp too old or in future"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn section_8_a_request_to_a_registered_id_goes_to_its_mesh_address() {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let mesh_address = SocketAddr::from(([100, 64, 0, 7], 9632));
    let network = MemoryNetwork::new();
    let server = MeshServer::builder(bob.clone(), Arc::new(MemoryLedger::new()))
        .transport(Arc::new(network.host(mesh_address.ip())))
        .serve(mesh_address)
        .await
        .unwrap();
    let transport = Arc::new(network.host([100, 64, 0, 1].into()));
    let client = MeshClient::builder(alice.clone()).transport(transport).build();
    client.register_peer_ip(bob.id(), mesh_address.ip()).unwrap();
    assert_eq!(client.ping(bob.id()).await.unwrap().response.from, "bob");
    drop(server);

    // In test mode it goes to the override's address.
    let (_, elsewhere) = friends().await;
    let overrides = AddressOverrides::new()
        .with_url(
            bob.id().clone(),
            &format!("http://{}", elsewhere.server.local_addr()),
        )
        .unwrap();
    let client = MeshClient::builder(alice).address_overrides(overrides).build();
    client.register_peer_ip(bob.id(), mesh_address.ip()).unwrap();
    assert_eq!(client.ping(bob.id()).await.unwrap().response.from, "bob");
}

#[tokio::test(flavor = "multi_thread")]
async fn section_8_a_tampered_name_or_timestamp_is_an_invalid_signature_at_the_receiver() {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let carol = nara("carol");
    let bob = Running::start(bob, &[&alice, &carol]).await;
    let to = bob.server.local_addr();
    let untouched = send_raw(to, &signed_now(&alice), |_| {});
    assert_eq!(untouched.status, 200, "{untouched:?}");

    let auth = signed_now(&alice);
    let tampered_name = send_raw(to, &auth, |headers| {
        headers.insert("x-nara-name", "carol".parse().unwrap());
    });
    let auth = signed_now(&alice);
    let later = auth.timestamp().get() + 1;
    let tampered_time = send_raw(to, &auth, |headers| {
        headers.insert("x-nara-timestamp", later.into());
    });
    for answer in [tampered_name, tampered_time] {
        assert_eq!(answer.status, 401);
        assert!(
            answer.text().contains("signature verification failed"),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn section_8_ping_nara_returns_a_valid_duration_if_the_peer_is_online() {
    let (alice, bob) = friends().await;
    let report = alice.client.ping(bob.me.id()).await.unwrap();
    assert!(report.rtt > Duration::ZERO && report.rtt < Duration::from_secs(5));
}
