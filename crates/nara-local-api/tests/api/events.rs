use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::{CallError, Events};
use nara_local_api::model::{Event, EventPage, LedgerSummary, LiveEvent};
use nara_mesh::ledger::CheckedEvent;
use nara_proto::event::{EventTrust, Payload, SocialPayload, SyncEvent};
use nara_proto::time::UnixNanos;
use serde_json::json;

use crate::scene::Scene;

fn said(text: &str) -> serde_json::Value {
    json!({ "svc": "social", "social": { "type": "gossip", "actor": "alice", "target": "bob", "reason": text } })
}

async fn next(events: &mut Events, name: &str) -> nara_local_api::client::ServerEvent {
    loop {
        let event = events.next().await.unwrap().unwrap();
        if event.name == name {
            return event;
        }
    }
}

fn reason(event: &Event) -> String {
    event
        .decode()
        .unwrap()
        .social
        .map(|social| social.reason)
        .unwrap_or_default()
}

#[tokio::test]
async fn published_events_are_signed_paged_and_live() {
    let scene = Scene::new().await;
    let client = &scene.client;
    let mut live = client
        .events(Method::GET, "/v1/events/live?services=social")
        .await
        .unwrap();
    next(&mut live, "caught_up").await;
    for text in ["one", "two", "three"] {
        let event: Event = client
            .send(Method::POST, "/v1/events", &said(text))
            .await
            .unwrap();
        let event = event.decode().unwrap();
        event.verify(&scene.alice.local().public_key()).unwrap();
        assert_eq!(event.emitter, "alice");
    }
    let one = next(&mut live, "event").await;
    let decoded: LiveEvent = one.decode().unwrap();
    assert_eq!(
        (reason(&decoded.event).as_str(), decoded.trust.as_str()),
        ("one", "verified")
    );
    assert_eq!(one.id, decoded.cursor);
    drop(live);
    // A cursor resumes after the events already seen.
    let path = format!("/v1/events/live?services=social&after={}", one.id.unwrap());
    let mut resumed = client.events(Method::GET, &path).await.unwrap();
    let two: LiveEvent = next(&mut resumed, "event").await.decode().unwrap();
    assert_eq!(reason(&two.event), "two");

    let mut texts = Vec::new();
    let mut path = "/v1/events?services=social&limit=2".to_owned();
    loop {
        let page: EventPage = client.get(&path).await.unwrap();
        texts.extend(page.events.iter().map(reason));
        let Some(next) = page.next else { break };
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        path = format!("/v1/events?services=social&limit=2&after={next}");
    }
    assert_eq!(texts, ["one", "two", "three"]);
    let newest: EventPage = client
        .get("/v1/events?newest=true&services=social&limit=1")
        .await
        .unwrap();
    assert_eq!(newest.events.iter().map(reason).collect::<Vec<_>>(), ["three"]);
    scene.end().await;
}

#[tokio::test]
async fn an_event_of_somebody_else_and_a_foreign_cursor_are_refused() {
    let scene = Scene::new().await;
    let problem = |error: CallError| match error {
        CallError::Problem(problem) => (problem.name().to_owned(), problem.status),
        error => panic!("{error}"),
    };
    let forged = json!({
        "svc": "social", "ts": 1, "emitter": "bob", "sig": "AAAA",
        "social": { "type": "gossip", "actor": "bob", "target": "alice", "reason": "x" },
    });
    let refused = scene
        .client
        .send::<Event>(Method::POST, "/v1/events", &forged)
        .await;
    assert_eq!(problem(refused.unwrap_err()), ("event_refused".to_owned(), 422));
    let cursors = [
        ("00000000000000ab:5", 410, "cursor_gone"),
        ("nonsense", 400, "invalid_request"),
    ];
    for (cursor, status, name) in cursors {
        let path = format!("/v1/events/live?after={cursor}");
        let refused = scene.client.events(Method::GET, &path).await.unwrap_err();
        assert_eq!(problem(refused), (name.to_owned(), status), "{cursor}");
    }
    scene.end().await;
}

#[tokio::test]
async fn an_event_in_the_name_of_another_or_with_its_key_is_refused_and_says_where() {
    let scene = Scene::new().await;
    let bob = scene.bob.local();
    let social = |actor: &str, target: &str| json!({ "type": "gossip", "actor": actor, "target": target, "reason": "x" });
    let refused = [
        (
            "social.actor",
            json!({ "svc": "social", "social": social("bob", "alice") }),
        ),
        (
            "ping.observer",
            json!({ "svc": "ping", "ping": { "observer": "bob", "target": "alice", "rtt": 1.0 } }),
        ),
        (
            "seen.observer",
            json!({ "svc": "seen", "seen": { "observer": "bob", "subject": "alice", "via": "zine" } }),
        ),
        (
            "observation.observer",
            json!({ "svc": "observation", "observation": {
                "type": "restart", "observer": "bob", "subject": "alice", "start_time": 1, "restart_num": 2, "importance": 3,
            } }),
        ),
        (
            "hey_there.From",
            json!({ "svc": "hey-there", "hey_there": { "From": "bob", "PublicKey": bob.public_key().to_base64() } }),
        ),
        (
            "chau.From",
            json!({ "svc": "chau", "chau": { "From": "bob", "PublicKey": bob.public_key().to_base64() } }),
        ),
        (
            "hey_there.PublicKey",
            json!({ "svc": "hey-there", "hey_there": { "From": "alice", "PublicKey": bob.public_key().to_base64() } }),
        ),
        (
            "target",
            json!({ "svc": "social", "social": social("alice", "a:b") }),
        ),
        (
            "target",
            json!({ "svc": "social", "social": social("alice", "x\u{202e}y\n") }),
        ),
        (
            "ts",
            json!({ "svc": "social", "ts": i64::MAX, "social": social("alice", "bob") }),
        ),
    ];
    for (field, event) in refused {
        let outcome = scene
            .client
            .send::<Event>(Method::POST, "/v1/events", &event)
            .await;
        let CallError::Problem(problem) = outcome.unwrap_err() else {
            panic!("{event}");
        };
        assert_eq!(
            (problem.name(), problem.status),
            ("event_refused", 422),
            "{event}"
        );
        assert!(problem.detail.starts_with(field), "{field}: {}", problem.detail);
        assert!(problem.hint.is_some());
    }
    let page: EventPage = scene
        .client
        .get("/v1/events?services=social,ping,seen,observation,chau")
        .await
        .unwrap();
    assert!(page.events.is_empty(), "nothing of it is stored: {page:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_page_says_how_far_each_event_can_be_trusted() {
    let scene = Scene::new().await;
    let rumour = |text: &str| {
        let payload = SocialPayload {
            kind: "gossip".to_owned(),
            actor: "stranger".to_owned(),
            target: "alice".to_owned(),
            reason: text.to_owned(),
            ..SocialPayload::default()
        };
        SyncEvent::new(UnixNanos::new(5), Payload::Social(payload))
    };
    let told = vec![CheckedEvent::new(rumour("who knows"), EventTrust::Unsigned)];
    scene.alice.ledger().insert(told, None).await.unwrap();
    let _: Event = scene
        .client
        .send(Method::POST, "/v1/events", &said("so it is"))
        .await
        .unwrap();
    for (path, expected) in [
        ("/v1/events?services=social", ["unsigned", "verified"]),
        ("/v1/events?services=social&newest=true", ["verified", "unsigned"]),
    ] {
        let page: EventPage = scene.client.get(path).await.unwrap();
        assert_eq!(page.trust, expected);
        assert_eq!(page.events.len(), 2);
    }
    scene.end().await;
}

#[tokio::test]
async fn a_stream_of_a_peer_goes_on_behind_its_cursor() {
    let scene = Scene::new().await;
    let publish = async |text: &str| {
        let payload = SocialPayload {
            kind: "gossip".to_owned(),
            actor: "bob".to_owned(),
            target: "alice".to_owned(),
            reason: text.to_owned(),
            ..SocialPayload::default()
        };
        scene.bob.publish(Payload::Social(payload)).await.unwrap()
    };
    let path = "/v1/peers/bob/events/live?services=social&since_ms=0";
    let open = async |path: &str| scene.client.events(Method::GET, path).await;
    publish("one").await;
    let mut live = open(path).await.unwrap();
    let one = next(&mut live, "event").await;
    drop(live);
    publish("two").await;
    let cursor = one.id.unwrap();
    assert!(one.data.contains(&cursor));
    let mut resumed = open(&format!("{path}&after={cursor}")).await.unwrap();
    let two: LiveEvent = next(&mut resumed, "event").await.decode().unwrap();
    assert_eq!(reason(&two.event), "two");
    drop(resumed);
    // Before the first event, the cursor is the start of the stream.
    let now = "/v1/peers/bob/events/live?services=social";
    let mut silent = open(now).await.unwrap();
    let start = next(&mut silent, "state").await.id.unwrap();
    drop(silent);
    publish("three").await;
    let mut resumed = open(&format!("{now}&after={start}")).await.unwrap();
    let three: LiveEvent = next(&mut resumed, "event").await.decode().unwrap();
    assert_eq!(reason(&three.event), "three");
    drop(resumed);
    match open(&format!("{path}&after=nonsense")).await.unwrap_err() {
        CallError::Problem(problem) => assert_eq!(problem.status, 400),
        error => panic!("{error}"),
    }
    scene.end().await;
}

#[tokio::test]
async fn the_ledger_is_counted_again_once_something_is_new() {
    let scene = Scene::new().await;
    let summary = async || {
        let summary: LedgerSummary = scene.client.get("/v1/ledger").await.unwrap();
        summary
    };
    let social = |summary: &LedgerSummary| {
        let mut services = summary.services.iter();
        services
            .find(|size| size.service == "social")
            .map(|size| size.events)
    };
    assert_eq!(social(&summary().await), None);
    let _: Event = scene
        .client
        .send(Method::POST, "/v1/events", &said("one"))
        .await
        .unwrap();
    // It may be as old as the cache allows.
    while social(&summary().await) != Some(1) {
        tokio::task::yield_now().await;
    }
    let (one, two) = (summary().await, summary().await);
    assert_eq!(one, two);
    assert!(one.counted_at_ms > 0);
    scene.end().await;
}
