//! Messages to an unreachable nara, or whose answers are lost.

mod kinds;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::{CallError, Events, LocalClient, Sent};
use nara_local_api::model::{DirectMessage, Later, OutboxEntry, OutboxState};
use nara_local_api::server::{LocalApi, Outbox};
use nara_local_api::{Problem, ProblemClass};
use nara_mesh::clock::{Clock, ManualClock, SystemClock};
use nara_mesh::registry::PeerChange;
use nara_mesh::server::{MeshHandler, VerifiedSender};
use nara_mesh::{LocalNara, Nara};
use nara_proto::event::SyncEvent;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The messages that bob received.
#[derive(Clone, Debug, Default)]
struct Mailbox {
    received: Arc<Mutex<Vec<String>>>,
    has_news: Arc<AtomicBool>,
}

impl Mailbox {
    fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    fn take(&self, id: &str) {
        let mut received = self.received.lock().unwrap();
        if !received.iter().any(|before| before == id) {
            self.has_news.store(true, Ordering::SeqCst);
        }
        received.push(id.to_owned());
    }
}

impl MeshHandler for Mailbox {
    fn on_direct_message(&self, _: &VerifiedSender, event: &SyncEvent) {
        self.take(&event.id);
    }

    fn on_runtime_message(&self, message: &RuntimeMessage) {
        self.take(&message.id);
    }

    fn on_world_message(&self, message: &WorldMessage, _: bool) {
        self.take(&message.id);
    }
}

/// Alice with a local API; she knows bob, who does not run yet.
struct Scene {
    alice: Arc<Nara>,
    api: LocalApi,
    client: LocalClient,
    own: LocalNara,
    bob: LocalNara,
    /// The address of bob, now or later.
    address: SocketAddr,
    clock: Arc<dyn Clock>,
    folder: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::with(free.local_addr().unwrap(), Arc::new(SystemClock)).await
    }

    async fn with(address: SocketAddr, clock: Arc<dyn Clock>) -> Self {
        let [own, bob] = ["alice", "bob"].map(|name| LocalNara::generate(name).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let (alice, api, client) = start(&own, &bob, address, &clock, folder.path()).await;
        Self {
            alice,
            api,
            client,
            own,
            bob,
            address,
            clock,
            folder,
        }
    }

    /// Stops alice and her API, and starts both again.
    async fn restart(self) -> Self {
        self.api.shutdown().await;
        let alice = Arc::into_inner(self.alice).unwrap();
        alice.shutdown(Duration::ZERO).await;
        let (alice, api, client) = start(
            &self.own,
            &self.bob,
            self.address,
            &self.clock,
            self.folder.path(),
        )
        .await;
        Self {
            alice,
            api,
            client,
            ..self
        }
    }

    /// Starts bob, or a nara that claims to be bob.
    async fn start_bob(&self, bob: &LocalNara, mailbox: &Mailbox) -> Nara {
        serve(bob, &self.alice, self.address, mailbox).await
    }

    async fn send(&self, text: &str) -> Sent {
        self.client
            .dm_later("bob", message(text), Later::default())
            .await
            .unwrap()
    }

    async fn sent_later(&self, text: &str) -> OutboxEntry {
        match self.send(text).await {
            Sent::Waits(entry) => *entry,
            Sent::Delivered(receipt) => panic!("{receipt:?}"),
        }
    }

    async fn changes(&self) -> Events {
        self.client.events(Method::GET, "/v1/outbox/live").await.unwrap()
    }

    async fn end(self) {
        self.api.shutdown().await;
        Arc::into_inner(self.alice).unwrap();
    }
}

async fn start(
    own: &LocalNara,
    bob: &LocalNara,
    address: SocketAddr,
    clock: &Arc<dyn Clock>,
    folder: &Path,
) -> (Arc<Nara>, LocalApi, LocalClient) {
    let alice = Nara::builder(own.clone())
        .listen("127.0.0.1:0".parse().unwrap())
        .know(bob.as_peer(Some(address)))
        .clock(clock.clone())
        .without_gossip();
    let alice = Arc::new(alice.start().await.unwrap());
    let outbox = Outbox::open(folder.join("outbox.db")).await.unwrap();
    let api = LocalApi::builder(alice.clone()).outbox(outbox).start();
    let socket = folder.join("nara.sock");
    api.listen(&socket).unwrap();
    (alice, api, LocalClient::new(socket))
}

async fn serve(bob: &LocalNara, alice: &Nara, address: SocketAddr, mailbox: &Mailbox) -> Nara {
    let bob = Nara::builder(bob.clone())
        .listen(address)
        .know(alice.as_peer())
        .handler(mailbox.clone())
        .without_gossip();
    bob.start().await.unwrap()
}

fn message(text: &str) -> DirectMessage {
    DirectMessage {
        text: Some(text.to_owned()),
        ..DirectMessage::default()
    }
}

/// Returns the next state of a message that is not `waiting`.
async fn finished(changes: &mut Events, id: u64) -> OutboxEntry {
    loop {
        let change = changes.next().await.unwrap().unwrap();
        if change.name != "message" {
            continue;
        }
        let entry: OutboxEntry = change.decode().unwrap();
        if entry.id == id && entry.state != OutboxState::Waiting {
            return entry;
        }
    }
}

fn problem<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> Problem {
    match outcome.unwrap_err() {
        CallError::Problem(problem) => *problem,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_message_to_a_peer_that_is_away_arrives_once_when_it_comes() {
    let scene = Scene::new().await;
    let mut changes = scene.changes().await;
    // Without `later`, the hint recommends it.
    let refused = problem(scene.client.dm("bob", &message("hello")).await);
    assert_eq!(refused.class, ProblemClass::Unreachable);
    assert!(refused.hint.as_ref().unwrap().contains("`later`"), "{refused:?}");
    let first = scene.sent_later("first").await;
    let second = scene.sent_later("second").await;
    assert_eq!(
        (first.state, first.attempts, first.is_durable),
        (OutboxState::Waiting, 0, true)
    );
    assert_eq!(first.problem.as_ref().unwrap().class, ProblemClass::Unreachable);
    assert!(!first.may_have_arrived, "{first:?}");
    let week = i64::from(7 * 86_400) * 1000;
    assert_eq!(first.expires_at_ms - first.queued_at_ms, week);
    let list = scene.client.outbox().await.unwrap();
    assert_eq!((list.messages.len(), list.waiting, list.is_durable), (2, 2, true));

    let mailbox = Mailbox::default();
    let bob = scene.start_bob(&scene.bob, &mailbox).await;
    // Alice learns that he runs.
    let now = bob.client().clock().now_nanos();
    let kind = nara_local_api::model::DmKind::Gossip;
    let event = nara_local_api::compose::social(bob.local(), kind, "alice", "here", now).unwrap();
    bob.peer("alice").send_dm(event).await.unwrap();
    for entry in [&first, &second] {
        let delivered = finished(&mut changes, entry.id).await;
        assert_eq!(
            (delivered.state, delivered.stored),
            (OutboxState::Delivered, Some(true))
        );
        assert!(delivered.problem.is_none() && delivered.finished_at_ms.is_some());
    }
    assert_eq!(mailbox.received(), [first.event_id, second.event_id]);
    // Now it is delivered at once, with the usual answer.
    match scene.send("third").await {
        Sent::Delivered(receipt) => assert!(receipt.stored && receipt.verified, "{receipt:?}"),
        Sent::Waits(entry) => panic!("{entry:?}"),
    }
    assert_eq!(scene.client.outbox().await.unwrap().waiting, 0);
    assert_eq!(mailbox.received().len(), 3);
    scene.end().await;
}

#[tokio::test]
async fn a_message_survives_a_restart_of_its_nara() {
    let scene = Scene::new().await;
    let waits = scene.sent_later("hello").await;
    let scene = scene.restart().await;
    let mut changes = scene.changes().await;
    let kept = scene.client.outbox_message(waits.id).await.unwrap();
    assert_eq!(kept.event.as_json(), waits.event.as_json());
    let mailbox = Mailbox::default();
    let _bob = scene.start_bob(&scene.bob, &mailbox).await;
    let delivered = finished(&mut changes, waits.id).await;
    assert_eq!(delivered.state, OutboxState::Delivered);
    assert_eq!(mailbox.received(), [waits.event_id]);
    let scene = scene.restart().await;
    let listed = scene.client.outbox_message(waits.id).await.unwrap();
    assert_eq!(listed.state, OutboxState::Delivered);
    scene.end().await;
}

#[tokio::test]
async fn a_message_expires_and_is_listed_with_its_reason() {
    let clock = ManualClock::new(SystemClock.now_nanos());
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let scene = Scene::with(nowhere, Arc::new(clock.clone())).await;
    let mut changes = scene.changes().await;
    for seconds in [0, 30 * 86_400 + 1] {
        let expires_s = Some(seconds);
        let sent = scene.client.dm_later("bob", message("x"), Later { expires_s });
        assert_eq!(problem(sent.await).name(), "invalid_request");
    }
    let expires_s = Some(60);
    let sent = scene.client.dm_later("bob", message("x"), Later { expires_s });
    let Sent::Waits(entry) = sent.await.unwrap() else {
        panic!("bob is not there");
    };
    clock.advance(Duration::from_secs(60));
    let expired = finished(&mut changes, entry.id).await;
    assert_eq!(expired.state, OutboxState::Expired);
    assert_eq!(expired.problem.unwrap().class, ProblemClass::Unreachable);
    let list = scene.client.outbox().await.unwrap();
    assert_eq!((list.messages.len(), list.waiting), (1, 0));
    scene.end().await;
}

#[tokio::test]
async fn a_message_is_taken_back() {
    let scene = Scene::new().await;
    let mut changes = scene.changes().await;
    let entry = scene.sent_later("hello").await;
    let taken = scene.client.drop_message(entry.id).await.unwrap();
    assert_eq!(taken.state, OutboxState::Waiting);
    loop {
        let change = changes.next().await.unwrap().unwrap();
        if change.name == "removed" {
            assert_eq!(change.data, format!("{{\"id\":{}}}", entry.id));
            break;
        }
    }
    let scene = scene.restart().await;
    assert!(scene.client.outbox().await.unwrap().messages.is_empty());
    for gone in [
        scene.client.drop_message(entry.id).await,
        scene.client.outbox_message(entry.id).await,
    ] {
        assert_eq!(problem(gone).name(), "unknown_message");
    }
    let nonsense = scene.client.get::<OutboxEntry>("/v1/outbox/x").await;
    assert_eq!(problem(nonsense).name(), "invalid_request");
    scene.end().await;
}

#[tokio::test]
async fn a_full_outbox_refuses_and_a_stranger_has_no_place_in_it() {
    let scene = Scene::new().await;
    for number in 0..128 {
        scene.sent_later(&number.to_string()).await;
    }
    let later = Later::default();
    let full = problem(scene.client.dm_later("bob", message("more"), later).await);
    assert_eq!((full.name(), full.status), ("outbox_full", 507));
    assert!(full.detail.contains("bob") && full.hint.is_some(), "{full:?}");
    for stranger in ["nobody", "127.0.0.1:1"] {
        let refused = problem(scene.client.dm_later(stranger, message("x"), later).await);
        assert_eq!(refused.name(), "unknown_peer");
    }
    assert_eq!(scene.client.outbox().await.unwrap().waiting, 128);
    scene.end().await;
}

#[tokio::test]
async fn a_recipient_that_is_not_called_is_not_tried() {
    let scene = Scene::new().await;
    let carol = LocalNara::generate("carol").unwrap();
    scene.alice.registry().register(carol.as_peer(None)).unwrap();
    let sent = scene.client.dm_later("carol", message("hello"), Later::default());
    let Sent::Waits(entry) = sent.await.unwrap() else {
        panic!("she is nowhere")
    };
    assert_eq!((entry.attempts, entry.last_attempt_at_ms), (0, None));
    assert_eq!(entry.problem.unwrap().name(), "unknown_peer");
    scene.end().await;
}

#[tokio::test]
async fn a_message_that_the_peer_or_the_operator_refuses_is_not_tried_again() {
    let scene = Scene::new().await;
    let mailbox = Mailbox::default();
    let bob = scene.start_bob(&scene.bob, &mailbox).await;
    let alice = scene.own.name().clone();
    let at = bob.client().clock().now_millis();
    let banned = bob.ledger().change_peer(alice, PeerChange::Untrust { at }).await;
    banned.unwrap().unwrap();
    bob.apply_decisions().await.unwrap();
    let later = Later::default();
    let refused = problem(scene.client.dm_later("bob", message("x"), later).await);
    assert_eq!(
        (refused.class, refused.peer_status),
        (ProblemClass::Untrusted, Some(403))
    );
    scene.client.ban("bob").await.unwrap();
    let refused = problem(scene.client.dm_later("bob", message("y"), later).await);
    assert_eq!(refused.name(), "untrusted");
    let list = scene.client.outbox().await.unwrap();
    assert_eq!((list.messages.len(), list.waiting), (2, 0));
    // A banned peer is not called.
    for (entry, attempts) in list.messages.into_iter().zip([1, 0]) {
        assert_eq!((entry.state, entry.attempts), (OutboxState::Refused, attempts));
        assert_eq!(entry.problem.unwrap().class, ProblemClass::Untrusted);
    }
    assert!(mailbox.received().is_empty());
    scene.end().await;
}

#[tokio::test]
async fn a_message_is_delivered_to_no_other_key_than_the_one_it_was_written_for() {
    let scene = Scene::new().await;
    let mut changes = scene.changes().await;
    let entry = scene.sent_later("for bob alone").await;
    let other = LocalNara::generate("bob").unwrap();
    let mailbox = Mailbox::default();
    let _mallory = scene.start_bob(&other, &mailbox).await;
    let asked = loop {
        let change = changes.next().await.unwrap().unwrap();
        let entry: OutboxEntry = change.decode().unwrap();
        let status = entry.problem.as_ref().and_then(|problem| problem.peer_status);
        if status == Some(401) {
            break entry;
        }
    };
    assert_eq!(asked.state, OutboxState::Waiting);
    assert!(!asked.may_have_arrived, "{asked:?}");

    // Nor after the operator trusts the other key.
    let known = scene.alice.registry().by_name("bob").unwrap();
    scene.alice.registry().remove(&known);
    let there = other.as_peer(Some(scene.address));
    scene.alice.registry().register(there).unwrap();
    let refused = finished(&mut changes, entry.id).await;
    assert_eq!(refused.state, OutboxState::Refused);
    assert_eq!(refused.problem.unwrap().name(), "key_replaced");
    assert!(mailbox.received().is_empty());
    scene.end().await;
}

/// Forwards bytes to bob, and breaks the connection when bob has accepted a message and answers.
async fn pass_on(listener: TcpListener, to: SocketAddr, has_news: Arc<AtomicBool>, cuts: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        let bob = TcpStream::connect(to).await.unwrap();
        let (has_news, cuts) = (has_news.clone(), cuts.clone());
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_bob, mut to_bob) = bob.into_split();
            let there = async {
                drop(tokio::io::copy(&mut from_client, &mut to_bob).await);
                std::future::pending::<()>().await;
            };
            let back = async {
                let mut bytes = vec![0; 64 << 10];
                while let Ok(read @ 1..) = from_bob.read(&mut bytes).await {
                    if has_news.swap(false, Ordering::SeqCst) {
                        cuts.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    if to_client.write_all(&bytes[..read]).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = there => {}
                () = back => {}
            }
        });
    }
}

#[tokio::test]
async fn a_message_whose_answer_is_lost_is_sent_again_and_arrives_once() {
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::with(between.local_addr().unwrap(), Arc::new(SystemClock)).await;
    let mailbox = Mailbox::default();
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let bob = serve(&scene.bob, &scene.alice, anywhere, &mailbox).await;
    let cuts = Arc::new(AtomicUsize::new(0));
    let passing = pass_on(
        between,
        bob.address().unwrap(),
        mailbox.has_news.clone(),
        cuts.clone(),
    );
    let passing = tokio::spawn(passing);
    let mut changes = scene.changes().await;
    let entry = scene.sent_later("hello").await;
    assert!(entry.may_have_arrived, "{entry:?}");
    let delivered = finished(&mut changes, entry.id).await;
    // Bob already has it.
    assert_eq!(
        (delivered.state, delivered.stored),
        (OutboxState::Delivered, Some(false))
    );
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    assert_eq!(mailbox.received(), [entry.event_id]);
    passing.abort();
    scene.end().await;
}
