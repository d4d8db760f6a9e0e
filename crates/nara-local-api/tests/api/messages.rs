use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request};
use nara_local_api::ProblemClass;
use nara_local_api::client::CallError;
use nara_local_api::compose::social;
use nara_local_api::model::{
    DirectMessage, DmKind, InboxKind, InboxMessage, JourneyState, Postcard, Synced, Trust,
};
use nara_mesh::LocalNara;
use nara_mesh::ledger::ReadLimit;
use nara_mesh::registry::PeerEvent;
use nara_proto::identity::KeyId;
use nara_proto::world::WorldMessage;

use crate::scene::Scene;

fn text(text: &str) -> DirectMessage {
    DirectMessage {
        text: Some(text.to_owned()),
        ..DirectMessage::default()
    }
}

#[tokio::test]
async fn a_program_pings_writes_and_syncs_as_the_nara() {
    let scene = Scene::new().await;
    let client = &scene.client;
    let status = client.status().await.unwrap();
    assert_eq!((status.name.as_str(), status.peers), ("alice", 1));
    let pong = client.ping("bob", true, false).await.unwrap();
    assert_eq!(
        (pong.key_matches, pong.signs.as_str(), pong.clock_proven),
        (Some(true), "v2", true)
    );
    let receipt = client.dm("bob", &text("hello")).await.unwrap();
    assert!(receipt.stored && receipt.verified, "{receipt:?}");
    let stored = scene
        .bob
        .ledger()
        .recent(Default::default(), ReadLimit::events(10))
        .await
        .unwrap();
    assert!(stored.iter().any(|checked| checked.event.id == receipt.event_id));
    let postcard = Postcard {
        message: "hi".to_owned(),
        ..Postcard::default()
    };
    assert_eq!(client.postcard(&postcard).await.unwrap().first, "bob");
    assert!(client.zine("bob").await.unwrap().counts.received > 0);

    let mut sync = client.events(Method::POST, "/v1/peers/bob/sync").await.unwrap();
    let mut done = None;
    while let Some(event) = sync.next().await {
        let event = event.unwrap();
        if event.name == "done" {
            done = Some(event.decode::<Synced>().unwrap());
        }
    }
    let done = done.unwrap();
    assert!(done.problem.is_none() && done.counts.received > 0, "{done:?}");
    let checked: serde_json::Value = client
        .get("/v1/peers/bob/in-sync?services=hey-there")
        .await
        .unwrap();
    assert!(checked["in_sync"].is_boolean(), "{checked}");
    scene.end().await;
}

#[tokio::test]
async fn a_request_brings_a_verified_answer_and_what_is_proven() {
    let scene = Scene::new().await;
    let request = Request::post("/notes/a%20b?x=%2F")
        .header("accept", "text/plain")
        .body(Bytes::from_static(b"body"))
        .unwrap();
    let answer = scene.client.request_peer("bob", request).await.unwrap();
    assert_eq!(answer.status(), 418);
    let told = std::str::from_utf8(answer.body()).unwrap();
    assert!(
        told.starts_with("POST /notes/a%20b?x=%2F from alice body \n"),
        "{told}"
    );
    assert_eq!(answer.headers()["x-nara-responder"], "bob");
    let coverage = answer.headers()["x-nara-coverage"].to_str().unwrap();
    assert!(["whole", "channel"].contains(&coverage), "{coverage}");
    assert_eq!(
        answer.headers()["x-nara-responder-key"],
        scene.bob.local().public_key().to_base64()
    );
    // Streamed.
    let request = Request::get("/")
        .header("x-nara-stream", "?1")
        .body(Bytes::new())
        .unwrap();
    let answer = scene.client.request_peer("bob", request).await.unwrap();
    assert_eq!(answer.headers()["x-nara-responder"], "bob");
    scene.end().await;
}

#[tokio::test]
async fn a_ban_is_in_force_at_once_and_can_be_lifted() {
    let scene = Scene::new().await;
    let client = &scene.client;
    let banned = client.ban("bob").await.unwrap();
    assert_eq!(banned.running.untrusted, ["bob"]);
    match client.dm("bob", &text("hello")).await.unwrap_err() {
        CallError::Problem(problem) => {
            assert_eq!(
                (problem.name(), problem.class),
                ("untrusted", ProblemClass::Untrusted)
            );
            assert!(problem.hint.is_some());
        }
        error => panic!("{error}"),
    }
    client.trust("bob", &Trust::default()).await.unwrap();
    client.dm("bob", &text("hello")).await.unwrap();
    // A key other than the configured one is refused, and an unknown peer has its own problem type.
    let other = Trust {
        key: Some(scene.alice.local().public_key().to_base64()),
        replace: true,
    };
    for (refused, name) in [
        (client.trust("bob", &other).await.map(drop), "key_configured"),
        (
            client.ping("nobody", false, false).await.map(drop),
            "unknown_peer",
        ),
        (client.forget("nobody").await.map(drop), "unknown_peer"),
    ] {
        match refused.unwrap_err() {
            CallError::Problem(problem) => assert_eq!(problem.name(), name),
            error => panic!("{error}"),
        }
    }
    scene.end().await;
}

#[tokio::test]
async fn a_postcard_is_followed_until_it_is_home() {
    let scene = Scene::new().await;
    let client = &scene.client;
    assert!(client.postcards().await.unwrap().is_empty());
    // A nara that answers is online.
    scene.bob.peer("alice").ping().await.unwrap();
    let postcard = Postcard {
        message: "hi".to_owned(),
        to: Some("bob".to_owned()),
        later: None,
    };
    let receipt = client.postcard(&postcard).await.unwrap();
    assert!(receipt.passed_on && receipt.told.is_none(), "{receipt:?}");
    let home = loop {
        let journey = client.journey(&receipt.message_id).await.unwrap();
        if journey.state != JourneyState::UnderWay {
            break journey;
        }
    };
    assert_eq!((home.state, home.message.as_str()), (JourneyState::Home, "hi"));
    assert_eq!(home.hops.as_deref().unwrap(), ["bob", "alice"]);
    assert_eq!(client.postcards().await.unwrap(), [home]);
    // A postcard that no peer accepted is not listed.
    let nowhere = Postcard {
        to: Some("nobody".to_owned()),
        ..postcard
    };
    assert_eq!(problem(client.postcard(&nowhere).await), "unknown_peer");
    assert_eq!(client.postcards().await.unwrap().len(), 1);
    assert_eq!(problem(client.journey("nothing").await), "unknown_postcard");
    scene.end().await;
}

#[tokio::test]
async fn a_stash_is_left_with_a_peer_fetched_listed_and_dropped() {
    let scene = Scene::new().await;
    let client = &scene.client;
    assert_eq!(client.get_stash("bob").await.unwrap(), None);
    let data = b"only alice \x00\xff";
    assert_eq!(
        client.put_stash("bob", &data[..]).await.unwrap().bytes,
        data.len()
    );
    assert_eq!(client.get_stash("bob").await.unwrap().unwrap(), data[..]);
    let kept = scene.bob.stashes();
    assert_eq!(kept.len(), 1);
    assert!(!kept[0].ciphertext.windows(4).any(|bytes| bytes == b"only"));
    let too_large = vec![0; (512 << 10) + 1];
    assert_eq!(problem(client.put_stash("bob", too_large).await), "too_large");

    // Bob's stash is listed here, but cannot be read.
    scene.bob.peer("alice").put_stash(b"only bob").await.unwrap();
    let list = client.stashes().await.unwrap().stashes;
    assert_eq!((list[0].name.as_deref(), list[0].bytes), (Some("bob"), 8 + 16));
    let bob = scene.bob.id().as_str();
    assert!(client.drop_stash(bob).await.unwrap());
    assert!(!client.drop_stash(bob).await.unwrap());
    assert_eq!(scene.bob.peer("alice").get_stash().await.unwrap(), None);
    assert_eq!(problem(client.drop_stash("bob").await), "invalid_request");
    scene.end().await;
}

#[tokio::test]
async fn what_comes_in_waits_until_it_is_acknowledged() {
    let scene = Scene::new().await;
    let client = &scene.client;
    assert!(client.inbox(None).await.unwrap().messages.is_empty());
    let mut live = client.events(Method::GET, "/v1/inbox/live").await.unwrap();
    let bob = scene.bob.local();
    let now = scene.bob.client().clock().now_nanos();
    let event = social(bob, DmKind::Gossip, "alice", "hello", now).unwrap();
    scene.bob.peer("alice").send_dm(event.clone()).await.unwrap();
    let told = live.next().await.unwrap().unwrap();
    let message: InboxMessage = told.decode().unwrap();
    assert_eq!(
        (told.name.as_str(), told.id.as_deref()),
        ("message", Some(&*message.cursor))
    );
    assert_eq!(
        (message.kind, message.from.as_str()),
        (InboxKind::DirectMessage, "bob")
    );
    assert_eq!(message.event.unwrap().decode().unwrap().id, event.id);

    let postcard = WorldMessage::new("bob", "greetings", now);
    // It is stuck here: no other nara is online.
    drop(scene.bob.peer("alice").relay_world_message(&postcard).await);
    let told: InboxMessage = live.next().await.unwrap().unwrap().decode().unwrap();
    let received = told.postcard.unwrap();
    assert_eq!(
        (received.message.as_str(), received.is_home),
        ("greetings", false)
    );

    let page = client.inbox(None).await.unwrap();
    assert_eq!((page.messages.len(), page.dropped), (2, 0));
    let first = page.messages[0].cursor.clone();
    assert_eq!(client.inbox(Some(&first)).await.unwrap().messages.len(), 1);
    assert_eq!(client.acknowledge(&first).await.unwrap(), 1);
    assert_eq!(client.acknowledge(&first).await.unwrap(), 0);
    let rest = client.inbox(None).await.unwrap();
    assert_eq!(rest.messages[0].kind, InboxKind::Postcard);
    assert_eq!(problem(client.inbox(Some("1-1")).await), "cursor_gone");
    assert_eq!(problem(client.acknowledge("x").await), "invalid_request");
    scene.end().await;
}

#[tokio::test]
async fn the_clock_and_the_place_in_the_network_are_told() {
    let scene = Scene::new().await;
    let clock = scene.client.clock().await.unwrap();
    assert!(
        clock.now_ms > 1_767_225_600_000 && clock.step.is_none(),
        "{clock:?}"
    );
    let own = scene.alice.registry().coordinates();
    assert_eq!(scene.client.coordinates().await.unwrap(), own.into());
    scene.end().await;
}

/// Returns the name of the problem of a failed call.
fn problem<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome.unwrap_err() {
        CallError::Problem(problem) => problem.name().to_owned(),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_decision_is_about_the_nara_that_a_text_means_and_nobody_is_made_up() {
    let scene = Scene::new().await;
    let client = &scene.client;
    let bob = scene.bob.local().clone();
    let count = client.peers().await.unwrap().len();
    let meant = [
        bob.id().to_string(),
        KeyId::from(&bob.public_key()).to_string(),
        scene.bob.address().unwrap().to_string(),
    ];
    for peer in &meant {
        let banned = client.ban(peer).await.unwrap();
        assert_eq!(banned.peers[0].name, "bob", "{peer}");
        assert!(client.dm("bob", &text("hello")).await.is_err());
        let trusted = client.trust(peer, &Trust::default()).await.unwrap();
        assert_eq!(trusted.peers[0].name, "bob", "{peer}");
        client.dm("bob", &text("hello")).await.unwrap();
    }
    // It belongs to no peer, so none is banned.
    let stranger = LocalNara::generate("stranger").unwrap();
    let nobodys = [
        stranger.id().to_string(),
        KeyId::from(&stranger.public_key()).to_string(),
        "127.0.0.1:9".to_owned(),
        "192.0.2.1".to_owned(),
    ];
    for nobody in &nobodys {
        for refused in [
            client.ban(nobody).await,
            client.trust(nobody, &Trust::default()).await,
            client.forget(nobody).await,
        ] {
            match refused.unwrap_err() {
                CallError::Problem(problem) => {
                    assert_eq!(
                        (problem.name(), problem.status),
                        ("unknown_peer", 404),
                        "{nobody}"
                    );
                    assert!(problem.hint.is_some());
                }
                error => panic!("{error}"),
            }
        }
    }
    // A nara named like bob's id is not confused with him.
    let namesake = LocalNara::generate(bob.id().as_str()).unwrap();
    let known = scene.alice.registry().register(namesake.as_peer(None)).unwrap();
    match client.ban(bob.id().as_str()).await.unwrap_err() {
        CallError::Problem(problem) => assert_eq!(problem.name(), "ambiguous_peer"),
        error => panic!("{error}"),
    }
    assert!(!known.is_untrusted());
    let listed = client.peers().await.unwrap();
    assert_eq!(listed.len(), count + 1);
    let row = listed
        .iter()
        .find(|peer| peer.label == bob.id().as_str())
        .unwrap();
    assert_eq!(row.reference(), namesake.id().as_str());
    scene.end().await;
}

#[tokio::test]
async fn a_request_to_an_endpoint_that_is_never_signed_is_refused_without_an_alarm() {
    let scene = Scene::new().await;
    let mut changes = scene.alice.registry().subscribe();
    for path in [
        "/ping",
        "/coordinates",
        "/api/checkpoints/all",
        "/peer/query?target=x",
    ] {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        match scene.client.request_peer("bob", request).await.unwrap_err() {
            CallError::Problem(problem) => {
                assert_eq!(
                    (problem.name(), problem.class),
                    ("invalid_request", ProblemClass::Failed)
                );
                let causes = problem.causes.concat();
                assert!(causes.contains("never signed"), "{path}: {causes}");
            }
            error => panic!("{error}"),
        }
    }
    let is_alarm = |change| matches!(change, PeerEvent::Downgrade { .. });
    assert!(!std::iter::from_fn(|| changes.try_recv().ok()).any(is_alarm));
    scene.end().await;
}

#[tokio::test]
async fn a_runtime_message_that_no_peer_can_use_is_refused_with_its_field() {
    let scene = Scene::new().await;
    let send = async |kind: &str, payload: serde_json::Value| {
        let message = serde_json::json!({ "kind": kind, "payload": payload });
        let message = serde_json::from_value(message).unwrap();
        scene.client.message("bob", &message).await
    };
    let owner = scene.alice.id().as_str();
    for (kind, payload, field) in [
        (
            "stash:store",
            serde_json::json!({ "owner_id": owner }),
            "payload.nonce",
        ),
        ("stash-refresh", serde_json::json!({}), "payload.owner_id"),
        (
            "stash-refresh",
            serde_json::json!({ "owner_id": 1 }),
            "payload.owner_id",
        ),
        (
            "stash-refresh",
            serde_json::json!({ "owner_id": owner, "ownr": "alice" }),
            "payload.ownr",
        ),
        ("stash-refresh", serde_json::json!([owner]), "payload"),
        ("stash-refresh", serde_json::json!(null), "payload"),
        ("greeting", serde_json::json!({ "owner_id": owner }), "kind"),
    ] {
        match send(kind, payload.clone()).await.unwrap_err() {
            CallError::Problem(problem) => {
                assert_eq!(
                    (problem.name(), problem.status),
                    ("invalid_request", 422),
                    "{payload}"
                );
                assert_eq!(problem.field.as_deref(), Some(field), "{payload}");
                assert!(problem.detail.starts_with(field), "{problem:?}");
            }
            error => panic!("{error}"),
        }
    }
    let sent = send("stash-refresh", serde_json::json!({ "owner_id": owner })).await;
    assert!(!sent.unwrap().message_id.is_empty());
    scene.end().await;
}
