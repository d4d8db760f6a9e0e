//! Every path by which a key arrives passes the trust policy, and distrusted naras stay out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use nara_mesh::Signatures;
use nara_mesh::client::{ClientError, MeshClient, StreamError, SubscribeOptions};
use nara_mesh::discovery::{Discovery, Found};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, MemoryLedger, SqliteLedger};
use nara_mesh::registry::{
    KeySource, OperatorDecision, PeerChange, PeerEvent, PeerInfo, PeerKeeper, PeerRecord, PeerRegistry,
    RegisterError, TrustPolicy, Verdict,
};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::{Candidate, PeerSource};
use nara_proto::event::{HeyTherePayload, Payload, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::sync::SyncRequest;
use nara_proto::time::UnixMillis;
use nara_proto::zine::Zine;
use tokio::sync::broadcast::Receiver;

use crate::naras;
use crate::support::{LOOPBACK, NOW, Target, free_port, known, nara, nara_with_seed};

/// Returns a policy that refuses every key, and counts its calls.
fn refusing(asked: &Arc<AtomicUsize>) -> TrustPolicy {
    let asked = asked.clone();
    TrustPolicy::by(move |offer| {
        assert!(offer.source.to_string().len() > 3 && !offer.stored);
        asked.fetch_add(1, Ordering::SeqCst);
        Err("as the test demands".into())
    })
}

fn guarded(policy: TrustPolicy) -> PeerRegistry {
    let registry = PeerRegistry::default().with_trust(policy);
    for name in ["alice", "bob"] {
        registry.register(known(&nara(name), None)).unwrap();
    }
    registry
}

/// Takes the next refusal of a key.
fn refusal(events: &mut Receiver<PeerEvent>) -> Option<(String, KeySource)> {
    loop {
        match events.try_recv() {
            Ok(PeerEvent::KeyRefused(refused)) => {
                return Some((refused.name.to_string(), refused.offered_by));
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

async fn target(registry: &PeerRegistry, port: u16) -> Target {
    let registry = registry.clone();
    Target::start_with(move |builder| {
        let client = MeshClient::builder(nara("target"))
            .registry(registry.clone())
            .build();
        builder
            .registry(registry)
            .client(client)
            .mesh_port(port)
            .loopback_for_tests()
    })
    .await
}

/// Starts a serving nara that knows alice, and carol's key for `/peer/query`.
async fn online(local: &LocalNara) -> RunningServer {
    let registry = PeerRegistry::default();
    registry.register(known(&nara("alice"), None)).unwrap();
    registry.register(known(&nara("carol"), None)).unwrap();
    MeshServer::builder(local.clone(), Arc::new(MemoryLedger::new()))
        .registry(registry)
        .serve(free_port())
        .await
        .unwrap()
}

fn sync(target: &Target, sender: &LocalNara) -> u16 {
    let body = format!("{{\"from\":\"{}\"}}", sender.name());
    target.post(sender, "/events/sync", body.as_bytes()).status
}

/// Bob forwards carol's introduction.
fn gossip_of_carol(target: &Target) {
    let (bob, carol) = (nara("bob"), nara("carol"));
    let payload = HeyTherePayload {
        from: "carol".to_owned(),
        public_key: carol.public_key().to_base64(),
        mesh_ip: "100.64.0.33".to_owned(),
        ..HeyTherePayload::default()
    };
    let event = SyncEvent::signed(
        NOW.to_nanos(),
        Payload::HeyThere(payload),
        "carol",
        carol.keypair(),
    );
    let zine = Zine::signed("bob", NOW.to_seconds(), vec![event], bob.keypair());
    assert_eq!(target.post_json(&bob, "/gossip/zine", &zine).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hey_there_is_believed_only_if_the_policy_says_so() {
    for policy in [
        TrustPolicy::Pinned,
        TrustPolicy::Closed,
        refusing(&Arc::default()),
    ] {
        let registry = guarded(policy);
        let target = target(&registry, 1).await;
        let mut events = registry.subscribe();
        gossip_of_carol(&target);
        assert!(registry.by_name("carol").is_none());
        let told_by = Some("bob".parse().unwrap());
        let expected = ("carol".to_owned(), KeySource::HeyThere { told_by });
        assert_eq!(refusal(&mut events), Some(expected));
        // The event is stored nevertheless: gossip is forwarded.
        assert_eq!(target.count().await, 1);
    }
    let registry = guarded(TrustPolicy::FirstUse);
    gossip_of_carol(&target(&registry, 1).await);
    assert!(registry.by_name("carol").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_called_back_only_if_its_key_could_be_believed() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let port = server.local_addr().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let registry = guarded(refusing(&asked));
    let mut events = registry.subscribe();
    let target_ = target(&registry, port).await;
    assert_eq!(sync(&target_, &carol), 401);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let told = KeySource::Ping(server.local_addr());
    assert_eq!(refusal(&mut events), Some(("carol".to_owned(), told)));
    assert!(registry.by_name("carol").is_none());

    for policy in [TrustPolicy::Pinned, TrustPolicy::Closed] {
        let listener = std::net::TcpListener::bind(free_port()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let target = target(&guarded(policy), listener.local_addr().unwrap().port()).await;
        assert_eq!(sync(&target, &carol), 401);
        let nobody = listener.accept().unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "nobody called");
    }
}

/// Returns alice with this policy.
fn alice(registry: PeerRegistry) -> MeshClient {
    MeshClient::builder(nara("alice")).registry(registry).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_on_an_answer_of_a_stranger() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let registry = PeerRegistry::default().with_trust(refusing(&Arc::default()));
    let client = alice(registry.clone());
    let sync = client.fetch_sync_events(server.local_addr(), SyncRequest::recent(1));
    let error = sync.await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    assert!(error.to_string().contains("not trusted"), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    let key = nara_proto::identity::KeyId::from(&carol.public_key()).to_string();
    assert!(cause.contains(&key), "{cause}");
    assert!(registry.by_name("carol").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_on_a_stream_of_a_stranger() {
    let server = online(&nara("carol")).await;
    for policy in [TrustPolicy::Pinned, refusing(&Arc::default())] {
        let registry = PeerRegistry::default().with_trust(policy);
        let client = alice(registry.clone());
        let mut events = client
            .peer(server.local_addr())
            .subscribe(SubscribeOptions::default());
        let item = events.next().await.unwrap();
        assert!(matches!(item, Err(StreamError::Unauthenticated(_))), "{item:?}");
        assert!(registry.by_name("carol").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_on_an_introduction_by_a_peer() {
    let server = online(&nara("bob")).await;
    let carol: NaraName = "carol".parse().unwrap();
    for (policy, believed) in [(TrustPolicy::Pinned, false), (TrustPolicy::FirstUse, true)] {
        let registry = PeerRegistry::default().with_trust(policy);
        registry
            .register(known(&nara("bob"), Some(server.local_addr())))
            .unwrap();
        let found = alice(registry.clone()).query_peer(&carol).await.unwrap();
        assert_eq!(found.key.as_ref().unwrap().key, nara("carol").public_key());
        let outcome = registry.register(found);
        assert_eq!(outcome.is_ok(), believed);
        if let Err(error) = outcome {
            assert!(matches!(error, RegisterError::KeyRefused(_)), "{error}");
        }
        let pinned = registry.by_name("carol").and_then(|peer| peer.info().key);
        let source = pinned.map(|key| key.source);
        assert_eq!(
            source,
            believed.then(|| KeySource::PeerQuery("bob".parse().unwrap()))
        );
    }
}

/// One node of a network.
#[derive(Debug)]
struct Node(Candidate);

impl PeerSource for Node {
    fn candidates(&self) -> BoxFuture<'_, std::io::Result<Vec<Candidate>>> {
        Box::pin(async { Ok(vec![self.0.clone()]) })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        stream::empty().boxed()
    }

    fn owner_of(&self, _: std::net::IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(async { None })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_decides_on_a_discovered_key() {
    let server = online(&nara("carol")).await;
    let registry = PeerRegistry::default().with_trust(TrustPolicy::Closed);
    let node = Arc::new(Node(Candidate::new("carol", vec![LOOPBACK])));
    let discovery = Discovery::new(alice(registry.clone()), node.clone()).ports([server.local_addr().port()]);
    let found = discovery.run_once().await.unwrap();
    assert!(
        matches!(found[..], [Found::Skipped(_)]),
        "loopback is not the mesh: {found:?}"
    );
    let found = discovery.loopback_for_tests().run_once().await.unwrap();
    assert!(
        matches!(
            &found[..],
            [Found::Refused {
                error: RegisterError::KeyRefused(_),
                ..
            }]
        ),
        "{found:?}"
    );
    assert!(registry.is_empty());
    // A key from the operator is enough to discover its address.
    registry.register(known(&nara("carol"), None)).unwrap();
    let discovery = Discovery::new(alice(registry.clone()), node)
        .ports([server.local_addr().port()])
        .loopback_for_tests();
    discovery.run_once().await.unwrap();
    let carol = registry.by_name("carol").unwrap().info();
    assert_eq!(carol.address, Some(server.local_addr()));
}

/// Applies a decision of the operator about a nara.
fn decide(registry: &PeerRegistry, name: &str, verdict: Verdict, at: i64) {
    let decision = OperatorDecision {
        verdict,
        at: UnixMillis::new(at),
    };
    let info = registry.by_name(name).map(|peer| peer.info());
    let info = info.unwrap_or_else(|| PeerInfo {
        name: Some(name.parse().unwrap()),
        ..PeerInfo::default()
    });
    let record = PeerRecord {
        decision: Some(decision),
        ..info.into_record().unwrap()
    };
    registry.restore(record).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_nara_is_not_served_until_it_is_trusted_again() {
    let target = Target::start().await;
    assert_eq!(sync(&target, &nara("alice")), 200);
    decide(&target.registry, "alice", Verdict::Untrusted, 1);
    let answer = target.post(&nara("alice"), "/events/sync", br#"{"from":"alice"}"#);
    assert_eq!(answer.status, 403);
    assert_eq!(answer.text(), "The operator of this nara banned you\n");
    assert_eq!(sync(&target, &nara("bob")), 200);
    decide(&target.registry, "alice", Verdict::Trusted, 2);
    assert_eq!(sync(&target, &nara("alice")), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_untrusted_nara_is_not_served_under_another_name() {
    let [evil, alias, newcomer] = ["evil", "alias", "newcomer"].map(|name| nara_with_seed(name, 66));
    assert_eq!(evil.public_key(), newcomer.public_key());
    let registry = guarded(TrustPolicy::FirstUse);
    for met in [&evil, &alias] {
        registry.register(known(met, None)).unwrap();
    }
    let server = online(&newcomer).await;
    let port = server.local_addr().port();
    // Elsewhere it is met on first use.
    let elsewhere = guarded(TrustPolicy::FirstUse);
    sync(&target(&elsewhere, port).await, &newcomer);
    let met = elsewhere.by_name("newcomer").and_then(|peer| peer.key());
    assert_eq!(met, Some(newcomer.public_key()));
    let target = target(&registry, port).await;
    assert_eq!(sync(&target, &alias), 200);
    decide(&registry, "evil", Verdict::Untrusted, 1);
    for name in [&evil, &alias] {
        assert_eq!(sync(&target, name), 403, "{}", name.name());
    }
    assert_ne!(sync(&target, &newcomer), 200);
    let known = registry.by_name("newcomer");
    assert!(known.is_none_or(|peer| peer.key().is_none()));
    // An event that it signs under the other name is refused, too.
    let event = naras::tease(&alias, "bob", NOW.to_nanos().get());
    let bob = nara("bob");
    let zine = Zine::signed("bob", NOW.to_seconds(), vec![event], bob.keypair());
    assert_eq!(target.post_json(&bob, "/gossip/zine", &zine).status, 200);
    assert_eq!(target.count().await, 0);
    decide(&registry, "evil", Verdict::Trusted, 2);
    for name in [&evil, &alias] {
        assert_eq!(sync(&target, name), 200, "{}", name.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_can_be_banned_before_it_is_used() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let registry = guarded(TrustPolicy::FirstUse);
    decide(&registry, "carol", Verdict::Untrusted, 1);
    let target = target(&registry, server.local_addr().port()).await;
    assert_eq!(sync(&target, &carol), 403);
    gossip_of_carol(&target);
    assert_eq!(registry.by_name("carol").unwrap().info().key, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_nara_is_not_called_under_any_of_its_names() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let registry = PeerRegistry::default();
    registry
        .register(known(&carol, Some(server.local_addr())))
        .unwrap();
    let client = alice(registry.clone());
    let recent = || SyncRequest::recent(1);
    client.fetch_sync_events(carol.id(), recent()).await.unwrap();
    let mut stream = client.peer(carol.name()).subscribe(SubscribeOptions::default());
    decide(&registry, "carol", Verdict::Untrusted, 1);
    for error in [
        client.ping(carol.id()).await.unwrap_err(),
        client
            .fetch_sync_events(carol.name(), recent())
            .await
            .unwrap_err(),
        client
            .fetch_sync_events(server.local_addr(), recent())
            .await
            .unwrap_err(),
    ] {
        assert!(error.is_untrusted() && error.is_unauthenticated(), "{error}");
        assert_eq!(error.nara(), Some(carol.name()));
    }
    let item = stream.next().await.unwrap();
    assert!(
        matches!(&item, Err(StreamError::Unauthenticated(error)) if error.is_untrusted()),
        "{item:?}"
    );
    decide(&registry, "carol", Verdict::Trusted, 2);
    client.fetch_sync_events(carol.id(), recent()).await.unwrap();
}

/// Starts carol, who serves alice with these signatures.
async fn carol_with(signatures: Signatures) -> RunningServer {
    let registry = PeerRegistry::default();
    registry.register(known(&nara("alice"), None)).unwrap();
    MeshServer::builder(nara("carol"), Arc::new(MemoryLedger::new()))
        .registry(registry)
        .signatures(signatures)
        .serve(free_port())
        .await
        .unwrap()
}

/// Returns the result of a call of alice, just started with this ledger.
async fn call_after_restart(ledger: &Arc<dyn Ledger>, carol: &RunningServer) -> Result<(), ClientError> {
    let registry = PeerRegistry::default();
    let (keeper, recalled) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
    assert_eq!(recalled.problems, []);
    let client = alice(registry);
    let called = client
        .fetch_sync_events(carol.local_addr(), SyncRequest::recent(1))
        .await;
    keeper.finish().await;
    called.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_noticed_after_a_restart_until_the_operator_resets_the_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger: Arc<dyn Ledger> = Arc::new(SqliteLedger::open(path).unwrap());
    let speaks_v2 = carol_with(Signatures::V2AndV1).await;
    call_after_restart(&ledger, &speaks_v2).await.unwrap();
    let remembered = ledger.peers().await.unwrap();
    assert!(remembered[0].protocol.v2, "{remembered:?}");

    let stripped = carol_with(Signatures::V1Only).await;
    let error = call_after_restart(&ledger, &stripped).await.unwrap_err();
    assert!(error.is_downgrade(), "{error}");
    let trust = PeerChange::Trust {
        key: None,
        replace: true,
        at: UnixMillis::new(1),
    };
    let change = ledger.change_peer("carol".parse().unwrap(), trust);
    change.await.unwrap().unwrap();
    call_after_restart(&ledger, &stripped).await.unwrap();
}
