//! Waiting postcards and runtime messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nara_local_api::ProblemClass;
use nara_local_api::client::Sent;
use nara_local_api::model::{
    JourneyState, Later, OutboxEntry, OutboxKind, OutboxState, OutgoingMessage, Postcard,
};
use nara_mesh::Nara;
use nara_mesh::clock::SystemClock;
use nara_proto::runtime_message::RuntimeMessage;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Mailbox, Scene, finished, pass_on, problem, serve};

fn postcard(message: &str) -> Postcard {
    Postcard {
        message: message.to_owned(),
        to: Some("bob".to_owned()),
        later: None,
    }
}

/// Returns a message that needs no reply.
fn outgoing(scene: &Scene) -> OutgoingMessage {
    let payload = json!({ "owner_id": scene.own.id().as_str(), "stored_at": 1, "success": true });
    serde_json::from_value(json!({ "kind": "stash:ack", "payload": payload })).unwrap()
}

fn waits<T: std::fmt::Debug>(sent: Sent<T>) -> OutboxEntry {
    match sent {
        Sent::Waits(entry) => *entry,
        Sent::Delivered(receipt) => panic!("{receipt:?}"),
    }
}

fn delivered<T>(sent: Sent<T>) -> T {
    match sent {
        Sent::Delivered(receipt) => receipt,
        Sent::Waits(entry) => panic!("{entry:?}"),
    }
}

#[tokio::test]
async fn postcards_and_runtime_messages_wait_survive_a_restart_and_arrive_once_in_their_order() {
    let scene = Scene::new().await;
    let refused = problem(scene.client.postcard(&postcard("hi")).await);
    assert_eq!(refused.class, ProblemClass::Unreachable);
    assert!(refused.hint.as_ref().unwrap().contains("`later`"), "{refused:?}");
    let refused = problem(scene.client.message("bob", &outgoing(&scene)).await);
    assert!(refused.hint.as_ref().unwrap().contains("`later`"), "{refused:?}");
    let later = Later {
        expires_s: Some(3600),
    };
    let sent = scene.client.postcard_later(postcard("hi"), later).await;
    let postcard_waits = waits(sent.unwrap());
    let message = outgoing(&scene);
    let sent = scene.client.message_later("bob", message, later).await;
    let message_waits = waits(sent.unwrap());
    assert_eq!(
        [postcard_waits.kind, message_waits.kind],
        [OutboxKind::Postcard, OutboxKind::RuntimeMessage]
    );
    for entry in [&postcard_waits, &message_waits] {
        assert!(entry.is_durable && !entry.may_have_arrived, "{entry:?}");
        assert_eq!(entry.expires_at_ms - entry.queued_at_ms, 3_600_000);
    }
    // A postcard that no peer has is not under way.
    assert!(scene.client.postcards().await.unwrap().is_empty());
    let back = waits(scene.client.postcard_later(postcard("no"), later).await.unwrap());
    scene.client.drop_message(back.id).await.unwrap();

    let scene = scene.restart().await;
    let mut changes = scene.changes().await;
    let list = scene.client.outbox().await.unwrap();
    assert_eq!((list.messages.len(), list.waiting), (2, 2));
    assert_eq!(list.messages[0].event.as_json(), postcard_waits.event.as_json());
    let mailbox = Mailbox::default();
    let _bob = scene.start_bob(&scene.bob, &mailbox).await;
    for entry in [&postcard_waits, &message_waits] {
        let delivered = finished(&mut changes, entry.id).await;
        assert_eq!(
            (delivered.state, delivered.stored),
            (OutboxState::Delivered, None)
        );
    }
    let expected = [postcard_waits.event_id.clone(), message_waits.event_id.clone()];
    assert_eq!(mailbox.received(), expected);
    let journey = scene.client.journey(&postcard_waits.event_id).await.unwrap();
    assert_eq!((journey.first.as_str(), journey.message.as_str()), ("bob", "hi"));

    // Now they are delivered at once, with the usual answers.
    let sent = scene.client.postcard_later(postcard("again"), later).await;
    let receipt = delivered(sent.unwrap());
    assert_eq!(receipt.first, "bob");
    let message = outgoing(&scene);
    let sent = scene.client.message_later("bob", message, later).await;
    let receipt = (receipt.message_id, delivered(sent.unwrap()).message_id);
    assert_eq!(mailbox.received()[2..], [receipt.0, receipt.1]);
    assert_eq!(scene.client.outbox().await.unwrap().waiting, 0);
    scene.end().await;
}

#[tokio::test]
async fn what_cannot_wait_is_refused_with_the_reason() {
    let scene = Scene::new().await;
    let later = Later::default();
    let nowhere = Postcard {
        to: None,
        ..postcard("hi")
    };
    let refused = problem(scene.client.postcard_later(nowhere, later).await);
    assert_eq!(refused.name(), "invalid_request");
    assert!(refused.hint.unwrap().contains("`to`"));
    let asking = OutgoingMessage {
        wait: true,
        ..outgoing(&scene)
    };
    let refused = problem(scene.client.message_later("bob", asking, later).await);
    assert_eq!(refused.name(), "invalid_request");
    assert!(refused.hint.unwrap().contains("inbox"));
    let stranger = scene.client.message_later("carol", outgoing(&scene), later);
    assert_eq!(problem(stranger.await).name(), "unknown_peer");
    let long = Later {
        expires_s: Some(30 * 86_400 + 1),
    };
    let refused = problem(scene.client.postcard_later(postcard("hi"), long).await);
    assert_eq!(refused.name(), "invalid_request");
    assert!(scene.client.outbox().await.unwrap().messages.is_empty());
    scene.end().await;
}

/// Puts bob behind a proxy that loses the answer to the next message.
async fn lossy(mailbox: &Mailbox) -> (Scene, Nara, Arc<AtomicUsize>, JoinHandle<()>) {
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scene = Scene::with(between.local_addr().unwrap(), Arc::new(SystemClock)).await;
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let bob = serve(&scene.bob, &scene.alice, anywhere, mailbox).await;
    let cuts = Arc::new(AtomicUsize::new(0));
    let (to, has_news) = (bob.address().unwrap(), mailbox.has_news.clone());
    let passing = tokio::spawn(pass_on(between, to, has_news, cuts.clone()));
    (scene, bob, cuts, passing)
}

#[tokio::test]
async fn a_postcard_whose_answer_is_lost_is_not_sent_twice() {
    let mailbox = Mailbox::default();
    let (scene, _bob, cuts, passing) = lossy(&mailbox).await;
    let sent = scene.client.postcard_later(postcard("hi"), Later::default());
    let lost = problem(sent.await);
    assert!(
        lost.hint.as_ref().unwrap().contains("may be under way"),
        "{lost:?}"
    );
    let list = scene.client.outbox().await.unwrap();
    assert_eq!((list.messages.len(), list.waiting), (1, 0));
    let entry = &list.messages[0];
    assert_eq!(
        (entry.state, entry.may_have_arrived),
        (OutboxState::Refused, true)
    );
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    assert_eq!(mailbox.received(), std::slice::from_ref(&entry.event_id));
    // It is under way, and its sender can track it.
    let journey = scene.client.journey(&entry.event_id).await.unwrap();
    assert_eq!(journey.state, JourneyState::UnderWay);
    passing.abort();
    scene.end().await;
}

#[tokio::test]
async fn a_runtime_message_whose_answer_is_lost_is_sent_again_as_the_same_message() {
    let mailbox = Mailbox::default();
    let (scene, _bob, cuts, passing) = lossy(&mailbox).await;
    let mut changes = scene.changes().await;
    let sent = scene
        .client
        .message_later("bob", outgoing(&scene), Later::default());
    let entry = waits(sent.await.unwrap());
    assert!(entry.may_have_arrived, "{entry:?}");
    let delivered = finished(&mut changes, entry.id).await;
    assert_eq!(delivered.state, OutboxState::Delivered);
    assert_eq!(cuts.load(Ordering::SeqCst), 1);
    let kept = RuntimeMessage::from_json(entry.event.as_json().as_bytes()).unwrap();
    assert_eq!(mailbox.received(), [kept.id.clone(), kept.id]);
    passing.abort();
    scene.end().await;
}
