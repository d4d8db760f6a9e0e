//! Runtime messages: replies, and the ownership of stashes.

use std::sync::Arc;

use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::go_json::Timestamp;
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage, StashAck, StashRequest, StashStore};

use crate::support::{NOW, Target, free_port, known, nara};

/// A nara with client and server on the real clock.
struct Node {
    local: LocalNara,
    registry: PeerRegistry,
    client: MeshClient,
    server: RunningServer,
}

impl Node {
    async fn start(name: &str) -> Self {
        let local = nara(name);
        let registry = PeerRegistry::default();
        let client = MeshClient::builder(local.clone())
            .registry(registry.clone())
            .build();
        let server = MeshServer::builder(local.clone(), Arc::new(MemoryLedger::new()))
            .client(client.clone())
            .serve(free_port())
            .await
            .unwrap();
        Self {
            local,
            registry,
            client,
            server,
        }
    }

    fn meet(&self, other: &Self) {
        let address = Some(other.server.local_addr());
        self.registry.register(known(&other.local, address)).unwrap();
    }

    fn message(&self, to: &Self, payload: MessagePayload) -> RuntimeMessage {
        message(&self.local, &to.local, payload)
    }
}

fn message(from: &LocalNara, to: &LocalNara, payload: MessagePayload) -> RuntimeMessage {
    RuntimeMessage::new(
        from.name().as_str(),
        from.id().as_str(),
        Timestamp::utc(NOW.to_nanos()),
        payload,
    )
    .to(to.name().as_str(), to.id().as_str())
    .sign(from.keypair())
}

fn store(owner: &LocalNara) -> MessagePayload {
    MessagePayload::StashStore(StashStore {
        owner_id: owner.id().to_string(),
        nonce: vec![1; 24].into(),
        ciphertext: b"sealed".to_vec().into(),
        ..StashStore::default()
    })
}

fn ask(owner: &LocalNara) -> MessagePayload {
    MessagePayload::StashRequest(StashRequest {
        owner_id: owner.id().to_string(),
        request_id: "r1".to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stash_comes_back_to_its_owner() {
    let (owner, keeper) = (Node::start("owner").await, Node::start("keeper").await);
    owner.meet(&keeper);
    keeper.meet(&owner);
    let id = keeper.local.id();

    let stored = owner.message(&keeper, store(&owner.local));
    let ack = owner.client.peer(id).call_runtime(&stored).await.unwrap();
    assert!(matches!(
        ack.payload,
        MessagePayload::StashAck(StashAck { success: true, .. })
    ));

    let request = owner.message(&keeper, ask(&owner.local));
    let reply = owner.client.peer(id).call_runtime(&request).await.unwrap();
    let MessagePayload::StashResponse(response) = reply.payload else {
        panic!("another payload");
    };
    assert!(response.found);
    assert_eq!(response.request_id, "r1");
    assert_eq!(response.ciphertext.as_slice(), b"sealed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_stores_and_gets_its_stash() {
    let (owner, keeper) = (Node::start("owner").await, Node::start("keeper").await);
    let thief = Node::start("thief").await;
    for node in [&owner, &thief] {
        node.meet(&keeper);
        keeper.meet(node);
    }
    let id = keeper.local.id();
    let stored = owner.message(&keeper, store(&owner.local));
    owner.client.peer(id).call_runtime(&stored).await.unwrap();

    // The answer is always empty, so the keeper's state is checked.
    for payload in [store(&owner.local), ask(&owner.local)] {
        let message = thief.message(&keeper, payload);
        thief
            .client
            .peer(id)
            .send_runtime_message(&message)
            .await
            .unwrap();
    }
    // Signed by the thief in the owner's name.
    let mut forged = thief.message(&keeper, store(&owner.local));
    forged.from_id = owner.local.id().to_string();
    let forged = forged.sign(thief.local.keypair());
    thief.client.peer(id).send_runtime_message(&forged).await.unwrap();
    // The owner's own message, captured and sent again by the thief.
    let mut other = owner.message(&keeper, store(&owner.local));
    if let MessagePayload::StashStore(store) = &mut other.payload {
        store.ciphertext = b"older".to_vec().into();
    }
    let other = other.sign(owner.local.keypair());
    thief.client.peer(id).send_runtime_message(&other).await.unwrap();

    let request = owner.message(&keeper, ask(&owner.local));
    let reply = owner.client.peer(id).call_runtime(&request).await.unwrap();
    let MessagePayload::StashResponse(response) = reply.payload else {
        panic!("another payload");
    };
    assert_eq!(response.ciphertext.as_slice(), b"sealed");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_nara_that_was_asked_can_answer() {
    let (asker, asked) = (Node::start("asker").await, Node::start("asked").await);
    let mallory = Node::start("mallory").await;
    for node in [&asked, &mallory] {
        asker.meet(node);
        node.meet(&asker);
    }
    // This one does not know the asker by id, so that it drops the request.
    let stranger = Node::start("asked2").await;
    asker.meet(&stranger);
    stranger
        .registry
        .register({
            let mut info = known(&asker.local, None);
            info.id = None;
            info.key.as_mut().unwrap().id = None;
            info
        })
        .unwrap();
    let question = asker.message(&stranger, ask(&asker.local));
    let asked = asker.client.peer(stranger.local.id());
    let waiting = asked.call_runtime(&question);
    let lies = async {
        while asker.client.pending_replies().is_empty() {
            tokio::task::yield_now().await;
        }
        let mut lie = mallory.message(&asker, store(&mallory.local));
        lie.in_reply_to.clone_from(&question.id);
        mallory
            .client
            .peer(asker.local.id())
            .send_runtime_message(&lie)
            .await
            .unwrap();
        lie.from_id = stranger.local.id().to_string();
        let lie = lie.sign(mallory.local.keypair());
        mallory
            .client
            .peer(asker.local.id())
            .send_runtime_message(&lie)
            .await
            .unwrap();
        asker.client.pending_replies().len()
    };
    tokio::select! {
        reply = waiting => panic!("{reply:?}"),
        still_waiting = lies => assert_eq!(still_waiting, 1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_gets_the_same_empty_signed_answer() {
    let target = Target::start().await;
    for body in [&b""[..], b"{", b"[]", b"{\"kind\":\"nope\"}", &[0xff; 100]] {
        let answer = target.post(&nara("alice"), "/mesh/message", body);
        assert_eq!((answer.status, answer.body.len()), (200, 0));
        assert!(target.signed_answer(&answer));
    }
}

/// A v1 peer announces its id only in its messages.
#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_a_message_is_bound_to_the_nara_that_signed_it_and_to_no_other() {
    let (owner, keeper, other) = (
        Node::start("owner").await,
        Node::start("keeper").await,
        Node::start("other").await,
    );
    for node in [&owner, &other] {
        node.meet(&keeper);
        let mut known = known(&node.local, Some(node.server.local_addr()));
        known.id = None;
        known.key.as_mut().unwrap().id = None;
        keeper.registry.register(known).unwrap();
    }
    let id = keeper.local.id();

    // Under the id of another nara, which is not known by it yet.
    let mut forged = other.message(&keeper, store(&owner.local));
    forged.from_id = owner.local.id().to_string();
    let forged = forged.sign(owner.local.keypair());
    other.client.peer(id).send_runtime_message(&forged).await.unwrap();
    assert!(keeper.registry.by_id(owner.local.id()).is_none());

    let stored = owner.message(&keeper, store(&owner.local));
    let ack = owner.client.peer(id).call_runtime(&stored).await.unwrap();
    assert!(matches!(
        ack.payload,
        MessagePayload::StashAck(StashAck { success: true, .. })
    ));
    let bound = keeper.registry.by_id(owner.local.id()).unwrap();
    assert_eq!(bound.info().name.as_ref(), Some(owner.local.name()));

    // Now the id belongs to the owner, and only to it.
    let mut taken = other.message(&keeper, store(&owner.local));
    taken.from_id = owner.local.id().to_string();
    let taken = taken.sign(other.local.keypair());
    other.client.peer(id).send_runtime_message(&taken).await.unwrap();
    let bound = keeper.registry.by_id(owner.local.id()).unwrap();
    assert_eq!(bound.info().name.as_ref(), Some(owner.local.name()));
    assert!(keeper.registry.by_name("other").unwrap().info().id.is_none());
}

/// Records the stashes that arrive without a request.
#[derive(Clone, Debug)]
struct Recovered(tokio::sync::mpsc::UnboundedSender<RuntimeMessage>);

impl nara_mesh::server::MeshHandler for Recovered {
    fn on_runtime_message(&self, message: &RuntimeMessage) {
        let _ = self.0.send(message.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_introduces_itself_gets_its_stash_back_also_after_a_restart_of_its_confidant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stash.db");
    let owner = Node::start("owner").await;
    let (sender, mut recovered) = tokio::sync::mpsc::unbounded_channel();
    // The same nara after it lost its data.
    let reborn = MeshServer::builder(owner.local.clone(), Arc::new(MemoryLedger::new()))
        .client(owner.client.clone())
        .handler(Recovered(sender))
        .serve(free_port())
        .await
        .unwrap();
    let keeper = nara("keeper");
    for round in 0..2 {
        let registry = PeerRegistry::default();
        registry
            .register(known(&owner.local, Some(reborn.local_addr())))
            .unwrap();
        let client = MeshClient::builder(keeper.clone()).registry(registry).build();
        let store_of_keeper = nara_mesh::server::SqliteStash::open(&path).unwrap();
        let running = MeshServer::builder(keeper.clone(), Arc::new(MemoryLedger::new()))
            .client(client)
            .refuse_before_start(false)
            .stash_store(Arc::new(store_of_keeper))
            .serve(free_port())
            .await
            .unwrap();
        let peer = nara_mesh::registry::PeerInfo {
            address: Some(running.local_addr()),
            ..known(&keeper, None)
        };
        owner.registry.register(peer).unwrap();
        if round == 0 {
            let stored = message(&owner.local, &keeper, store(&owner.local));
            owner
                .client
                .peer(keeper.id())
                .send_runtime_message(&stored)
                .await
                .unwrap();
            let ack = recovered.recv().await.unwrap();
            assert!(matches!(
                ack.payload,
                MessagePayload::StashAck(StashAck { success: true, .. })
            ));
        }
        let now = nara_proto::time::UnixNanos::new(
            i64::try_from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap(),
        );
        let payload = nara_proto::event::HeyTherePayload {
            from: "owner".to_owned(),
            public_key: owner.local.public_key().to_base64(),
            ..Default::default()
        };
        let hey_there = nara_proto::event::SyncEvent::signed(
            now,
            nara_proto::event::Payload::HeyThere(payload),
            "owner",
            owner.local.keypair(),
        );
        owner
            .client
            .peer(keeper.id())
            .exchange_zine(vec![hey_there])
            .await
            .unwrap();
        let pushed = recovered.recv().await.unwrap();
        let MessagePayload::StashResponse(response) = pushed.payload else {
            panic!("another payload");
        };
        assert_eq!(response.ciphertext.as_slice(), b"sealed");
        assert_eq!(pushed.in_reply_to, "");
        running.shutdown(std::time::Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_told_who_signed_a_runtime_message() {
    let owner = Node::start("owner").await;
    let keeper = nara("keeper");
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let registry = PeerRegistry::default();
    registry.register(known(&owner.local, None)).unwrap();
    let client = MeshClient::builder(keeper.clone()).registry(registry).build();
    let running = MeshServer::builder(keeper.clone(), Arc::new(MemoryLedger::new()))
        .client(client)
        .refuse_before_start(false)
        .handler(Recovered(sender))
        .serve(free_port())
        .await
        .unwrap();
    owner
        .registry
        .register(known(&keeper, Some(running.local_addr())))
        .unwrap();
    let mut claimed = message(&owner.local, &keeper, store(&owner.local));
    // The signature does not cover this text.
    claimed.from = "mallory".to_owned();
    let to_keeper = owner.client.peer(keeper.id());
    to_keeper.send_runtime_message(&claimed).await.unwrap();
    let told = heard.recv().await.unwrap();
    assert_eq!(
        (told.from.as_str(), &*told.from_id),
        ("owner", owner.local.id().as_str())
    );
}
