//! The same attacks against profile v2, without TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::Signatures;
use nara_mesh::client::{ClientError, MeshClient, SyncError};
use nara_mesh::clock::ManualClock;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::{PeerEvent, PeerProtocol};
use nara_mesh::tls::TlsPolicy;
use nara_proto::event::Service;
use nara_proto::reconcile::Scope;
use nara_proto::sync::SyncRequest;
use nara_proto::v1::FRESHNESS_WINDOW;
use nara_proto::v2::ContentDigest;

use crate::message::Message;
use crate::proxy::{self, Fate, Proxy};
use crate::support::{NOW, Target, known, nara, seen};
use crate::swaps::v1_only;

/// Our client alice and our server, which know that both support v2, and the attacker between them.
struct Road {
    alice: MeshClient,
    attacker: Proxy,
    target: Target,
}

fn speaks_v2() -> PeerProtocol {
    let mut protocol = PeerProtocol::default();
    protocol.v2 = true;
    protocol
}

fn client(target: &Target, address: SocketAddr) -> MeshClient {
    let client = MeshClient::builder(nara("alice"))
        .clock(Arc::new(target.clock.clone()))
        .tls(TlsPolicy::Plain)
        .build();
    client
        .registry()
        .register(known(&target.local, Some(address)))
        .unwrap();
    client
}

impl Road {
    /// Starts both without any proven protocol.
    async fn start_as_strangers() -> Self {
        let target = Target::start().await;
        let attacker = Proxy::before(target.address()).await;
        Self {
            alice: client(&target, attacker.address),
            attacker,
            target,
        }
    }

    async fn start() -> Self {
        let road = Self::start_as_strangers().await;
        for (registry, name) in [
            (road.alice.registry(), "target"),
            (&road.target.registry, "alice"),
        ] {
            registry.learn_protocol(&registry.by_name(name).unwrap(), speaks_v2());
        }
        road
    }

    /// Requests events; returns whether the answer was bound to the request.
    async fn sync(&self) -> Result<bool, ClientError> {
        let request = SyncRequest::recent(7);
        let answer = self
            .alice
            .fetch_sync_events(self.target.local.id(), request)
            .await?;
        assert!(answer.is_verified());
        Ok(answer.verification().bound)
    }

    async fn send_dm(&self) -> Result<(), ClientError> {
        let event = seen(&nara("alice"), "bob", "mesh", NOW.to_nanos());
        self.alice.send_dm(self.target.local.id(), event).await.map(drop)
    }

    /// Returns the last request to a signed endpoint.
    fn kept(&self, path: &str) -> Message {
        self.attacker.requests(path).pop().unwrap()
    }

    /// Returns the server's answer to a message.
    async fn deliver(&self, message: &Message) -> (u16, String) {
        let answer = proxy::send(self.target.address(), message).await;
        (
            answer.status(),
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_conversation_passes_a_passive_attacker() {
    let road = Road::start().await;
    assert!(road.sync().await.unwrap());
    road.send_dm().await.unwrap();
    assert_eq!(*road.target.senders.0.lock().unwrap(), ["alice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_body_is_refused_under_v2() {
    let road = Road::start().await;
    road.attacker.on_request(|request| {
        request.replace_in_body("\"limit\":7", "\"limit\":8");
        Fate::Forward
    });
    assert_eq!(road.sync().await.unwrap_err().status().unwrap(), 400);
    // The digest is signed as well, so it cannot be adjusted.
    road.attacker.on_request(|request| {
        request.replace_in_body("\"limit\":7", "\"limit\":8");
        let fitting = ContentDigest::of(&request.body).to_field();
        request.set_header("content-digest", &fitting);
        Fate::Forward
    });
    assert_eq!(road.sync().await.unwrap_err().status().unwrap(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_query_is_refused_under_v2() {
    let road = Road::start().await;
    road.attacker.on_request(|request| {
        request.replace_in_start("services=social", "services=ping");
        Fate::Forward
    });
    let scope = Scope::all().services([Service::Social]);
    let outcome = road
        .alice
        .peer(road.target.local.id())
        .check_in_sync(&MemoryLedger::new(), scope)
        .await;
    let Err(SyncError::Peer(error)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.status().unwrap(), 401, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_signed_header_that_is_changed_is_refused_under_v2() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    let kept = road.kept("/events/sync");
    for (name, forged) in [
        ("x-nara-name", "bob"),
        ("x-nara-to", "target"),
        (
            "content-digest",
            "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        ),
    ] {
        let mut changed = kept.clone();
        changed.set_header(name, forged);
        assert_eq!(road.deliver(&changed).await.0, 401, "{name}");
    }
    for (from, to) in [
        ("POST ", "PUT "),
        ("/events/sync", "/dm"),
        ("/events/sync", "/events/sync?a=b"),
    ] {
        let mut changed = kept.clone();
        changed.replace_in_start(from, to);
        assert_eq!(road.deliver(&changed).await.0, 401, "{to}");
    }
    let input = kept.header("signature-input").unwrap().to_owned();
    for (from, to) in [
        ("created=1769100000", "created=1769100001"),
        ("expires=1769100030", "expires=1769100029"),
        ("\"content-digest\" ", ""),
        ("nonce=\"A", "nonce=\"B"),
        ("alg=\"ed25519\";", ""),
        ("nara-mesh", "other"),
    ] {
        assert!(input.contains(from), "{from} is not in {input}");
        let mut changed = kept.clone();
        changed.set_header("signature-input", &input.replace(from, to));
        assert_eq!(road.deliver(&changed).await.0, 401, "{to}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signature_or_a_repeated_header_is_refused_under_v2() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    let kept = road.kept("/events/sync");
    for name in [
        "signature",
        "signature-input",
        "content-digest",
        "x-nara-to",
        "x-nara-name",
    ] {
        let mut twice = kept.clone();
        twice
            .headers
            .push((name.to_owned(), kept.header(name).unwrap().to_owned()));
        assert_eq!(road.deliver(&twice).await.0, 401, "{name}");
    }
    for name in ["signature", "signature-input"] {
        let mut second = kept.clone();
        let value = kept.header(name).unwrap();
        second.set_header(name, &format!("{value}, other{}", &value["nara".len()..]));
        assert_eq!(road.deliver(&second).await.0, 401, "{name}");
    }
}

/// Adds what a gateway adds: its own signature, and the digest of another algorithm.
fn gateway(message: &mut Message) {
    for (name, added) in [
        (
            "signature-input",
            r#"gw=("@authority");created=1769100000;keyid="gw";tag="gateway""#,
        ),
        ("signature", "gw=:AAECAw==:"),
        ("content-digest", "sha-512=:AAAA:"),
    ] {
        let value = message.header(name).unwrap().to_owned();
        message.set_header(name, &format!("{added}, {value}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_adds_gives_an_attacker_nothing() {
    type Change<'a> = &'a dyn Fn(&mut Message);
    // Both directions pass a gateway that signs.
    let road = Road::start().await;
    road.attacker.on_request(move |message| {
        gateway(message);
        Fate::Forward
    });
    road.attacker.on_answer(gateway);
    assert!(road.sync().await.unwrap());
    // Two requests that have not arrived.
    road.attacker.on_request(|_| Fate::Drop);
    let mut kept = Vec::new();
    for _ in 0..2 {
        assert!(road.sync().await.is_err());
        kept.push(road.kept("/events/sync"));
    }

    let ours = |message: &Message| message.header("signature-input").unwrap().to_owned();
    let changes: [Change<'_>; 5] = [
        &|message| message.set_header("x-nara-to", "eve"),
        &|message| message.set_header("signature-input", &ours(message).replace("nara-mesh", "other")),
        &|message| message.set_header("signature-input", &ours(message).replacen("nara=", "other=", 1)),
        &|message| {
            let second = ours(message).replacen("nara=", "other=", 1);
            message.set_header("signature-input", &format!("{}, {second}", ours(message)));
        },
        &|message| message.set_header("content-digest", "sha-512=:AAAA:"),
    ];
    for change in changes {
        for is_behind in [false, true] {
            let mut changed = kept[0].clone();
            if is_behind {
                change(&mut changed);
                gateway(&mut changed);
            } else {
                gateway(&mut changed);
                change(&mut changed);
            }
            let (status, text) = road.deliver(&changed).await;
            assert_eq!(status, 401, "{text}");
        }
    }
    gateway(&mut kept[0]);
    assert_eq!(road.deliver(&kept[0]).await.0, 200);
    // The addition does not make a request new, and other digests do not replace ours.
    let (status, text) = road.deliver(&kept[0]).await;
    assert_eq!(status, 401);
    assert!(text.contains("replayed"), "{text}");
    gateway(&mut kept[1]);
    kept[1].body = b"{\"from\":\"alice\"}".to_vec();
    assert_eq!(road.deliver(&kept[1]).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_request_is_refused_by_another_receiver() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    let bob = nara_mesh::server::MeshServer::builder(nara("bob"), Arc::new(MemoryLedger::new()))
        .registry(crate::support::registry(&[&nara("alice")]))
        .clock(Arc::new(road.target.clock.clone()))
        .refuse_before_start(false)
        .serve(crate::support::free_port())
        .await
        .unwrap();
    let answer = proxy::send(bob.local_addr(), &road.kept("/events/sync")).await;
    assert_eq!(answer.status(), 401);
    // Against alice, the same attack looks like this.
    road.attacker.on_request(move |_| Fate::Divert(bob.local_addr()));
    assert!(road.sync().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_request_is_refused_when_it_is_reflected_to_its_sender() {
    // The target calls bob; a man in the middle forwards the request to the target's own server.
    let target = Target::start().await;
    let bob =
        Target::start_with(|builder| builder.registry(crate::support::registry(&[&nara("target")]))).await;
    let attacker = Proxy::before(bob.address()).await;
    let client = MeshClient::builder(nara("target"))
        .clock(Arc::new(target.clock.clone()))
        .build();
    client
        .registry()
        .register(known(&nara("bob"), Some(attacker.address)))
        .unwrap();
    let back = target.address();
    attacker.on_request(move |_| Fate::Divert(back));
    let error = client
        .fetch_sync_events(nara("bob").id(), SyncRequest::recent(1))
        .await
        .unwrap_err();
    assert!(
        error.is_unauthenticated() || error.status().is_some_and(|status| status == 401),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_request_that_is_delivered_twice_counts_once() {
    let road = Road::start().await;
    road.attacker.on_request(|_| Fate::Twice);
    // The attacker returns the second answer, which is a refusal.
    assert!(road.send_dm().await.is_err());
    assert_eq!(road.target.count().await, 1);
    assert_eq!(road.target.senders.0.lock().unwrap().len(), 1);
    // Not even on an endpoint where v1 allows repetitions.
    assert!(road.sync().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_from_before_a_restart_is_refused() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    road.send_dm().await.unwrap();
    let clock = ManualClock::new(NOW.to_nanos());
    clock.advance(Duration::from_secs(1));
    // The same nara with the same knowledge, but an empty replay cache.
    let again = nara_mesh::server::MeshServer::builder(road.target.local.clone(), road.target.ledger.clone())
        .registry(road.target.registry.clone())
        .clock(Arc::new(clock))
        .serve(crate::support::free_port())
        .await
        .unwrap();
    for path in ["/events/sync", "/dm"] {
        let kept = road.kept(path);
        assert_eq!(
            proxy::send(again.local_addr(), &kept).await.status(),
            401,
            "v2 {path}"
        );
    }
    // V1 does not help the attacker either: requests from before the start are refused.
    let stranger = Road::start_as_strangers().await;
    stranger.sync().await.unwrap();
    let kept = v1_only(&stranger.kept("/events/sync"));
    assert_eq!(proxy::send(again.local_addr(), &kept).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_answer_belongs_to_its_question() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    let kept = road.attacker.answers().pop().unwrap();
    // A moment later, for an equal request.
    road.attacker.on_request(move |_| Fate::Answer(kept.clone()));
    assert!(road.sync().await.unwrap_err().is_unauthenticated());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_answer_cannot_be_changed() {
    let road = Road::start().await;
    for change in [
        (|answer: &mut Message| answer.start = "HTTP/1.1 503 Service Unavailable".to_owned())
            as fn(&mut Message),
        |answer| answer.replace_in_body("target", "target "),
        |answer| answer.set_header("x-nara-name", "bob"),
        |answer| answer.remove_headers(|name| name == "signature"),
        |answer| answer.remove_headers(|name| name == "signature-input"),
    ] {
        road.attacker.on_answer(change);
        let error = road.sync().await.unwrap_err();
        assert!(
            error.is_unauthenticated() || !error.is_status_verified(),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_request_that_was_held_back_is_stale() {
    let road = Road::start().await;
    road.sync().await.unwrap();
    road.target
        .clock
        .advance(FRESHNESS_WINDOW + Duration::from_secs(2));
    let (status, text) = road.deliver(&road.kept("/events/sync")).await;
    assert_eq!(status, 401, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_stripped_from_a_request_are_a_downgrade() {
    let road = Road::start_as_strangers().await;
    let mut events = road.target.registry.subscribe();
    // Once alice has proven v2, she is not accepted without.
    assert!(road.sync().await.unwrap());
    road.target.clock.advance(Duration::from_millis(10));
    let stranger = client(&road.target, road.attacker.address);
    road.attacker.on_request(|request| {
        *request = v1_only(request);
        Fate::Forward
    });
    let error = stranger
        .fetch_sync_events(road.target.local.id(), SyncRequest::recent(1))
        .await
        .unwrap_err();
    assert_eq!(error.status().unwrap(), 401, "{error}");
    let mut downgrades = 0;
    while let Ok(event) = events.try_recv() {
        downgrades += usize::from(matches!(event, PeerEvent::Downgrade { .. }));
    }
    assert_eq!(downgrades, 1, "subscribers are notified");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_stripped_from_an_answer_are_a_downgrade() {
    let road = Road::start().await;
    road.attacker.on_answer(|answer| *answer = v1_only(answer));
    let error = road.sync().await.unwrap_err();
    assert!(error.is_downgrade(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_answer_in_the_place_of_a_v2_answer_is_a_downgrade() {
    // Genuine, made for a nara that the target believes to be v1-only.
    let road = Road::start().await;
    let old = nara("bob");
    let answer = road.target.post(&old, "/events/sync", br#"{"from":"bob"}"#);
    let mut genuine = Message {
        start: "HTTP/1.1 200 OK".to_owned(),
        headers: vec![("Content-Length".to_owned(), "0".to_owned())],
        body: answer.body.clone(),
    };
    for name in ["x-nara-name", "x-nara-timestamp", "x-nara-signature"] {
        genuine.set_header(name, &answer.header(name).unwrap());
    }
    road.attacker.on_request(move |_| Fate::Answer(genuine.clone()));
    let error = road.sync().await.unwrap_err();
    assert!(error.is_downgrade(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_the_middle_from_the_first_contact_on_can_hold_both_at_v1() {
    // Neither has seen the other's v2 yet, and all announcements are stripped: this is the cost of supporting v1 peers.
    let road = Road::start_as_strangers().await;
    road.attacker.on_request(|request| {
        *request = v1_only(request);
        Fate::Forward
    });
    road.attacker.on_answer(|answer| {
        *answer = v1_only(answer);
        answer.remove_headers(|name| name == "x-nara-capability");
    });
    assert!(
        !road.sync().await.unwrap(),
        "verified, but not bound to the question"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v1_only_client_gets_v1_answers() {
    // Its operator has chosen so: what it remembers of the other does not matter.
    let target = Target::start().await;
    let client = MeshClient::builder(nara("alice"))
        .clock(Arc::new(target.clock.clone()))
        .tls(TlsPolicy::Plain)
        .signatures(Signatures::V1Only)
        .build();
    let peer = client
        .registry()
        .register(known(&target.local, Some(target.address())))
        .unwrap();
    client.registry().learn_protocol(&peer, speaks_v2());
    let answer = client
        .fetch_sync_events(target.local.id(), SyncRequest::recent(1))
        .await
        .unwrap();
    assert!(answer.is_verified() && !answer.verification().bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_genuine_exchange_ends_the_time_in_which_v1_can_be_forced() {
    let road = Road::start_as_strangers().await;
    assert!(road.sync().await.unwrap());
    road.attacker.on_answer(|answer| *answer = v1_only(answer));
    assert!(road.sync().await.unwrap_err().is_downgrade());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capability_that_was_made_up_or_moved_teaches_nothing() {
    let road = Road::start_as_strangers().await;
    // One is signed by bob about himself, the other states more than was signed.
    let bob = Target::start_with(|builder| builder).await;
    let mut ping = Message {
        start: "GET /ping HTTP/1.1".to_owned(),
        headers: vec![("Host".to_owned(), "nara".to_owned())],
        body: Vec::new(),
    };
    ping.set_header("X-Nara-From", "alice");
    let genuine = proxy::send(bob.address(), &ping).await;
    let capability = genuine.header("x-nara-capability").unwrap().to_owned();
    assert!(capability.contains("signatures=(v2)"), "{capability}");
    let more = capability.replace("signatures=(v2)", "signatures=(v2 v9)");
    for forged in [
        more,
        "id=\"x\", signatures=(v2), tls=(), at=1, proof=:AA==:".to_owned(),
    ] {
        road.attacker
            .on_answer(move |answer| answer.set_header("x-nara-capability", &forged));
        let _ = road.alice.ping(road.target.local.id()).await;
        let peer = road.alice.peer(road.target.local.id()).known().unwrap();
        assert!(peer.protocol().is_empty());
    }
}
