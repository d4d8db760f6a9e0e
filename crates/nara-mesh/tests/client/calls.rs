//! Retries, and the calls that carry one message.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use http::HeaderValue;
use nara_mesh::client::MeshClient;
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::go_json::{self, Timestamp};
use nara_mesh::proto::runtime_message::{
    MessagePayload, REPLY_TIMEOUT, RuntimeMessage, StashAck, StashRequest,
};
use nara_mesh::proto::sync::{SyncRequest, SyncResponse};
use nara_mesh::proto::time::{UnixNanos, UnixSeconds};
use nara_mesh::proto::world::WorldMessage;
use nara_mesh::registry::KeySource;
use nara_mesh::transport::{BoxMeshStream, MemoryTransport, MeshListener, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::support::{
    Answer, FakePeer, Mesh, NOW, address, event, introduce, json, nara, plain, signed, timed,
};

/// The number of idle connections kept per peer, and in total.
const POOL_IDLE_PER_PEER: usize = 20;
const POOL_IDLE_TOTAL: usize = 100;

/// A transport whose streams end on the reading side once `ended` is set, without a wake-up: like those of a peer that
/// closed a moment ago.
#[derive(Debug)]
struct Closing {
    inner: MemoryTransport,
    ended: Arc<AtomicBool>,
}

struct ClosingStream {
    inner: BoxMeshStream,
    ended: Arc<AtomicBool>,
}

impl Transport for Closing {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            // Streams dialled from now on stay open.
            let ended = if self.ended.load(Ordering::SeqCst) {
                Arc::default()
            } else {
                self.ended.clone()
            };
            let inner = self.inner.dial(peer).await?;
            Ok(Box::new(ClosingStream { inner, ended }) as BoxMeshStream)
        })
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        self.inner.listen(local)
    }
}

impl AsyncRead for ClosingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClosingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Returns a client whose connections end once the switch is on; later ones stay open.
fn client_of_closing_peers(mesh: &Mesh) -> (MeshClient, Arc<AtomicBool>) {
    let ended = Arc::new(AtomicBool::new(false));
    let transport = Closing {
        inner: mesh.network.host(address(1).ip()),
        ended: ended.clone(),
    };
    let client = mesh.builder().transport(Arc::new(transport)).build();
    (client, ended)
}

fn bobs_sync() -> Bytes {
    let bob = nara("bob");
    json(&SyncResponse::signed(
        "bob",
        vec![],
        UnixSeconds::new(1),
        bob.keypair(),
    ))
}

#[tokio::test(start_paused = true)]
async fn sequential_calls_share_one_connection() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, bobs_sync()).await;
    let id = introduce(&client, &bob, address(2));
    for _ in 0..20 {
        client
            .fetch_sync_events(&id, SyncRequest::recent(1))
            .await
            .unwrap();
    }
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_bounded_for_one_peer_and_for_all() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let mut peers = Vec::new();
    for last in 2..9 {
        peers.push(mesh.honest(last, &nara("bob"), Bytes::new()).await);
    }
    let ping_25_times = async |peer: &FakePeer| {
        let before = peer.connections();
        let pings = (0..25).map(|_| client.ping(peer.address));
        for outcome in join_all(pings).await {
            outcome.unwrap();
        }
        peer.connections() - before
    };
    assert_eq!(ping_25_times(&peers[0]).await, 25);
    assert_eq!(ping_25_times(&peers[0]).await, 25 - POOL_IDLE_PER_PEER);
    let others = POOL_IDLE_TOTAL / POOL_IDLE_PER_PEER;
    for peer in &peers[1..=others] {
        assert_eq!(ping_25_times(peer).await, 25);
    }
    assert_eq!(ping_25_times(&peers[others]).await, 25 - POOL_IDLE_PER_PEER);
    assert_eq!(ping_25_times(&peers[0]).await, 25, "the oldest had to go");
}

#[tokio::test(start_paused = true)]
async fn an_unsent_idempotent_request_is_signed_again_and_retried() {
    let mesh = Mesh::new();
    let (client, ended) = client_of_closing_peers(&mesh);
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, bobs_sync()).await;
    let id = introduce(&client, &bob, address(2));
    client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap();
    ended.store(true, Ordering::SeqCst);
    client
        .fetch_sync_events(&id, SyncRequest::recent(1))
        .await
        .unwrap();
    assert_eq!(peer.connections(), 2);
    let times: Vec<_> = peer
        .received()
        .iter()
        .map(|request| request.timestamp() - NOW / 1_000_000)
        .collect();
    assert_eq!(times, [0, 2], "the signature in between was not sent");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_idempotent_is_not_retried() {
    let mesh = Mesh::new();
    let (client, ended) = client_of_closing_peers(&mesh);
    let bob = nara("bob");
    let peer = mesh
        .honest(2, &bob, r#"{"from":"bob","success":true}"#.into())
        .await;
    let id = introduce(&client, &bob, address(2));
    client.send_dm(&id, event(&mesh.alice, 1)).await.unwrap();
    ended.store(true, Ordering::SeqCst);
    let error = client.send_dm(&id, event(&mesh.alice, 2)).await.unwrap_err();
    assert!(error.to_string().contains("connection broke"), "{error}");
    assert_eq!((peer.connections(), peer.received().len()), (1, 1));
    client.send_dm(&id, event(&mesh.alice, 2)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dm_is_the_event_and_its_receipt_has_the_outcome() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh
        .honest(2, &bob, r#"{"from":"bob","success":false}"#.into())
        .await;
    let id = introduce(&client, &bob, address(2));
    let dm = event(&mesh.alice, 5);
    let receipt = client.send_dm(&id, dm.clone()).await.unwrap();
    assert!(receipt.is_verified() && !receipt.success);
    assert_eq!(peer.last().target, "/dm");
    let received: SyncEvent = go_json::from_slice(&peer.last().body).unwrap();
    assert_eq!(received, dm);
}

#[tokio::test(start_paused = true)]
async fn a_world_message_that_is_stuck_further_on_is_told_from_one_that_was_refused() {
    for (text, stuck) in [
        ("journey stuck - no next nara available\n", true),
        ("failed to forward to carol: timeout\n", true),
        ("chain verification failed: unknown public key for carol\n", false),
    ] {
        let mesh = Mesh::new();
        let client = mesh.client();
        let (bob, clock) = (nara("bob"), mesh.clock.clone());
        let id = introduce(&client, &bob, address(2));
        let peer = mesh.peer(2, move |_| signed(&bob, &clock, 400, text)).await;
        let message = WorldMessage::new("alice", "a<b>", UnixNanos::new(1));
        let error = client.relay_world_message(&id, &message).await.unwrap_err();
        assert_eq!(error.is_stuck_journey(), stuck, "{error}");
        assert!(error.is_status_verified());
        let received = peer.last();
        assert_eq!(received.target, "/world/relay");
        assert!(received.body.starts_with(br#"{"id":""#));
        assert!(
            received
                .body
                .ends_with(br#""message":"a\u003cb\u003e","originator":"alice","hops":[]}"#)
        );
    }
}

fn stash_request(mesh: &Mesh, second: i64) -> RuntimeMessage {
    let payload = MessagePayload::StashRequest(StashRequest {
        owner_id: mesh.alice.id().to_string(),
        ..StashRequest::default()
    });
    let at = Timestamp::utc(UnixSeconds::new(second).to_nanos());
    RuntimeMessage::new("alice", mesh.alice.id().as_str(), at, payload).sign(mesh.alice.keypair())
}

fn ack(to: &RuntimeMessage, from: &nara_mesh::identity::LocalNara) -> RuntimeMessage {
    let payload = MessagePayload::StashAck(StashAck::default());
    let now = UnixNanos::new(NOW);
    to.reply(
        from.name().as_str(),
        from.id().as_str(),
        now,
        payload,
        from.keypair(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_comes_before_the_answer_reaches_its_caller() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let (replies, clock) = (client.pending_replies().clone(), mesh.clock.clone());
    let responder = bob.clone();
    mesh.peer(2, move |request| {
        let message = RuntimeMessage::from_json(&request.body).unwrap();
        // Another nara cannot answer for bob, and an unexpected message is returned.
        let of_carol = ack(&message, &nara("carol"));
        assert_eq!(replies.resolve(of_carol.clone()).unwrap_err().as_ref(), &of_carol);
        let mut unsolicited = ack(&message, &responder);
        unsolicited.in_reply_to.clear();
        assert!(replies.resolve(unsolicited).is_err());
        replies.resolve(ack(&message, &responder)).unwrap();
        assert!(
            replies.resolve(ack(&message, &responder)).is_err(),
            "one reply is enough"
        );
        signed(&responder, &clock, 200, "")
    })
    .await;
    let message = stash_request(&mesh, 1);
    let reply = client.peer(&id).call_runtime(&message).await.unwrap();
    assert_eq!(reply.in_reply_to, message.id);
    assert_eq!(reply.from, "bob");
    assert!(client.pending_replies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn replies_to_simultaneous_messages_reach_their_callers_in_any_order() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let (replies, clock) = (client.pending_replies().clone(), mesh.clock.clone());
    let waiting = Arc::new(std::sync::Mutex::new(Vec::new()));
    mesh.peer(2, move |request| {
        let mut waiting = waiting.lock().unwrap();
        waiting.push(RuntimeMessage::from_json(&request.body).unwrap());
        if waiting.len() == 20 {
            for message in waiting.iter().rev() {
                replies.resolve(ack(message, &bob)).unwrap();
            }
        }
        signed(&bob, &clock, 200, "")
    })
    .await;
    let peer = client.peer(&id);
    let messages: Vec<_> = (0..20).map(|second| stash_request(&mesh, second)).collect();
    let calls = messages.iter().map(|message| peer.call_runtime(message));
    for (message, reply) in messages.iter().zip(join_all(calls).await) {
        assert_eq!(reply.unwrap().in_reply_to, message.id);
    }
    assert!(client.pending_replies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_thirty_seconds_for_a_reply_and_then_cleans_up() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, Bytes::new()).await;
    let id = introduce(&client, &bob, address(2));
    let (first, second) = (stash_request(&mesh, 1), stash_request(&mesh, 2));
    let called = client.peer(&id);
    let ((outcome, duplicate), took) =
        timed(async { tokio::join!(called.call_runtime(&first), called.call_runtime(&first)) }).await;
    let error = outcome.unwrap_err();
    assert!(error.is_timeout() && !error.is_unreachable(), "{error}");
    assert!(duplicate.unwrap_err().to_string().contains("same id"));
    assert_eq!(took, REPLY_TIMEOUT);
    assert_eq!(peer.received().len(), 1);

    let dropped = tokio::time::timeout(Duration::from_secs(1), called.call_runtime(&second));
    assert!(dropped.await.is_err());
    assert!(client.pending_replies().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_sent_does_not_wait_for_its_reply() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (outcome, took) = timed(client.peer(address(2)).call_runtime(&stash_request(&mesh, 1))).await;
    assert!(outcome.unwrap_err().is_unreachable());
    assert!(took < Duration::from_millis(1));
    let bob = nara("bob");
    let sent = client
        .peer(bob.id())
        .send_runtime_message(&stash_request(&mesh, 1))
        .await;
    assert!(sent.unwrap_err().is_unknown_peer());
}

/// Starts a peer that answers queries with a redirect to `next`, or with its data about dora.
async fn query_peer(mesh: &Mesh, last: u8, next: Option<&'static str>) -> FakePeer {
    mesh.peer(last, move |_| match next {
        Some(next) => match plain(307, "") {
            Answer::With(mut response) => {
                let headers = response.headers_mut();
                headers.insert("x-nara-redirect-to", HeaderValue::from_static(next));
                headers.insert("location", HeaderValue::from_static("http://100.64.0.9:9632/"));
                Answer::With(response)
            }
            answer => answer,
        },
        None => {
            let key = nara("dora").public_key().to_base64();
            let body = format!(r#"{{"target":"dora","public_key":"{key}","mesh_ip":"100.64.0.4"}}"#);
            plain(200, body)
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn a_query_follows_names_and_not_locations() {
    let mesh = Mesh::new();
    let client = mesh.client();
    for (name, last) in [("bob", 2), ("carol", 3), ("zoe", 5), ("trap", 9)] {
        introduce(&client, &nara(name), address(last));
    }
    let bob = query_peer(&mesh, 2, Some("zoe")).await;
    let carol = query_peer(&mesh, 3, Some("bob")).await;
    let zoe = query_peer(&mesh, 5, None).await;
    let trap = query_peer(&mesh, 9, Some("nobody")).await;
    let dora = nara("dora");
    let found = client.query_peer(dora.name()).await.unwrap();
    let key = found.key.unwrap();
    assert_eq!(key.key, dora.public_key());
    assert_eq!(found.address.map(|address| address.ip()), Some(address(4).ip()));
    assert_eq!(key.source, KeySource::PeerQuery("zoe".parse().unwrap()));
    assert_eq!(bob.last().target, "/peer/query?target=dora&asked=bob");
    assert_eq!(zoe.last().target, "/peer/query?target=dora&asked=bob,zoe");
    assert!(carol.received().is_empty() && trap.received().is_empty());
    assert!(
        client.peer(dora.name()).known().is_none(),
        "hearsay is not pinned"
    );
}

#[tokio::test(start_paused = true)]
async fn a_query_asks_at_most_nine_peers_and_none_twice() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let mut peers = Vec::new();
    for last in 2..20 {
        introduce(&client, &nara(&format!("peer-{last:02}")), address(last));
        // Each suggests a nara that was asked, the target itself, us, or an unknown nara.
        let next = ["peer-02", "dora", "alice", "stranger"][usize::from(last) % 4];
        peers.push(query_peer(&mesh, last, Some(next)).await);
    }
    let error = client.query_peer(nara("dora").name()).await.unwrap_err();
    assert!(error.is_unknown_peer(), "{error}");
    let asked: Vec<_> = peers.iter().map(|peer| peer.received().len()).collect();
    assert_eq!(asked.iter().sum::<usize>(), 9, "{asked:?}");
    assert!(asked.iter().all(|&n| n <= 1), "{asked:?}");
}
