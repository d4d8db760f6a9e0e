//! Denial of service by peers and strangers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::client::MeshClient;
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger, SqliteLedger};
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, Transport as _};
use nara_proto::event::{CheckpointPayload, Payload, SyncEvent};
use nara_proto::import::ImportRequest;
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

use crate::naras::tease;
use crate::raw_http;
use crate::support::{NOW, Target, free_port, known, nara, registry, request, signed};

const HOST: [u8; 4] = [100, 64, 0, 1];
const SYNC: &[u8] = br#"{"from":"alice","mode":"recent"}"#;

/// The server `target` in an in-memory network, where time is paused unless a test waits for it.
struct Town {
    network: MemoryNetwork,
    ledger: Arc<MemoryLedger>,
    server: RunningServer,
}

impl Town {
    async fn start(change: impl FnOnce(&mut ServerLimits)) -> Self {
        let mut limits = ServerLimits::default();
        change(&mut limits);
        let network = MemoryNetwork::new();
        let transport = Arc::new(network.host(HOST.into()));
        let client = MeshClient::builder(nara("target"))
            .registry(registry(&[&nara("alice")]))
            .transport(transport.clone())
            .build();
        let ledger = Arc::new(MemoryLedger::new());
        let server = MeshServer::builder(nara("target"), ledger.clone())
            .client(client)
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .transport(transport)
            .limits(limits)
            .serve(SocketAddr::from((HOST, 9632)))
            .await
            .unwrap();
        Self {
            network,
            ledger,
            server,
        }
    }

    /// Sends bytes from a host, without waiting for the answer.
    async fn send(&self, host: u8, bytes: &[u8]) -> BoxMeshStream {
        let caller = self.network.host([100, 64, 1, host].into());
        let mut stream = caller.dial(self.server.local_addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Returns the status of the answer, read to the end of the connection.
    async fn ask(&self, host: u8, bytes: &[u8]) -> String {
        let mut stream = self.send(host, bytes).await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        answer.lines().next().unwrap_or_default()["HTTP/1.1 ".len()..][..3].to_owned()
    }

    /// Checks that a signed request is answered without delay.
    async fn alice_is_served_at_once(&self) {
        let headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
        let before = tokio::time::Instant::now();
        assert_eq!(
            self.ask(250, &request("POST", "/events/sync", &headers, SYNC))
                .await,
            "200"
        );
        assert!(before.elapsed() < Duration::from_millis(10));
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_that_never_answer_hold_no_place_of_others() {
    let town = Town::start(|limits| limits.requests_in_flight = 8).await;
    let mut silent = Vec::new();
    let mut waiting = Vec::new();
    for host in 1..=16 {
        // It accepts the call-back's connection, and stays silent.
        let stranger = town.network.host([100, 64, 1, host].into());
        let address = SocketAddr::from(([100, 64, 1, host], 9632));
        silent.push(stranger.listen(address).await.unwrap());
        let headers = signed(&nara(&format!("stranger{host}")), NOW, "POST", "/events/sync");
        waiting.push(
            town.send(host, &request("POST", "/events/sync", &headers, SYNC))
                .await,
        );
    }
    sleep(Duration::from_millis(1)).await;
    town.alice_is_served_at_once().await;
}

#[tokio::test(start_paused = true)]
async fn a_stranger_has_so_many_requests_that_wait_for_its_key() {
    let town = Town::start(|_| {}).await;
    let stranger = town.network.host([100, 64, 1, 1].into());
    let _silent = stranger
        .listen(SocketAddr::from(([100, 64, 1, 1], 9632)))
        .await
        .unwrap();
    let headers = signed(&nara("stranger"), NOW, "POST", "/events/sync");
    let one_more = request("POST", "/events/sync", &headers, SYNC);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(town.send(1, &one_more).await);
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(town.ask(1, &one_more).await, "503");
    town.alice_is_served_at_once().await;
}

fn checkpoint(emitter: &LocalNara, ts: i64) -> SyncEvent {
    let payload = CheckpointPayload {
        version: 1,
        subject: "bob".to_owned(),
        as_of_time: UnixSeconds::new(ts),
        ..CheckpointPayload::default()
    };
    SyncEvent::signed(
        UnixNanos::new(ts),
        Payload::Checkpoint(payload),
        emitter.name().as_str(),
        emitter.keypair(),
    )
}

#[tokio::test(start_paused = true)]
async fn two_addresses_that_do_not_read_do_not_keep_others_from_the_checkpoints() {
    let town = Town::start(|_| {}).await;
    let alice = nara("alice");
    let checkpoints = (1..=2_000).map(|ts| checkpoint(&alice, ts)).collect();
    town.ledger.insert_verified(checkpoints).await.unwrap();
    let all = request("GET", "/api/checkpoints/all?limit=2000", &[], b"");
    let mut unread = Vec::new();
    for host in [1, 1, 2, 2] {
        unread.push(town.send(host, &all).await);
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(town.ask(1, &all).await, "503");
    assert_eq!(town.ask(3, &all).await, "200");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_drips_is_cut_off() {
    let town = Town::start(|_| {}).await;
    let alice = nara("alice");
    let checkpoints = (1..=2_000).map(|ts| checkpoint(&alice, ts)).collect();
    town.ledger.insert_verified(checkpoints).await.unwrap();
    let mut stream = town
        .send(1, &request("GET", "/api/checkpoints/all?limit=2000", &[], b""))
        .await;
    // For a connection that is only watched for silence, one byte a second is enough progress.
    let mut read = 0;
    let mut byte = [0; 1];
    while stream.read(&mut byte).await.is_ok_and(|count| count > 0) && read < 300 {
        read += 1;
        sleep(Duration::from_secs(1)).await;
        if read == 120 {
            break;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    let text = String::from_utf8_lossy(&rest);
    assert!(!text.ends_with("}\n"), "it was sent to its end");
}

#[tokio::test(start_paused = true)]
async fn imports_that_drip_from_many_addresses_do_not_keep_out_the_owner() {
    let town = Town::start(|_| {}).await;
    let begun = request("POST", "/api/events/import", &[], b"no json");
    let mut dripping = Vec::new();
    for host in 1..=100 {
        dripping.push(town.send(host, &begun[..begun.len() - 1]).await);
    }
    sleep(Duration::from_millis(1)).await;
    let own = ImportRequest::signed(Vec::new(), NOW.to_seconds(), nara("target").keypair());
    let own = request(
        "POST",
        "/api/events/import",
        &[],
        &nara_proto::go_json::to_vec(&own),
    );
    assert_eq!(town.ask(130, &own).await, "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_peer_that_asks_for_samples_does_not_keep_others_waiting() {
    const SAMPLES: usize = 12;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let ledger = Arc::new(SqliteLedger::open_in_memory().unwrap());
    let event = |number: i64| tease(&alice, &format!("nara{number}"), NOW.to_nanos().get() - number);
    ledger
        .insert_verified((0..6_000).map(event).collect())
        .await
        .unwrap();
    let mut limits = ServerLimits::default();
    limits.requests_in_flight_per_peer = 2 * SAMPLES;
    let server = MeshServer::builder(nara("target"), ledger)
        .without_client()
        .registry(registry(&[&alice, &bob]))
        .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
        .limits(limits)
        .serve(free_port())
        .await
        .unwrap();
    let address = server.local_addr();
    let ask = move |sender: &LocalNara, number: i64, body: String| {
        let at = UnixMillis::new(NOW.get() + 1 + number);
        let headers = signed(sender, at, "POST", "/events/sync");
        let bytes = request("POST", "/events/sync", &headers, body.as_bytes());
        move || raw_http::send(address, &bytes).unwrap().unwrap().status
    };
    let (done, answers) = std::sync::mpsc::channel();
    for number in 0..SAMPLES {
        // Each is a different sample, so that the cache answers none.
        let body = format!(
            r#"{{"from":"bob","mode":"sample","sample_size":{}}}"#,
            4_000 - number
        );
        let asked = ask(&bob, i64::try_from(number).unwrap(), body);
        let done = done.clone();
        std::thread::spawn(move || done.send(asked()));
    }
    // All of them have been requested when the first is answered.
    let first = tokio::task::spawn_blocking(move || (answers.recv().unwrap(), answers));
    let (first, answers) = first.await.unwrap();
    assert_eq!(first, 200);
    let asked = ask(
        &alice,
        0,
        r#"{"from":"alice","mode":"recent","limit":1}"#.to_owned(),
    );
    assert_eq!(tokio::task::spawn_blocking(asked).await.unwrap(), 200);
    let answered_before = 1 + answers.try_iter().count();
    assert!(
        answered_before < SAMPLES / 2,
        "alice waited for {answered_before} of {SAMPLES} samples"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_would_take_many_times_its_length_in_memory_is_refused() {
    let target = Target::start().await;
    let alice = nara("alice");
    let empty =
        r#"{"social":{},"ping":{},"observation":{},"hey_there":{},"chau":{},"seen":{},"checkpoint":{}}"#;
    let voters = format!(
        r#"{{"checkpoint":{{"voter_ids":[{}]}}}}"#,
        vec!["\"\""; 9_000].join(",")
    );
    for events in [vec!["{}"; 9_000], vec![empty; 9_000], vec![&voters; 20]] {
        let zine = format!(r#"{{"from":"alice","events":[{}]}}"#, events.join(","));
        assert_eq!(target.post(&alice, "/gossip/zine", zine.as_bytes()).status, 400);
    }
    let ids = format!(r#"{{"from":"alice","ids":[{}]}}"#, vec!["\"\""; 90_000].join(","));
    assert_eq!(target.post(&alice, "/events/fetch", ids.as_bytes()).status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_for_a_zine_is_too_large_for_a_direct_message() {
    let target = Target::start().await;
    let alice = nara("alice");
    let mut event = tease(&alice, &"x".repeat(64 << 10), NOW.to_nanos().get());
    assert_eq!(target.post_json(&alice, "/dm", &event).status, 413);
    event = tease(&alice, &"x".repeat(60 << 10), NOW.to_nanos().get());
    assert_eq!(target.post_json(&alice, "/dm", &event).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_the_owner_introduces_as_many_naras_as_it_has() {
    let target = Target::start().await;
    let naras: Vec<_> = (0..100).map(|number| nara(&format!("nara{number}"))).collect();
    let introductions = naras.iter().map(|nara| {
        SyncEvent::signed(
            NOW.to_nanos(),
            Payload::HeyThere(nara_proto::event::HeyTherePayload {
                from: nara.name().to_string(),
                public_key: nara.public_key().to_base64(),
                ..Default::default()
            }),
            nara.name().as_str(),
            nara.keypair(),
        )
    });
    let import = ImportRequest::signed(introductions.collect(), NOW.to_seconds(), target.local.keypair());
    let body = nara_proto::go_json::to_vec(&import);
    let answer = target.send(&request("POST", "/api/events/import", &[], &body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let learned = naras.iter().filter(|nara| {
        let peer = target.registry.by_name(nara.name().as_str());
        peer.is_some_and(|peer| peer.key() == Some(nara.public_key()))
    });
    assert_eq!(learned.count(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_redirected_to_a_place_of_a_strangers_choice() {
    let target = Target::start().await;
    for path in [
        "/./\\evil.example/",
        "//evil.example/",
        "/./evil.example",
        "/x/../evil.example",
    ] {
        let answer = target.send(&request("GET", path, &[], b""));
        assert_eq!((answer.status, answer.header("location")), (404, None), "{path}");
    }
    for path in [
        "/\\evil.example/",
        "/%5cevil.example/",
        "/%5c%5cevil.example/",
        "//%5cevil.example/",
        "/.%2fevil.example/",
        "/%2e/%2e%2e//evil.example/",
        "///evil.example/..",
        "/%2f/evil.example",
        "/ping%0d%0aLocation:%20http://evil.example/",
        "//ping%0d%0aX-Evil:%201",
        "/?next=//evil.example/",
        "//?//evil.example",
    ] {
        let answer = target.send(&request("GET", path, &[], b""));
        let to = answer.header("location").unwrap_or_default();
        let is_foreign = to.contains("evil") || to.starts_with("//") || to.contains(['\\', '\r', '\n']);
        assert!(
            !is_foreign && answer.status >= 300,
            "{path}: {} {to:?}",
            answer.status
        );
        assert_eq!(answer.header("x-evil"), None, "{path}");
    }
    let answer = target.send(&request("GET", "//ping", &[], b""));
    assert_eq!(answer.header("location").as_deref(), Some("/ping"));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_millisecond_all_arrive_and_count_once() {
    let target = Target::start().await;
    let alice = nara("alice");
    let headers = signed(&alice, NOW, "POST", "/dm");
    let message = |number: i64| {
        let event = tease(&alice, "bob", NOW.to_nanos().get() + number);
        request("POST", "/dm", &headers, &nara_proto::go_json::to_vec(&event))
    };
    for number in 0..20 {
        let answer = target.send(&message(number));
        assert_eq!(
            (answer.status, answer.text()),
            (200, "{\"from\":\"target\",\"success\":true}\n".to_owned())
        );
    }
    for number in 0..20 {
        assert_eq!(
            target.send(&message(number)).status,
            401,
            "the same message again"
        );
    }
    assert_eq!(target.count().await, 20);
}

/// Inherent to v1: the signature does not cover the body, so a captured one can be used with another body, from the
/// same address only. Inner messages must still be signed by their sender.
#[tokio::test(flavor = "multi_thread")]
async fn a_captured_v1_signature_brings_no_message_that_its_sender_did_not_sign() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let headers = signed(&alice, NOW, "POST", "/dm");
    let body = |event: &SyncEvent| nara_proto::go_json::to_vec(event);
    let first = tease(&alice, "bob", NOW.to_nanos().get());
    assert_eq!(
        target
            .send(&request("POST", "/dm", &headers, &body(&first)))
            .status,
        200
    );

    let mut forged = tease(&bob, "bob", NOW.to_nanos().get() + 1);
    assert_eq!(
        target
            .send(&request("POST", "/dm", &headers, &body(&forged)))
            .status,
        403
    );
    forged.emitter = "alice".to_owned();
    assert_eq!(
        target
            .send(&request("POST", "/dm", &headers, &body(&forged)))
            .status,
        403
    );
    assert_eq!(target.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_request_of_one_millisecond_is_no_message_with_a_body_of_its_own() {
    let target = Target::start().await;
    let headers = signed(&nara("alice"), NOW, "POST", "/world/relay");
    assert_ne!(
        target
            .send(&request("POST", "/world/relay", &headers, b"{}"))
            .status,
        401
    );
    assert_eq!(
        target
            .send(&request("POST", "/world/relay", &headers, b"{} "))
            .status,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_for_a_v1_client_ends_before_a_group_of_equal_times() {
    let target = Target::start().await;
    let alice = nara("alice");
    let at = |ts: i64, subject: &str| tease(&alice, subject, ts);
    let events = vec![at(1, "a"), at(2, "b"), at(2, "c"), at(2, "d"), at(3, "e")];
    target.ledger.insert_verified(events).await.unwrap();
    let mut cursor = String::new();
    let mut pages = Vec::new();
    while pages.len() < 9 {
        let asked = format!(r#"{{"from":"alice","mode":"page","page_size":3,"cursor":"{cursor}"}}"#);
        let answer = target.post(&alice, "/events/sync", asked.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page: nara_proto::sync::SyncResponse = nara_proto::go_json::from_slice(&answer.body).unwrap();
        let events = page.events.unwrap_or_default();
        pages.push(events.iter().map(|event| event.ts.get()).collect::<Vec<_>>());
        if page.next_cursor.is_empty() {
            break;
        }
        cursor = page.next_cursor;
    }
    assert_eq!(pages.concat(), [1, 2, 2, 2, 3], "{pages:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_relay_says_nothing_of_the_peers_of_the_nara() {
    let next = nara("next");
    let address: SocketAddr = ([127, 0, 0, 1], 1).into();
    let client_registry = registry(&[&nara("alice")]);
    client_registry.register(known(&next, Some(address))).unwrap();
    let client = MeshClient::builder(nara("target"))
        .registry(client_registry.clone())
        .build();
    let target = Target::start_with(|builder| builder.registry(client_registry).client(client)).await;
    let mut message = nara_proto::world::WorldMessage {
        id: "0123456789".to_owned(),
        originator: "alice".to_owned(),
        ..Default::default()
    };
    message
        .add_hop("alice", NOW.to_seconds(), nara("alice").keypair())
        .unwrap();
    let answer = target.post_json(&nara("alice"), "/world/relay", &message);
    let text = answer.text();
    assert!(text.starts_with("failed to forward to next: "), "{text}");
    for secret in ["127.0.0.1", next.id().as_str(), &next.public_key().to_base64()] {
        assert!(!text.contains(secret), "{text}");
    }
}
