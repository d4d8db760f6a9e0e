//! World messages: forwarded, stuck, and complete.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger, ReadLimit};
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshHandler, MeshServer, RunningServer};
use nara_mesh::transport::MemoryNetwork;
use nara_proto::event::SyncEvent;
use nara_proto::time::UnixNanos;
use nara_proto::world::WorldMessage;
use tokio::time::Instant;

use crate::support::{LOOPBACK, NOW, Target, free_port, known, nara};

struct Node {
    local: LocalNara,
    registry: PeerRegistry,
    client: MeshClient,
    ledger: Arc<MemoryLedger>,
    server: RunningServer,
}

async fn mesh(names: &[&str]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in names {
        let local = nara(name);
        let registry = PeerRegistry::default();
        let client = MeshClient::builder(local.clone())
            .registry(registry.clone())
            .build();
        let ledger = Arc::new(MemoryLedger::new());
        let server = MeshServer::builder(local.clone(), ledger.clone())
            .client(client.clone())
            .serve(free_port())
            .await
            .unwrap();
        nodes.push(Node {
            local,
            registry,
            client,
            ledger,
            server,
        });
    }
    for node in &nodes {
        for other in nodes
            .iter()
            .filter(|other| other.local.name() != node.local.name())
        {
            let address = Some(other.server.local_addr());
            node.registry.register(known(&other.local, address)).unwrap();
        }
    }
    nodes
}

async fn events(node: &Node) -> Vec<SyncEvent> {
    node.ledger
        .since(UnixNanos::new(0), ReadLimit::events(100))
        .await
        .unwrap()
}

fn reason(event: &SyncEvent) -> &str {
    &event.social.as_deref().unwrap().reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_travels_through_all_and_comes_home() {
    let nodes = mesh(&["a", "b", "c", "d"]).await;
    let card = WorldMessage::new("a", "hello <world>", NOW.to_nanos());
    let receipt = nodes[0]
        .client
        .relay_world_message(nodes[1].local.id(), &card)
        .await
        .unwrap();
    assert!(receipt.success);
    let home = events(&nodes[0]).await;
    assert_eq!(home.iter().map(reason).collect::<Vec<_>>(), ["journey-complete"]);
    for node in &nodes[1..] {
        let passed = events(node).await;
        assert_eq!(passed.iter().map(reason).collect::<Vec<_>>(), ["journey-pass"]);
        assert!(
            passed[0].verify(&node.local.public_key()).is_ok(),
            "ours are signed"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_goes_around_a_nara_that_is_down() {
    let nodes = mesh(&["a", "b", "c"]).await;
    // `aa` is chosen first, and does not listen.
    let nobody = SocketAddr::new(LOOPBACK, 1);
    nodes[1]
        .registry
        .register(known(&nara("aa"), Some(nobody)))
        .unwrap();
    let card = WorldMessage::new("a", "hello", NOW.to_nanos());
    nodes[0]
        .client
        .relay_world_message(nodes[1].local.id(), &card)
        .await
        .unwrap();
    assert_eq!(events(&nodes[2]).await.len(), 1);
    assert_eq!(events(&nodes[0]).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_that_cannot_go_on_is_kept_and_says_so() {
    let target = Target::start().await;
    let card = WorldMessage::new("alice", "hello", NOW.to_nanos());
    let answer = target.post_json(&nara("alice"), "/world/relay", &card);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (400, "journey stuck - no next nara available\n")
    );
    assert_eq!(target.count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_with_a_forged_hop_is_refused() {
    let target = Target::start().await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    let mut card = WorldMessage::new("target", "hello", NOW.to_nanos());
    card.add_hop("bob", NOW.to_seconds(), alice.keypair()).unwrap();
    let answer = target.post_json(&alice, "/world/relay", &card);
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (
            400,
            "chain verification failed: invalid signature from bob at hop 0\n"
        )
    );

    let mut short = WorldMessage::new("alice", "hello", NOW.to_nanos());
    short.id = "short".to_owned();
    short.add_hop("bob", NOW.to_seconds(), bob.keypair()).unwrap();
    assert_eq!(target.post_json(&bob, "/world/relay", &short).status, 400);
    assert_eq!(target.count().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_postcard_that_gets_no_answer_is_given_up_before_its_sender_gives_up() {
    let network = MemoryNetwork::new();
    let host = |last| IpAddr::from([100, 64, 0, last]);
    let (sender, relay, silent) = (nara("a"), nara("b"), nara("c"));
    let registry = PeerRegistry::default();
    for (local, last) in [(&sender, 1), (&silent, 3)] {
        let address = SocketAddr::new(host(last), 9632);
        registry.register(known(local, Some(address))).unwrap();
    }
    network.silence(host(3));
    let client = |local: &LocalNara, last| {
        MeshClient::builder(local.clone()).transport(Arc::new(network.host(host(last))))
    };
    let server = MeshServer::builder(relay.clone(), Arc::new(MemoryLedger::new()))
        .client(client(&relay, 2).registry(registry).build())
        .transport(Arc::new(network.host(host(2))))
        .serve(SocketAddr::new(host(2), 9632))
        .await
        .unwrap();

    let client = client(&sender, 1).build();
    client
        .registry()
        .register(known(&relay, Some(server.local_addr())))
        .unwrap();
    let card = WorldMessage::new("a", "hello", NOW.to_nanos());
    let began = Instant::now();
    let error = client.relay_world_message(relay.id(), &card).await.unwrap_err();
    assert!(error.is_stuck_journey(), "{error}");
    assert!(
        error.text().unwrap().starts_with("failed to forward to c: "),
        "{error}"
    );
    assert_eq!(began.elapsed(), Duration::from_millis(4_750));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_chain_is_verified_like_a_short_one() {
    let target = Target::start().await;
    let alice = nara("alice");
    let mut card = WorldMessage::new("bob", "round and round", NOW.to_nanos());
    for _ in 0..40 {
        card.add_hop("alice", NOW.to_seconds(), alice.keypair()).unwrap();
    }
    let answer = target.post_json(&alice, "/world/relay", &card);
    assert_eq!(answer.text(), "journey stuck - no next nara available\n");

    card.hops.as_mut().unwrap()[30].stamp = "x".to_owned();
    let answer = target.post_json(&alice, "/world/relay", &card);
    assert_eq!(answer.status, 400);
    assert_eq!(
        answer.text(),
        "chain verification failed: invalid signature from alice at hop 31\n"
    );
}

#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<(String, bool)>>>);

impl MeshHandler for Seen {
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        self.0.lock().unwrap().push((message.message.clone(), complete));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postcard_that_a_nara_did_not_send_does_not_come_home_to_it() {
    let seen = Seen::default();
    let handler = seen.clone();
    let target = Target::start_with(move |builder| builder.handler(handler)).await;
    let alice = nara("alice");
    let mut card = WorldMessage::new("target", "I resign", NOW.to_nanos());
    card.add_hop("alice", NOW.to_seconds(), alice.keypair()).unwrap();
    let answer = target.post_json(&alice, "/world/relay", &card);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(target.count().await, 0, "it signs nothing about it");
    assert_eq!(*seen.0.lock().unwrap(), [("I resign".to_owned(), false)]);
}
