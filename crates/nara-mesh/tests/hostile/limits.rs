//! Excessive requests are refused with a pause; other peers are still served.
//!
//! The limits on headers, bodies, their progress and connections are tested in `connections` and `bodies`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::server::{MeshServer, RateLimit, RunningServer, ServerLimits};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, Transport as _};
use nara_proto::event::{CheckpointPayload, Payload, SyncEvent};
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};
use nara_proto::v1::ResponseAuth;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{NOW, Target, nara, registry, request, signed};

const HOST: [u8; 4] = [100, 64, 0, 1];

/// A server in an in-memory network, where time is paused unless a test waits for it.
struct Calm {
    network: MemoryNetwork,
    server: RunningServer,
    ledger: Arc<MemoryLedger>,
}

impl Calm {
    async fn start(change: impl FnOnce(&mut ServerLimits)) -> Self {
        let mut limits = ServerLimits::default();
        change(&mut limits);
        let network = MemoryNetwork::new();
        let ledger = Arc::new(MemoryLedger::new());
        let server = MeshServer::builder(nara("target"), ledger.clone())
            .registry(registry(&[&nara("alice"), &nara("bob")]))
            .clock(Arc::new(ManualClock::new(NOW.to_nanos())))
            .transport(Arc::new(network.host(HOST.into())))
            .limits(limits)
            .serve(SocketAddr::from((HOST, 9632)))
            .await
            .unwrap();
        Self {
            network,
            server,
            ledger,
        }
    }

    /// Sends a request from a host, without waiting for its answer.
    async fn send(&self, host: u8, bytes: &[u8]) -> BoxMeshStream {
        let caller = self.network.host([100, 64, 0, host].into());
        let mut stream = caller.dial(self.server.local_addr()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    async fn ask(&self, host: u8, bytes: &[u8]) -> Answer {
        Answer::read(&mut self.send(host, bytes).await).await
    }

    async fn ping(&self, host: u8) -> Answer {
        self.ask(host, &request("GET", "/ping", &[], b"")).await
    }
}

/// A small answer, read to the end of its connection.
struct Answer(String);

impl Answer {
    async fn read(stream: &mut BoxMeshStream) -> Self {
        let mut bytes = Vec::new();
        // A closed connection is a valid result, too.
        let _ = stream.read_to_end(&mut bytes).await;
        Self(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn status(&self) -> u16 {
        self.0.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let (head, _) = self.0.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        self.0.split_once("\r\n\r\n").unwrap().1
    }

    fn retry_after(&self) -> Option<&str> {
        self.header(RETRY_AFTER.as_str())
    }

    fn is_signed(&self) -> bool {
        let headers = ["x-nara-name", "x-nara-timestamp", "x-nara-signature"];
        let headers = headers
            .into_iter()
            .filter_map(|name| Some((name.parse().unwrap(), self.header(name)?.parse().unwrap())))
            .collect();
        ResponseAuth::from_headers(&headers).is_ok_and(|auth| {
            auth.verify(&nara("target").public_key(), self.text().as_bytes(), NOW)
                .is_ok()
        })
    }
}

/// Returns a signed request; each needs a distinct time, or it is a replay.
fn sync(sender: &LocalNara, ms: i64) -> Vec<u8> {
    let headers = signed(sender, UnixMillis::new(NOW.get() + ms), "POST", "/events/sync");
    request("POST", "/events/sync", &headers, &body(sender))
}

fn body(sender: &LocalNara) -> Vec<u8> {
    format!(r#"{{"from":"{}"}}"#, sender.name()).into_bytes()
}

/// Returns the same request without its body.
fn unfinished(sender: &LocalNara, ms: i64) -> Vec<u8> {
    let mut bytes = sync(sender, ms);
    bytes.truncate(bytes.len() - body(sender).len());
    bytes
}

#[tokio::test(start_paused = true)]
async fn an_address_that_floods_is_told_to_wait_and_others_are_served() {
    let calm = Calm::start(|limits| limits.requests_per_address = Some(RateLimit::new(1, 3))).await;
    for _ in 0..3 {
        assert_eq!(calm.ping(2).await.status(), 200);
    }
    let refused = calm.ping(2).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.retry_after(), Some("1"));
    assert_eq!(
        refused.text(),
        "Too many requests from your address: at most 1 a second, 3 at once; try again in 1 s\n"
    );
    assert_eq!(
        calm.ask(2, &sync(&nara("alice"), 0)).await.status(),
        429,
        "signed ones too"
    );
    assert_eq!(
        calm.ask(2, &request("GET", "/no/such", &[], b"")).await.status(),
        429
    );
    assert_eq!(calm.ping(3).await.status(), 200);
    assert_eq!(calm.ask(3, &sync(&nara("alice"), 1)).await.status(), 200);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(calm.ping(2).await.status(), 200, "who waits is served again");
}

#[tokio::test(start_paused = true)]
async fn a_request_refused_for_its_address_takes_no_place_in_the_replay_cache() {
    let calm = Calm::start(|limits| {
        limits.requests_per_address = Some(RateLimit::new(1, 1));
        limits.replay_capacity = 2;
    })
    .await;
    assert_eq!(calm.ask(2, &sync(&nara("alice"), 0)).await.status(), 200);
    for ms in 1..10 {
        assert_eq!(calm.ask(2, &sync(&nara("alice"), ms)).await.status(), 429);
    }
    assert_eq!(calm.ask(3, &sync(&nara("alice"), 10)).await.status(), 200);
    let full = calm.ask(4, &sync(&nara("alice"), 11)).await;
    assert_eq!((full.status(), full.retry_after()), (503, Some("1")));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_floods_is_told_to_wait_wherever_it_calls_from_and_others_are_served() {
    let calm = Calm::start(|limits| limits.requests_per_peer = Some(RateLimit::new(2, 2))).await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    for host in 2..4 {
        assert_eq!(calm.ask(host, &sync(&alice, host.into())).await.status(), 200);
    }
    let refused = calm.ask(4, &sync(&alice, 10)).await;
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.retry_after(), Some("1"));
    assert_eq!(
        refused.text(),
        "Too many requests from you: at most 2 a second, 2 at once; try again in 1 s\n"
    );
    assert!(refused.is_signed(), "its sender is known, so it is told by whom");
    assert_eq!(calm.ask(4, &sync(&bob, 11)).await.status(), 200);
    assert_eq!(calm.ping(4).await.status(), 200, "open endpoints know no peer");
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(calm.ask(4, &sync(&alice, 12)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn forged_requests_do_not_use_up_the_rate_of_a_peer() {
    let calm = Calm::start(|limits| limits.requests_per_peer = Some(RateLimit::new(1, 1))).await;
    for ms in 0..5 {
        let mut headers = signed(
            &nara("bob"),
            UnixMillis::new(NOW.get() + ms),
            "POST",
            "/events/sync",
        );
        headers[0].1 = b"alice".to_vec();
        let answer = calm
            .ask(2, &request("POST", "/events/sync", &headers, b"{}"))
            .await;
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(calm.ask(3, &sync(&nara("alice"), 10)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_peer_has_so_many_requests_in_flight_and_others_are_served() {
    let calm = Calm::start(|limits| limits.requests_in_flight_per_peer = 2).await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let mut first = calm.send(2, &unfinished(&alice, 0)).await;
    let _second = calm.send(2, &unfinished(&alice, 1)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ask(2, &sync(&alice, 2)).await;
    assert_eq!((refused.status(), refused.retry_after()), (429, Some("1")));
    assert_eq!(
        refused.text(),
        "You have 2 requests in flight, which is the limit: wait for their answers\n"
    );
    assert!(refused.is_signed());
    assert_eq!(calm.ask(2, &sync(&bob, 3)).await.status(), 200);
    first.write_all(&body(&nara("alice"))).await.unwrap();
    assert_eq!(Answer::read(&mut first).await.status(), 200);
    assert_eq!(calm.ask(2, &sync(&alice, 4)).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn all_together_have_so_many_requests_in_flight() {
    let calm = Calm::start(|limits| limits.requests_in_flight = 2).await;
    let mut first = calm.send(2, &unfinished(&nara("alice"), 0)).await;
    let _second = calm.send(3, &unfinished(&nara("bob"), 1)).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ping(4).await;
    assert_eq!((refused.status(), refused.retry_after()), (503, Some("1")));
    assert_eq!(
        refused.text(),
        "Too many requests at once, try again in a second\n"
    );
    first.write_all(&body(&nara("alice"))).await.unwrap();
    assert_eq!(Answer::read(&mut first).await.status(), 200);
    assert_eq!(calm.ping(4).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn peers_and_addresses_that_take_all_requests_they_can_leave_some_for_others() {
    let calm = Calm::start(|limits| limits.requests_in_flight = 8).await;
    let alice = nara("alice");
    let import = request("POST", "/api/events/import", &[], b"no json");
    let mut held = Vec::new();
    for ms in 0..8 {
        held.push(calm.send(2, &unfinished(&alice, ms)).await);
        held.push(calm.send(3, &import[..import.len() - 1]).await);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ask(2, &sync(&alice, 9)).await;
    assert_eq!((refused.status(), refused.retry_after()), (503, Some("1")));
    assert_eq!(calm.ping(4).await.status(), 200);
    assert_eq!(calm.ask(5, &sync(&nara("bob"), 10)).await.status(), 200);
}

/// Returns a signed request with a body of this size, and one that lacks its last byte.
fn large(sender: &LocalNara, ms: i64, size: usize) -> (Vec<u8>, Vec<u8>) {
    let headers = signed(sender, UnixMillis::new(NOW.get() + ms), "POST", "/events/sync");
    let mut padded = vec![b' '; size - body(sender).len()];
    padded.extend(body(sender));
    let whole = request("POST", "/events/sync", &headers, &padded);
    let begun = whole[..whole.len() - 1].to_vec();
    (whole, begun)
}

#[tokio::test(start_paused = true)]
async fn the_bodies_of_a_peer_have_so_many_bytes_at_once_and_others_are_served() {
    let calm = Calm::start(|limits| limits.body_bytes_in_flight_per_peer = 1_000).await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let mut first = calm.send(2, &large(&alice, 0, 601).1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ask(3, &large(&alice, 1, 401).0).await;
    assert_eq!((refused.status(), refused.retry_after()), (429, Some("1")));
    assert_eq!(
        refused.text(),
        "You have 1000 bytes of request bodies in flight, which is the limit: wait for their answers\n"
    );
    assert!(refused.is_signed());
    assert_eq!(calm.ask(2, &large(&alice, 2, 400).0).await.status(), 200);
    assert_eq!(calm.ask(2, &large(&bob, 3, 1_000).0).await.status(), 200);
    first.write_all(b"}").await.unwrap();
    assert_eq!(Answer::read(&mut first).await.status(), 200);
    assert_eq!(calm.ask(2, &large(&alice, 4, 1_000).0).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_bodies_of_all_have_so_many_bytes_at_once_imports_among_them() {
    let calm = Calm::start(|limits| limits.body_bytes_in_flight = 1_000).await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let import = request("POST", "/api/events/import", &[], &[b' '; 601]);
    let slow = calm.send(2, &import[..import.len() - 1]).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ask(3, &large(&alice, 0, 401).0).await;
    assert_eq!((refused.status(), refused.retry_after()), (503, Some("1")));
    assert_eq!(
        refused.text(),
        "Too many bytes of request bodies at once, try again in a second\n"
    );
    assert_eq!(calm.ask(3, &large(&bob, 1, 150).0).await.status(), 200);
    // A closed connection holds nothing any more.
    drop(slow);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(calm.ask(3, &large(&alice, 2, 401).0).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn imports_that_do_not_come_keep_out_nobody() {
    let calm = Calm::start(|limits| limits.imports = 1).await;
    let import = request("POST", "/api/events/import", &[], b"no json");
    let begun = &import[..import.len() - 1];
    let mut slow = Vec::new();
    for host in 2..9 {
        slow.push(calm.send(host, begun).await);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    for host in [2, 20] {
        assert_eq!(calm.ask(host, &import).await.status(), 400);
    }
}

fn checkpoint(emitter: &LocalNara, ts: i64) -> SyncEvent {
    let payload = CheckpointPayload {
        version: 1,
        subject: emitter.name().to_string(),
        subject_id: "x".repeat(200),
        as_of_time: UnixSeconds::new(1),
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
async fn answers_have_so_many_bytes_at_once_and_the_slowest_reader_makes_room() {
    let calm = Calm::start(|limits| {
        limits.answer_bytes_in_flight = 4 << 20;
        limits.checkpoint_answers_per_address = 2;
    })
    .await;
    let alice = nara("alice");
    let checkpoints = (1..=2_000).map(|ts| checkpoint(&alice, ts)).collect();
    calm.ledger.insert_verified(checkpoints).await.unwrap();
    let all = request("GET", "/api/checkpoints/all?limit=2000", &[], b"");
    let length = calm.ask(9, &all).await.text().len();
    assert!((700 << 10..1 << 20).contains(&length), "{length}");

    let mut unread = vec![calm.send(2, &all).await, calm.send(2, &all).await];
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = calm.ask(2, &all).await;
    assert_eq!((refused.status(), refused.retry_after()), (503, Some("1")));
    for host in 3..8 {
        unread.push(calm.send(host, &all).await);
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(calm.ask(9, &all).await.status(), 503, "all have just begun");
    assert_eq!(calm.ping(2).await.status(), 200);

    tokio::time::sleep(Duration::from_secs(2)).await;
    let read = calm.ask(9, &all).await;
    assert_eq!(
        (read.status(), read.text().len()),
        (200, length),
        "one of the others was cut off"
    );
    let mut whole = 0;
    for mut unread in unread {
        let read = Answer::read(&mut unread).await;
        whole += usize::from(read.status() == 200 && read.text().len() == length);
    }
    assert!(whole >= 2, "the rest was left alone: {whole}");
    assert_eq!(calm.ask(3, &all).await.status(), 200, "and gave its room back");
}

#[tokio::test(start_paused = true)]
async fn an_address_asks_for_checkpoints_so_often() {
    let calm = Calm::start(|_| {}).await;
    let all = request("GET", "/api/checkpoints/all", &[], b"");
    for _ in 0..30 {
        assert_eq!(calm.ask(2, &all).await.status(), 200);
    }
    let refused = calm.ask(2, &all).await;
    assert_eq!((refused.status(), refused.retry_after()), (429, Some("1")));
    assert_eq!(
        refused.text(),
        "Too many requests for checkpoints from your address: at most 1 a second, 30 at once; try again in 1 s\n"
    );
    assert_eq!(calm.ask(3, &all).await.status(), 200);
    assert_eq!(calm.ping(2).await.status(), 200);
}

/// Hundreds of naras on one machine with a few requests each are no flood; one that sends without end is.
#[tokio::test(start_paused = true)]
async fn the_defaults_let_a_mesh_on_one_machine_pass_and_stop_a_flood() {
    let calm = Calm::start(|_| {}).await;
    for _ in 0..400 * 4 {
        assert_eq!(calm.ping(2).await.status(), 200);
    }
    let mut refused = 0;
    for _ in 0..1_000 {
        refused += usize::from(calm.ping(2).await.status() == 429);
    }
    assert_eq!(refused, 600, "2000 at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_rates_refuses_no_request() {
    let target = Target::start_with(|builder| {
        let mut limits = ServerLimits::default();
        limits.requests_per_address = None;
        limits.requests_per_peer = None;
        builder.limits(limits)
    })
    .await;
    for _ in 0..20 {
        assert_eq!(
            target
                .post(&nara("alice"), "/events/sync", br#"{"from":"alice"}"#)
                .status,
            200
        );
    }
}
