use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request};
use nara_local_api::ProblemClass;
use nara_local_api::client::CallError;
use nara_local_api::model::{DirectMessage, Postcard, Synced, Trust};
use nara_mesh::ledger::ReadLimit;

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
    let pong = client.ping("bob", true).await.unwrap();
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
    assert!(stored.iter().any(|event| event.id == receipt.event_id));
    let postcard = Postcard {
        message: "hi".to_owned(),
        to: None,
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
    // As it arrives.
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
    // Another key than the configured one is not taken, and an unknown peer has a problem of its own.
    let other = Trust {
        key: Some(scene.alice.local().public_key().to_base64()),
        replace: true,
    };
    for (refused, name) in [
        (client.trust("bob", &other).await.map(drop), "key_configured"),
        (client.ping("nobody", false).await.map(drop), "unknown_peer"),
        (client.forget("nobody").await.map(drop), "unknown_peer"),
    ] {
        match refused.unwrap_err() {
            CallError::Problem(problem) => assert_eq!(problem.name(), name),
            error => panic!("{error}"),
        }
    }
    scene.end().await;
}
