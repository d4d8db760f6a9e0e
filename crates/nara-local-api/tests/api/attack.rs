//! What a local program must not achieve: see docs/threat-model.md.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request};
use nara_local_api::client::LocalClient;
use nara_local_api::model::InboxPage;
use nara_local_api::server::{Inbox, ListenError, LocalApi};
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::time::UnixNanos;
use nara_proto::world::WorldMessage;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::scene::Scene;

/// Sends raw bytes, and returns the whole answer.
async fn raw(scene: &Scene, request: &str) -> String {
    let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn close(request: &str) -> String {
    format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn only_the_owner_can_connect_and_a_second_process_cannot_take_the_socket() {
    let scene = Scene::new().await;
    let mode = std::fs::metadata(&scene.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = LocalApi::builder(scene.alice.clone()).start();
    assert!(matches!(
        second.listen(&scene.socket),
        Err(ListenError::InUse { .. })
    ));
    drop(second);
    assert!(scene.client.status().await.is_ok());
    let long = scene.socket.with_file_name("x".repeat(200));
    assert!(matches!(
        scene.api.listen(&long),
        Err(ListenError::TooLong { .. })
    ));
    let socket = scene.socket.clone();
    scene.end().await;
    assert!(!socket.exists());
    // A stale socket is replaced.
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let scene = Scene::new().await;
    scene.api.listen(&left).unwrap();
    assert!(LocalClient::new(&left).status().await.is_ok());
    scene.end().await;
}

#[tokio::test]
async fn tricks_with_paths_do_not_leave_what_was_asked_for() {
    let scene = Scene::new().await;
    for path in [
        "/v1/peers/bob/http/../../../status",
        "/v1/peers/bob/http/%2e%2e/status",
        "/v1/peers/bob/http/a%2fb",
        "/v1/peers/bob/http/a%5cb",
        "/v1/peers/bob/http/%00",
        "/v1/peers/bob/http/a/..;/b",
        "/v1/peers/bob/http/a/%2E%2e%3bx/b",
        "http://evil.example/v1/peers/bob/http/a/../b",
        "/v1/peers/%2e%2e/http/%2e%2e/b",
    ] {
        let answer = raw(&scene, &close(&format!("GET {path}"))).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("invalid_request"),
            "{path}: {answer}"
        );
    }
    for path in [
        "/v1/../v1/status",
        "//v1/status",
        "/v1/status/",
        "/v2/status",
        "/",
    ] {
        let answer = raw(&scene, &close(&format!("GET {path}"))).await;
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("no_such_path"),
            "{path}: {answer}"
        );
    }
    let answer = raw(&scene, &close("POST /v1/status")).await;
    assert!(
        answer.starts_with("HTTP/1.1 405") && answer.contains("no_such_method"),
        "{answer}"
    );
    scene.end().await;
}

#[tokio::test]
async fn headers_that_prove_something_cannot_be_forged() {
    let scene = Scene::new().await;
    let request = Request::get("/")
        .header("x-nara-sender", "root")
        .header("x_nara_sender", "root")
        .header("x-nara-coverage", "whole")
        .header("signature", "sig=:AA==:")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .header("x-kept", "1")
        .body(Bytes::new())
        .unwrap();
    let answer = scene.client.request_peer("bob", request).await.unwrap();
    let told = std::str::from_utf8(answer.body()).unwrap();
    let headers: Vec<&str> = told.lines().nth(1).unwrap().split(' ').collect();
    assert!(headers.contains(&"x-kept"), "{told}");
    for name in ["x-nara-sender", "x_nara_sender", "x-secret"] {
        assert!(!headers.contains(&name), "{told}");
    }
    // The parser rejects conflicting lengths.
    let smuggled = "POST /v1/peers/bob/http/ HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\
                    connection: close\r\n\r\n0\r\n\r\nGET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(&scene, smuggled).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    scene.end().await;
}

/// Returns what bob received, for a body with an explicit length.
async fn told(scene: &Scene, head: &str, body: &str) -> String {
    let request =
        format!("POST /v1/peers/bob/http/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n{body}");
    raw(scene, &request).await
}

#[tokio::test]
async fn a_request_that_two_readers_would_split_differently_is_not_split() {
    let scene = Scene::new().await;
    let second = "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let length = |value: usize| format!("content-length: {value}\r\n");
    let (zero, whole) = (length(0), length(second.len()));
    for head in [
        format!("{zero}{whole}"),
        format!("{whole}{zero}"),
        "content-length: 0, 5\r\n".to_owned(),
        "content-length: +5\r\n".to_owned(),
        "content-length: 0x5\r\n".to_owned(),
        format!("content-length : 5\r\n{zero}"),
        format!("{whole}transfer-encoding: chunked\r\n"),
        format!("{whole}transfer-encoding: identity, chunked\r\n"),
        format!("{whole}transfer-encoding : chunked\r\n"),
        format!("{whole}transfer-encoding:\r\n chunked\r\n"),
        "transfer-encoding: chunked, identity\r\n".to_owned(),
        "transfer-encoding: xchunked\r\n".to_owned(),
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".to_owned(),
    ] {
        for body in [
            second.to_owned(),
            format!("0\r\n\r\n{second}"),
            format!("0;\n\r\n{second}"),
            format!("fffffffffffffffff\r\n{second}"),
        ] {
            let answer = told(&scene, &head, &body).await;
            assert!(answer.matches("HTTP/1.").count() <= 1, "{head}{body}: {answer}");
            assert!(!answer.contains("started_at_ms"), "{head}{body}: {answer}");
        }
    }
    assert!(scene.client.status().await.is_ok());
    scene.end().await;
}

#[tokio::test]
async fn what_is_about_one_connection_does_not_reach_a_peer_nor_do_trailers() {
    let scene = Scene::new().await;
    let head = "connection: x-nara-from, X-Secret\r\nx-nara-from: root\r\nx-secret: 1\r\nx-kept: 1\r\n\
                upgrade: websocket\r\nexpect: 100-continue\r\nte: trailers\r\nkeep-alive: timeout=5\r\n\
                proxy-authorization: Basic eA==\r\nproxy-connection: keep-alive\r\nhttp2-settings: AAAA\r\n\
                trailer: x-nara-sender\r\ntransfer-encoding: chunked\r\n";
    let body = "3\r\nabc\r\n0\r\nx-nara-sender: root\r\nx-secret: 1\r\n\r\n";
    let answer = told(&scene, head, body).await;
    let (_, answer) = answer.split_once("HTTP/1.1 418").unwrap();
    let (_, told) = answer.split_once("\r\n\r\n").unwrap();
    assert!(told.contains("POST / from alice abc"), "{told}");
    assert!(told.contains("x-kept"), "{told}");
    for gone in [
        "x-nara-from",
        "x-nara-sender",
        "x-secret",
        "upgrade",
        "expect",
        "keep-alive",
        "proxy-",
        "http2-settings",
        "trailer",
    ] {
        assert!(!told.contains(gone), "{gone}: {told}");
    }
    // Upgrades are not offered.
    let upgrade = "GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n";
    assert!(raw(&scene, upgrade).await.starts_with("HTTP/1.1 200"));
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert!(!raw(&scene, preface).await.contains("200"));
    scene.end().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_or_not_json_is_a_problem() {
    let scene = Scene::new().await;
    let large = "x".repeat(2 << 20);
    for (body, status) in [(large.as_str(), "413"), ("{", "400"), ("{\"txt\":1}", "422")] {
        let request = format!(
            "POST /v1/peers/bob/dm HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        // The server may answer before everything is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
    scene.end().await;
}

#[tokio::test]
async fn too_many_connections_are_told_so_and_those_that_are_there_work_on() {
    let scene = Scene::with(|builder| builder.max_connections(2)).await;
    let mut held = scene
        .client
        .events(Method::GET, "/v1/events/live?since_ms=0")
        .await
        .unwrap();
    held.next().await.unwrap().unwrap();
    let second = UnixStream::connect(&scene.socket).await.unwrap();
    // The server has accepted it once another one is refused.
    let refused = raw(&scene, &close("GET /v1/status")).await;
    assert!(
        refused.starts_with("HTTP/1.1 503") && refused.contains("too_many_connections"),
        "{refused}"
    );
    drop(second);
    let said = Payload::Social(SocialPayload {
        kind: "gossip".to_owned(),
        actor: "alice".to_owned(),
        target: "bob".to_owned(),
        ..SocialPayload::default()
    });
    scene.alice.publish(said).await.unwrap();
    loop {
        let event = held.next().await.unwrap().unwrap();
        if event.data.contains("gossip") {
            break;
        }
    }
    drop(held);
    scene.end().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_holds_up_nobody() {
    let scene = Scene::new().await;
    let mut stuck = UnixStream::connect(&scene.socket).await.unwrap();
    let request = "GET /v1/events/live?since_ms=0 HTTP/1.1\r\nhost: x\r\n\r\n";
    stuck.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stuck.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut watching = scene.client.events(Method::GET, "/v1/events/live").await.unwrap();
    // More than the buffers of a socket hold.
    let text = "x".repeat(2000);
    for number in 0..500 {
        let said = Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: "alice".to_owned(),
            target: "bob".to_owned(),
            reason: format!("{number} {text}"),
            ..SocialPayload::default()
        });
        scene.alice.publish(said).await.unwrap();
    }
    let mut seen = 0;
    while seen < 500 {
        let event = watching.next().await.unwrap().unwrap();
        seen += usize::from(event.name == "event");
    }
    assert!(scene.client.status().await.is_ok());
    drop(watching);
    // Nor does it delay shutdown.
    let ended = tokio::time::timeout(Duration::from_secs(60), scene.end()).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn bodies_that_do_not_come_take_the_room_of_others_only_while_they_are_waited_for() {
    let scene = Scene::new().await;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        let request = "POST /v1/peers/bob/http/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                       x-nara-timeout-ms: 600000\r\n\r\n3\r\nabc\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let send = |body: &'static str| {
        let client = scene.client.clone();
        async move {
            let request = Request::post("/")
                .body(Bytes::from_static(body.as_bytes()))
                .unwrap();
            client.request_peer("bob", request).await.unwrap().status()
        }
    };
    // Memory is exhausted once the nara has read all of them.
    let room = async || {
        let limits = scene.client.status().await.unwrap().limits;
        let bodies = limits.iter().find(|limit| limit.name == "body_bytes").unwrap();
        bodies.most - bodies.used
    };
    while room().await > 0 {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::spawn(send("x"));
    // Requests without a body need no memory, and neither do other endpoints.
    assert_eq!(send("").await, 418);
    assert!(scene.client.status().await.is_ok());
    held.pop();
    assert_eq!(waiting.await.unwrap(), 418);
    drop(held);
    scene.end().await;
}

#[tokio::test]
async fn streamed_bodies_that_do_not_come_leave_the_room_to_others() {
    let scene = Scene::new().await;
    let begin = async || {
        let mut stream = UnixStream::connect(&scene.socket).await.unwrap();
        let request = "POST /v1/peers/bob/http/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\
                       x-nara-stream: ?1\r\nx-nara-timeout-ms: 600000\r\n\r\n3\r\nabc\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let used = async |name: &str| {
        let limits = scene.client.status().await.unwrap().limits;
        limits.iter().find(|limit| limit.name == name).unwrap().used
    };
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(begin().await);
    }
    while used("uploads").await < 16 {
        tokio::task::yield_now().await;
    }
    assert_eq!(used("body_bytes").await, 0);
    // Requests that are not streamed, and small ones, are still served.
    for (body, stream) in [("x", "?0"), ("x", "?1"), ("", "?1")] {
        let request = Request::post("/").header("x-nara-stream", stream);
        let request = request.body(Bytes::from_static(body.as_bytes())).unwrap();
        let answer = scene.client.request_peer("bob", request).await.unwrap();
        assert_eq!(answer.status(), 418, "{stream}");
    }
    // Another streamed body waits until one of them ends.
    held.remove(0);
    let mut another = begin().await;
    another.write_all(b"0\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    another.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 418");
    drop((held, another));
    scene.end().await;
}

#[tokio::test]
async fn one_that_floods_drops_its_own_messages() {
    let inbox = Inbox::default();
    let flooded = inbox.clone();
    let scene = Scene::with(move |builder| builder.inbox(flooded)).await;
    let postcards = |from: &str, count: i64| {
        for number in 0..count {
            inbox.postcard(&WorldMessage::new(from, "hello", UnixNanos::new(number)), false);
        }
    };
    let page = async || {
        let page: InboxPage = scene.client.get("/v1/inbox?limit=1024").await.unwrap();
        page
    };
    postcards("carol", 1);
    postcards("bob", 2000);
    let flooded = page().await;
    assert_eq!((flooded.messages.len(), flooded.dropped), (1 + 256, 2000 - 256));
    assert_eq!(flooded.messages[0].from, "carol");
    // All of them together do not fill the memory.
    for sender in 0..20 {
        postcards(&format!("nara-{sender}"), 200);
    }
    let full = page().await;
    assert_eq!(
        (full.messages.len(), full.dropped),
        (1024, 1 + 2000 + 20 * 200 - 1024)
    );
    let large = WorldMessage::new("dave", &"x".repeat(8 << 20), UnixNanos::new(1));
    inbox.postcard(&large, false);
    // A message larger than the whole inbox displaces none.
    let afterwards = page().await;
    assert_eq!(
        (afterwards.messages.len(), afterwards.dropped),
        (1024, full.dropped + 1)
    );
    assert!(afterwards.messages.iter().all(|message| message.from != "dave"));
    scene.end().await;
}
