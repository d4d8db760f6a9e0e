//! Bodies, handlers and answers within bounds.

use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use nara_mesh::server::{RateLimit, RunningServer, ServerLimits, Shutdown};

use crate::support::{Connection, Profile, SIGNED, bob, call, serve};

async fn size(body: Bytes) -> String {
    body.len().to_string()
}

async fn start(change: impl FnOnce(&mut ServerLimits)) -> RunningServer {
    let mut limits = ServerLimits::default();
    change(&mut limits);
    let routes = Router::new()
        .route("/size", post(size))
        .route("/never", get(pending::<StatusCode>))
        .route("/large", get(async || "x".repeat(100)))
        .route(
            "/slow",
            get(async || {
                let silent = stream::once(async { Ok::<_, std::io::Error>("x") }).chain(stream::pending());
                Body::from_stream(silent)
            }),
        );
    serve(
        bob()
            .limits(limits)
            .nest_routes("/b", routes.clone())
            .danger_unsigned_routes("/open", routes),
    )
    .await
}

#[tokio::test]
async fn a_body_has_so_many_bytes() {
    let server = start(|limits| limits.route_body_bytes = 10).await;
    for profile in SIGNED {
        let answer = call(&server, profile, "POST", "/b/size", "0123456789").await;
        assert_eq!(answer.text(), "10", "{profile:?}");
        let answer = call(&server, profile, "POST", "/b/size", "0123456789!").await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{profile:?}");
        assert!(answer.is_proven());
    }
    let answer = call(&server, Profile::Unsigned, "POST", "/open/size", "0123456789!").await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_limit_above_that_of_extractors_holds_for_them() {
    let server = start(|limits| limits.route_body_bytes = 4 << 20).await;
    let mut connection = Connection::open(server.local_addr(), Profile::V2).await;
    let answer = connection.call("POST", "/b/size", vec![b'x'; 3 << 20]).await;
    assert_eq!(answer.text(), (3 << 20).to_string());
}

#[tokio::test]
async fn a_stream_that_a_handler_collects_has_so_many_bytes() {
    let server = start(|limits| limits.route_body_bytes = 10).await;
    let mut connection = Connection::open(server.local_addr(), Profile::Tls).await;
    let (headers, signature) = connection.sign("POST", "/b/size", None, |_| {});
    let pieces = stream::iter(["0123456789", "!"].map(Ok::<_, std::io::Error>));
    let sent = connection.send("POST", "/b/size", headers, signature, Body::from_stream(pieces));
    let answer = sent.await.unwrap().read().await.unwrap();
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up() {
    let server = start(|limits| limits.body_progress = Duration::from_millis(20)).await;
    for (profile, path) in [
        (Profile::V1, "/b/size"),
        (Profile::V2, "/b/size"),
        (Profile::Unsigned, "/open/size"),
    ] {
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let (headers, signature) = connection.sign("POST", path, Some(b"x"), |_| {});
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let sent = connection.send("POST", path, headers, signature, silent);
        let status = sent.await.unwrap().response.status();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{profile:?}");
    }
}

#[tokio::test]
async fn a_handler_has_so_much_time_and_so_has_an_answer_that_is_collected() {
    let server = start(|limits| limits.route_time = Duration::from_millis(20)).await;
    for (profile, path) in [
        (Profile::V1, "/b/never"),
        (Profile::V1, "/b/slow"),
        (Profile::V2, "/b/never"),
        (Profile::Tls, "/b/never"),
        (Profile::V2, "/b/slow"),
        (Profile::Unsigned, "/open/never"),
    ] {
        let answer = call(&server, profile, "GET", path, "").await;
        assert_eq!(
            answer.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{profile:?} {path}"
        );
        assert_eq!(
            answer.is_proven(),
            profile != Profile::Unsigned,
            "{profile:?} {path}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_collected_has_so_many_bytes() {
    for (max, status) in [(100, StatusCode::OK), (99, StatusCode::INTERNAL_SERVER_ERROR)] {
        let server = start(|limits| limits.route_answer_bytes = max).await;
        for profile in [Profile::V1, Profile::V2] {
            let answer = call(&server, profile, "GET", "/b/large", "").await;
            assert_eq!(answer.status, status, "{profile:?}");
            assert!(answer.is_proven());
        }
        let answer = call(&server, Profile::Tls, "GET", "/b/large", "").await;
        assert_eq!(answer.status, StatusCode::OK, "nothing is collected");
    }
}

#[tokio::test]
async fn the_rates_of_peers_and_addresses_hold_for_routes_too() {
    let server = start(|limits| limits.requests_per_peer = Some(RateLimit::new(1, 1))).await;
    assert_eq!(
        call(&server, Profile::V2, "POST", "/b/size", "").await.status,
        StatusCode::OK
    );
    let answer = call(&server, Profile::V2, "POST", "/b/size", "").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.is_proven());

    let server = start(|limits| limits.requests_per_address = Some(RateLimit::new(1, 1))).await;
    assert_eq!(
        call(&server, Profile::V2, "POST", "/b/size", "").await.status,
        StatusCode::OK
    );
    let answer = call(&server, Profile::Unsigned, "POST", "/open/size", "").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn the_bytes_of_bodies_of_a_peer_hold_for_routes_too() {
    let server = start(|limits| limits.body_bytes_in_flight_per_peer = 10).await;
    let answer = call(&server, Profile::V2, "POST", "/b/size", "0123456789!").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(
        answer.text().contains("bytes of request bodies"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_handler_that_never_answers_is_cut_off_at_the_deadline_of_a_shutdown() {
    let server = start(|_| {}).await;
    let address = server.local_addr();
    let calling = tokio::spawn(async move {
        let mut connection = Connection::open(address, Profile::V2).await;
        let (headers, signature) = connection.sign("GET", "/b/never", Some(b""), |_| {});
        connection
            .send("GET", "/b/never", headers, signature, Body::empty())
            .await
            .is_err()
    });
    let mut probe = Connection::open(address, Profile::V2).await;
    assert_eq!(probe.call("POST", "/b/size", "").await.status, StatusCode::OK);
    let ended = server.shutdown(Duration::from_millis(50)).await;
    assert!(matches!(ended, Shutdown::Forced | Shutdown::Graceful));
    assert!(calling.await.unwrap(), "it gets no answer");
}
