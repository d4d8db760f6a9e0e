//! The authentication of requests.

use std::net::SocketAddr;
use std::time::Duration;

use nara_mesh::server::ServerLimits;
use nara_proto::time::UnixMillis;

use crate::raw_http;
use crate::support::{LOOPBACK, NOW, Target, nara, request, seen, signed};

const SYNC: &[u8] = br#"{"from":"alice","mode":"recent"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_one_of_the_headers_is_refused() {
    let target = Target::start().await;
    for missing in 0..3 {
        let mut headers = signed(&nara("alice"), NOW, "POST", "/dm");
        headers.remove(missing);
        let answer = target.send(&request("POST", "/dm", &headers, b"{}"));
        assert_eq!(answer.status, 401);
        assert_eq!(answer.text(), "Authentication failed: missing auth headers\n");
        assert_eq!(
            answer.header("content-type").unwrap(),
            "text/plain; charset=utf-8"
        );
        assert_eq!(answer.header("x-content-type-options").unwrap(), "nosniff");
        assert_eq!(answer.header("x-nara-signature"), None, "refusals are not signed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_header_is_refused() {
    let target = Target::start().await;
    for repeated in 0..3 {
        let mut headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
        headers.push(headers[repeated].clone());
        let answer = target.send(&request("POST", "/events/sync", &headers, SYNC));
        assert_eq!(answer.status, 401);
        assert!(answer.text().contains("is repeated"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_thirty_seconds_either_way() {
    let target = Target::start().await;
    let at = |offset| {
        let headers = signed(
            &nara("alice"),
            UnixMillis::new(NOW.get() + offset),
            "POST",
            "/events/sync",
        );
        target.send(&request("POST", "/events/sync", &headers, SYNC))
    };
    assert_eq!(at(-30_000).status, 200);
    assert_eq!(at(30_000).status, 200);
    for stale in [-30_001, 30_001] {
        let answer = at(stale);
        assert_eq!(answer.status, 401);
        assert!(
            answer
                .text()
                .starts_with("Authentication failed: timestamp too old or in future")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_signed_cannot_be_changed() {
    let target = Target::start().await;
    let refused = |headers: &[(String, Vec<u8>)], method: &str, path: &str| {
        let answer = target.send(&request(method, path, headers, SYNC));
        assert_eq!(answer.status, 401);
        assert_eq!(
            answer.text(),
            "Authentication failed: signature verification failed\n"
        );
    };
    let genuine = signed(&nara("alice"), NOW, "POST", "/events/sync");
    for (name, forged) in [("x-nara-name", "bob"), ("x-nara-timestamp", "1769100000251")] {
        let mut headers = genuine.clone();
        let header = headers.iter_mut().find(|(known, _)| known == name).unwrap();
        header.1 = forged.into();
        refused(&headers, "POST", "/events/sync");
    }
    refused(&genuine, "PUT", "/events/sync");
    refused(&genuine, "POST", "/gossip/zine");
    assert_eq!(
        target
            .send(&request("POST", "/events/sync", &genuine, SYNC))
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_request_is_refused() {
    let target = Target::start().await;
    let alice = nara("alice");
    let headers = signed(&alice, NOW, "POST", "/dm");
    let dm = |via| nara_proto::go_json::to_vec(&seen(&alice, "bob", via, NOW.to_nanos()));
    assert_eq!(
        target.send(&request("POST", "/dm", &headers, &dm("mesh"))).status,
        200
    );
    // Another body would be another message, since inner bodies are signed; this one was received before.
    let replayed = target.send(&request("POST", "/dm", &headers, &dm("mesh")));
    assert_eq!(replayed.status, 401);
    assert_eq!(replayed.text(), "Authentication failed: replayed request\n");
    assert_eq!(target.count().await, 1);
    // After the window it is stale.
    target.clock.advance(Duration::from_millis(30_001));
    let stale = target.send(&request("POST", "/dm", &headers, &dm("zine")));
    assert!(stale.text().contains("too old"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_sync_request_is_fine_from_its_source_only() {
    let target = Target::start().await;
    let headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
    let bytes = request("POST", "/events/sync", &headers, SYNC);
    assert_eq!(target.send(&bytes).status, 200);
    assert_eq!(
        target.send(&bytes).status,
        200,
        "v1 peers may ask twice in a millisecond"
    );

    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = elsewhere.connect(target.address()).await.unwrap();
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    std::io::Write::write_all(&mut stream, &bytes).unwrap();
    let answer = raw_http::read_response(&mut stream, false).unwrap().unwrap();
    assert_eq!(answer.text(), "Authentication failed: replayed request\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_replay_cache_refuses_instead_of_forgetting() {
    let target = Target::start_with(|builder| {
        let mut limits = ServerLimits::default();
        limits.replay_capacity = 2;
        builder.limits(limits)
    })
    .await;
    let alice = nara("alice");
    assert_eq!(target.post(&alice, "/events/sync", SYNC).status, 200);
    assert_eq!(target.post(&alice, "/events/sync", SYNC).status, 200);
    assert_eq!(target.post(&alice, "/events/sync", SYNC).status, 503);
    target.clock.advance(Duration::from_secs(40));
    assert_eq!(target.post(&alice, "/events/sync", SYNC).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_request_cannot_fill_the_replay_cache() {
    let target = Target::start_with(|builder| {
        let mut limits = ServerLimits::default();
        limits.replay_capacity = 1;
        builder.limits(limits)
    })
    .await;
    for _ in 0..3 {
        let mut headers = signed(&nara("alice"), NOW, "POST", "/events/sync");
        headers[0].1 = b"bob".to_vec();
        assert_eq!(
            target
                .send(&request("POST", "/events/sync", &headers, SYNC))
                .status,
            401
        );
    }
    assert_eq!(target.post(&nara("alice"), "/events/sync", SYNC).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_verified_header_proves_nothing() {
    let target = Target::start().await;
    let forged = ("X-Nara-Verified".to_owned(), b"bob".to_vec());
    let answer = target.send(&request("POST", "/dm", std::slice::from_ref(&forged), b"{}"));
    assert_eq!(answer.status, 401);

    let alice = nara("alice");
    let mut headers = signed(&alice, NOW, "POST", "/dm");
    headers.push(forged);
    let dm = nara_proto::go_json::to_vec(&seen(&alice, "bob", "mesh", NOW.to_nanos()));
    assert_eq!(target.send(&request("POST", "/dm", &headers, &dm)).status, 200);
    assert_eq!(*target.senders.0.lock().unwrap(), ["alice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_method_is_checked_after_the_signature_and_its_refusal_is_signed() {
    let target = Target::start().await;
    assert_eq!(target.send(&request("GET", "/dm", &[], b"")).status, 401);
    let headers = signed(&nara("alice"), NOW, "GET", "/dm");
    let answer = target.send(&request("GET", "/dm", &headers, b""));
    assert_eq!(answer.status, 405);
    assert_eq!(answer.text(), "Method not allowed\n");
    assert!(target.signed_answer(&answer));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_path_is_the_same_route() {
    let target = Target::start().await;
    let headers = signed(&nara("alice"), NOW, "POST", "/events/syn%63");
    assert_eq!(
        target
            .send(&request("POST", "/events/syn%63", &headers, SYNC))
            .status,
        200
    );
    assert_eq!(
        target
            .send(&request("POST", "/events%2Fsync", &headers, SYNC))
            .status,
        404
    );
    let redirect = target.send(&request("POST", "//dm?x=1", &headers, SYNC));
    assert_eq!(redirect.status, 307);
    assert_eq!(redirect.header("location").unwrap(), "/dm?x=1");
    assert!(redirect.body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_request_is_a_sign_of_life() {
    let target = Target::start().await;
    let alice = nara("alice");
    let address = SocketAddr::new(LOOPBACK, 1);
    let peer = target
        .registry
        .register(crate::support::known(&alice, Some(address)))
        .unwrap();
    let client = nara_mesh::client::MeshClient::builder(nara("target"))
        .registry(target.registry.clone())
        .build();
    assert!(client.ping(alice.id()).await.unwrap_err().is_unreachable());
    assert_ne!(peer.breaker_state(), nara_proto::breaker::BreakerState::Closed);
    assert_eq!(target.post(&alice, "/events/sync", SYNC).status, 200);
    assert_eq!(peer.breaker_state(), nara_proto::breaker::BreakerState::Closed);
}
