//! Substituted keys, and malformed keys and signatures.

use std::net::SocketAddr;
use std::sync::Arc;

use curve25519_dalek::constants::EIGHT_TORSION;
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::{PeerEvent, PeerInfo, PeerRegistry, TrustPolicy};
use nara_mesh::transport::TcpTransport;
use nara_proto::encoding;
use nara_proto::event::{HeyTherePayload, Payload, SyncEvent};
use nara_proto::go_json;
use nara_proto::import::ImportRequest;
use nara_proto::sync::SyncRequest;
use nara_proto::zine::Zine;

use crate::fake_peer::{FakePeer, plain};
use crate::legacy;
use crate::message::Message;
use crate::proxy::Fate;
use crate::road::LegacyRoad;
use crate::support::{NOW, Target, free_port, nara, nara_with_seed, request, signed};

/// Returns a `/ping` answer with content of the attacker's choice.
fn forged_ping(name: &str, key: &str) -> Message {
    let mut answer = legacy::ping_answer(&nara(name));
    key.clone_into(&mut answer.public_key);
    Message {
        start: "HTTP/1.1 200 OK".to_owned(),
        headers: vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("Content-Length".to_owned(), "0".to_owned()),
        ],
        body: go_json::to_body(&answer),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_first_use_a_man_in_the_middle_can_be_taken_for_a_v1_only_nara() {
    // This is inherent to trust on first use: alice cannot distinguish the impostor from bob.
    let alice = nara("alice");
    let clock = ManualClock::new(NOW.to_nanos());
    let impostor = nara_with_seed("bob", 99);
    let attacker = legacy::start(&impostor, &alice, &clock).await;
    let client = MeshClient::builder(alice).clock(Arc::new(clock)).build();
    let answer = client
        .fetch_sync_events(attacker.address, SyncRequest::recent(1))
        .await
        .unwrap();
    assert_eq!(answer.verification().key, Some(impostor.public_key()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_pinned_keys_only_is_not_deceived_on_first_use() {
    let alice = nara("alice");
    let clock = ManualClock::new(NOW.to_nanos());
    let attacker = legacy::start(&nara_with_seed("bob", 99), &alice, &clock).await;
    let client = MeshClient::builder(alice)
        .clock(Arc::new(clock))
        .registry(PeerRegistry::default().with_trust(TrustPolicy::Pinned))
        .build();
    let error = client
        .fetch_sync_events(attacker.address, SyncRequest::recent(1))
        .await
        .unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    assert!(client.registry().by_name("bob").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_ping_does_not_replace_a_pinned_key() {
    let road = LegacyRoad::start().await;
    let impostor = nara_with_seed("bob", 99);
    let key = impostor.public_key();
    road.attacker.on_request(move |request| match request.target() {
        "/ping" => Fate::Answer(forged_ping("bob", &key.to_base64())),
        _ => Fate::Forward,
    });
    let report = road.alice.ping(road.bob.id()).await.unwrap();
    assert_eq!(report.key_matches, Some(false));
    let pinned = road.alice.peer(road.bob.id()).known().unwrap().key();
    assert_eq!(pinned, Some(road.bob.public_key()));
    road.sync(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_only_the_key_of_a_ping_is_not_believed_without_its_signature() {
    // The attacker changes the key of /ping, but cannot sign the following answers with bob's key.
    let road = LegacyRoad::start().await;
    let stranger = MeshClient::builder(nara("alice"))
        .clock(Arc::new(road.clock.clone()))
        .build();
    let key = nara_with_seed("bob", 99).public_key().to_base64();
    road.attacker.on_request(move |request| match request.target() {
        "/ping" => Fate::Answer(forged_ping("bob", &key)),
        _ => Fate::Forward,
    });
    let error = stranger
        .fetch_sync_events(road.attacker.address, SyncRequest::recent(1))
        .await
        .unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    assert!(stranger.registry().by_name("bob").is_none(), "nothing was pinned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_small_order_is_believed_from_nobody() {
    // Under such a key one signature would be valid for many messages, whoever made it.
    let clock = ManualClock::new(NOW.to_nanos());
    for point in EIGHT_TORSION {
        let key = encoding::base64_encode(&point.compress().to_bytes());
        let peer = FakePeer::start(TcpTransport, free_port(), move |_| {
            let mut answer = legacy::ping_answer(&nara("bob"));
            key.clone_into(&mut answer.public_key);
            plain(200, go_json::to_body(&answer))
        })
        .await;
        let client = MeshClient::builder(nara("alice"))
            .clock(Arc::new(clock.clone()))
            .build();
        let error = client.discover_key(peer.address, None).await.unwrap_err();
        assert!(error.to_string().contains("key"), "{error}");
        assert!(
            client
                .peer(PeerRef::from(peer.address))
                .known()
                .is_none_or(|peer| peer.key().is_none())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_with_a_torsion_component_is_refused() {
    use curve25519_dalek::edwards::CompressedEdwardsY;
    let target = Target::start().await;
    let alice = nara("alice");
    let genuine = signed(&alice, NOW, "POST", "/events/sync");
    let body = br#"{"from":"alice","mode":"recent"}"#;
    for point in EIGHT_TORSION {
        let mut headers = genuine.clone();
        let value = &mut headers
            .iter_mut()
            .find(|(name, _)| name == "x-nara-signature")
            .unwrap()
            .1;
        let mut signature = encoding::base64_decode_lenient(value).unwrap();
        let r = CompressedEdwardsY(signature[..32].try_into().unwrap())
            .decompress()
            .unwrap();
        let moved = (r + point).compress().to_bytes();
        let is_genuine = moved == signature[..32];
        signature[..32].copy_from_slice(&moved);
        *value = encoding::base64_encode(&signature).into_bytes();
        let status = target
            .send(&request("POST", "/events/sync", &headers, body))
            .status;
        assert_eq!(status, if is_genuine { 200 } else { 401 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_known_cannot_be_squatted() {
    let target = Target::start().await;
    let mut events = target.registry.subscribe();
    let squatter = nara_with_seed("alice", 99);
    let answer = target.post(&squatter, "/events/sync", br#"{"from":"alice"}"#);
    assert_eq!(answer.status, 401);
    let introduction = SyncEvent::signed(
        NOW.to_nanos(),
        Payload::HeyThere(HeyTherePayload {
            from: "alice".to_owned(),
            public_key: squatter.public_key().to_base64(),
            ..Default::default()
        }),
        "alice",
        squatter.keypair(),
    );
    let bob = nara("bob");
    let zine = Zine::signed("bob", NOW.to_seconds(), vec![introduction], bob.keypair());
    assert_eq!(target.post_json(&bob, "/gossip/zine", &zine).status, 200);
    let alice = target.registry.by_name("alice").unwrap();
    assert_eq!(alice.key(), Some(nara("alice").public_key()));
    let mut conflicts = 0;
    while let Ok(event) = events.try_recv() {
        conflicts += usize::from(matches!(event, PeerEvent::KeyConflict(_)));
    }
    assert_eq!(conflicts, 1, "subscribers are notified");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_has_belongs_to_who_comes_first() {
    // Names are not registered anywhere: this is inherent to trust on first use.
    let target = Target::start().await;
    let bob = nara("bob");
    let introduce = |carol: &LocalNara, at: i64| {
        let ts = nara_proto::time::UnixNanos::new(NOW.to_nanos().get() + at);
        let introduction = SyncEvent::signed(
            ts,
            Payload::HeyThere(HeyTherePayload {
                from: "carol".to_owned(),
                public_key: carol.public_key().to_base64(),
                ..Default::default()
            }),
            "carol",
            carol.keypair(),
        );
        let zine = Zine::signed("bob", NOW.to_seconds(), vec![introduction], bob.keypair());
        assert_eq!(target.post_json(&bob, "/gossip/zine", &zine).status, 200);
    };
    let (first, second) = (nara_with_seed("carol", 98), nara_with_seed("carol", 99));
    introduce(&first, 1);
    introduce(&second, 2);
    let carol = target.registry.by_name("carol").unwrap();
    assert_eq!(carol.key(), Some(first.public_key()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attacker_that_only_drops_gets_an_error_and_no_belief() {
    let road = LegacyRoad::start().await;
    road.attacker.on_request(|_| Fate::Drop);
    let error = road.sync(1).await.unwrap_err();
    assert!(!error.is_unauthenticated() && error.status().is_none(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entrance_takes_the_first_key_of_a_configured_nara_from_hearsay() {
    not_by_hearsay(Some(([127, 0, 1, 7], 9632).into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entrance_takes_the_first_key_of_a_nara_that_is_configured_by_name_from_others() {
    not_by_hearsay(None).await;
}

async fn not_by_hearsay(address: Option<SocketAddr>) {
    let target = Target::start().await;
    let (alice, impostor) = (nara("alice"), nara("carol"));
    let carol = PeerInfo {
        name: Some(impostor.name().clone()),
        address,
        configured: true,
        configured_at: address,
        ..PeerInfo::default()
    };
    target.registry.register(carol).unwrap();
    let introduction = SyncEvent::signed(
        NOW.to_nanos(),
        Payload::HeyThere(HeyTherePayload {
            from: "carol".to_owned(),
            public_key: impostor.public_key().to_base64(),
            ..HeyTherePayload::default()
        }),
        "carol",
        impostor.keypair(),
    );
    let events = || vec![introduction.clone()];
    let zine = |of: &LocalNara| Zine::signed(of.name().as_str(), NOW.to_seconds(), events(), of.keypair());
    let key = || target.registry.by_name("carol").unwrap().key();
    assert_eq!(
        target.post_json(&alice, "/gossip/zine", &zine(&alice)).status,
        200
    );
    assert_eq!(key(), None, "by a zine");
    target.post_json(&alice, "/dm", &introduction);
    assert_eq!(key(), None, "by a direct message");
    let own = ImportRequest::signed(events(), NOW.to_seconds(), target.local.keypair());
    let import = request("POST", "/api/events/import", &[], &go_json::to_vec(&own));
    assert_eq!(target.send(&import).status, 200);
    assert_eq!(key(), None, "by an import of the owner");
    if address.is_none() {
        return;
    }
    assert_ne!(
        target
            .post_json(&impostor, "/gossip/zine", &zine(&impostor))
            .status,
        200
    );
    assert_eq!(key(), None, "by itself, from another address");
}
