//! The server's verdicts on signed requests.

use std::time::Duration;

use nara_mesh::Signatures;
use nara_mesh::registry::PeerEvent;
use nara_mesh::tls::TlsPolicy;
use nara_proto::identity::NaraId;
use nara_proto::time::UnixMillis;
use nara_proto::v1::RequestAuth;
use nara_proto::v2::{
    ChannelBinding, ContentDigest, Recipient, RequestLine, ResponseSignature, SignedBody, SignedField,
};

use crate::naras::nara_with_seed;
use crate::raw_http::RawResponse;
use crate::support::{Bob, NOW, SYNC, SYNC_LINE, headers, nara, signed_by, sync_headers};

fn assert_refused(answer: &RawResponse, status: u16, reason: &str) {
    assert_eq!(
        (answer.status, answer.text().contains(reason)),
        (status, true),
        "{}",
        answer.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_is_answered_by_a_signature_for_it() {
    let bob = Bob::start(|builder| builder).await;
    let signed = signed_by(&nara("alice"), SYNC_LINE, SYNC, |_| {});
    let answer = bob.sync(&headers(&signed));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-nara-signature"), None, "it was not requested");
    let proof = ResponseSignature::from_headers(&answer.header_map()).unwrap();
    let key = nara("bob").public_key();
    proof.check_key(&key).unwrap();
    proof.digest().unwrap().check(&answer.body).unwrap();
    proof
        .verify_signature(&key, http::StatusCode::OK, signed.signature())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_answer_is_signed_for_its_request() {
    let bob = Bob::start(|builder| builder).await;
    let signed = signed_by(
        &nara("alice"),
        RequestLine {
            method: "PUT",
            ..SYNC_LINE
        },
        SYNC,
        |_| {},
    );
    let answer = bob.send("PUT", "/events/sync", &headers(&signed), SYNC);
    assert_eq!(answer.status, 405);
    let proof = ResponseSignature::from_headers(&answer.header_map()).unwrap();
    let status = http::StatusCode::METHOD_NOT_ALLOWED;
    proof
        .verify_signature(&nara("bob").public_key(), status, signed.signature())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_signed_the_way_it_was_asked_for() {
    let bob = Bob::start(|builder| builder).await;
    let alice = nara("alice");
    let mut both = sync_headers(|_| {});
    RequestAuth::sign(alice.keypair(), alice.name(), NOW, "POST", "/events/sync").write_to(&mut both);
    let answer = bob.sync(&both);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("signature").is_some() && answer.header("x-nara-signature").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_is_refused() {
    let bob = Bob::start(|builder| builder).await;
    let swapped: [&[u8]; 3] = [br#"{"from":"alice","mode":"sample"}"#, b"", b"{}"];
    for body in swapped {
        let answer = bob.send("POST", "/events/sync", &sync_headers(|_| {}), body);
        assert_refused(&answer, 400, "The body does not match the signed");
    }
    let none = sync_headers(|request| request.body = SignedBody::Digest(ContentDigest::of(b"")));
    assert_refused(&bob.sync(&none), 400, "The body does not match the signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_of_an_unread_body_is_checked() {
    let bob = Bob::start(|builder| builder).await;
    let line = RequestLine {
        method: "GET",
        path: "/events/stream",
        query: None,
    };
    let signed = signed_by(&nara("alice"), line, b"not there", |_| {});
    let answer = bob.send("GET", "/events/stream", &headers(&signed), b"");
    assert_refused(&answer, 400, "The body does not match the signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_method_path_or_query_is_refused() {
    let bob = Bob::start(|builder| builder).await;
    let bad = "Authentication failed: signature verification failed";
    for (method, target) in [
        ("PUT", "/events/sync"),
        ("POST", "/gossip/zine"),
        ("POST", "/events/sync?services=seen"),
    ] {
        assert_refused(&bob.send(method, target, &sync_headers(|_| {}), SYNC), 401, bad);
    }
    let line = RequestLine {
        query: Some("a=1"),
        ..SYNC_LINE
    };
    let with_query = headers(&signed_by(&nara("alice"), line, SYNC, |_| {}));
    assert_refused(&bob.send("POST", "/events/sync?a=2", &with_query, SYNC), 401, bad);
    assert_refused(&bob.send("POST", "/events/sync", &with_query, SYNC), 401, bad);
    assert_eq!(
        bob.send("POST", "/events/sync?a=1", &with_query, SYNC).status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_another_nara_is_refused() {
    let bob = Bob::start(|builder| builder).await;
    let carol = nara("carol");
    for other in [
        Recipient::Id(carol.id().clone()),
        Recipient::Name(carol.name().clone()),
    ] {
        let headers = sync_headers(|request| request.to = &other);
        assert_refused(&bob.sync(&headers), 401, "signed for another nara");
        let mut redirected = headers;
        redirected.insert(SignedField::To.header(), "bob".parse().unwrap());
        assert_refused(&bob.sync(&redirected), 401, "signature verification failed");
    }
    let by_name = Recipient::Name("bob".parse().unwrap());
    assert_eq!(
        bob.sync(&sync_headers(|request| request.to = &by_name)).status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_refused_until_it_is_stale() {
    let bob = Bob::start(|builder| builder).await;
    let headers = sync_headers(|_| {});
    assert_eq!(bob.sync(&headers).status, 200);
    // A v1 signature may arrive twice from one source on this endpoint; a v2 signature never needs to.
    assert_refused(&bob.sync(&headers), 401, "replayed request");
    bob.clock.advance(Duration::from_secs(30));
    assert_refused(&bob.sync(&headers), 401, "replayed request");
    bob.clock.advance(Duration::from_secs(1));
    assert_refused(&bob.sync(&headers), 401, "one of the two clocks is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_time_says_both_times() {
    let bob = Bob::start(|builder| builder).await;
    for (offset, direction) in [(-31_000, "31 s behind"), (31_000, "31 s ahead of")] {
        let headers = sync_headers(|request| request.now = UnixMillis::new(NOW.get() + offset));
        let answer = bob.sync(&headers);
        assert_refused(&answer, 401, direction);
        let signed_at = UnixMillis::new(NOW.get() + offset).to_seconds().to_string();
        assert_refused(&answer, 401, &signed_at);
        assert_refused(&answer, 401, &NOW.to_seconds().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_before_the_start_is_refused() {
    let alice = nara("alice");
    let started = UnixMillis::new(NOW.get() - 10_000);
    let v1 = |at| {
        let mut headers = http::HeaderMap::new();
        RequestAuth::sign(alice.keypair(), alice.name(), at, "POST", "/events/sync").write_to(&mut headers);
        headers
    };
    let v2 = |at| {
        sync_headers(|request| {
            request.now = at;
            request.nonce = nara_proto::v2::Nonce::new(at, [9; 10]);
        })
    };
    // In the same second: the nonce of v2 has milliseconds, too.
    let before = UnixMillis::new(started.get() - 1);
    let clock = || std::sync::Arc::new(nara_mesh::clock::ManualClock::new(started.to_nanos()));
    let bob = Bob::start(|builder| builder.clock(clock())).await;
    assert_refused(&bob.sync(&v1(before)), 401, "signed before this nara started");
    assert_refused(&bob.sync(&v2(before)), 401, "signed before this nara started");
    assert_eq!(bob.sync(&v1(started)).status, 200);
    assert_eq!(bob.sync(&v2(started)).status, 200);
    let lenient = Bob::start(|builder| builder.clock(clock()).refuse_before_start(false)).await;
    assert_eq!(lenient.sync(&v2(before)).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_v2_signature_is_not_forgiven_for_a_good_inherited_one() {
    let bob = Bob::start(|builder| builder).await;
    let alice = nara("alice");
    for spoilt in ["signature", "signature-input", "content-digest", "x-nara-to"] {
        let mut headers = sync_headers(|_| {});
        RequestAuth::sign(alice.keypair(), alice.name(), NOW, "POST", "/events/sync").write_to(&mut headers);
        headers.remove(spoilt);
        let answer = bob.sync(&headers);
        assert_refused(&answer, 401, "is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_for_a_secure_channel_is_refused_on_another_connection() {
    let bob = Bob::start(|builder| builder).await;
    let headers = sync_headers(|request| request.channel = Some(ChannelBinding::new([1; 32])));
    assert_refused(&bob.sync(&headers), 401, "signed for another connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_pinned_one_is_refused() {
    let bob = Bob::start(|builder| builder).await;
    let impostor = nara_with_seed("alice", 99);
    let headers = headers(&signed_by(&impostor, SYNC_LINE, SYNC, |_| {}));
    assert_refused(&bob.sync(&headers), 401, "is pinned for this name");
    let stranger = nara("mallory");
    let headers = crate::support::headers(&signed_by(&stranger, SYNC_LINE, SYNC, |_| {}));
    assert_refused(&bob.sync(&headers), 401, "unknown sender: mallory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_has_proven_v2_is_refused_with_v1() {
    let bob = Bob::start(|builder| builder).await;
    let alice = nara("alice");
    let mut v1_headers = http::HeaderMap::new();
    RequestAuth::sign(alice.keypair(), alice.name(), NOW, "POST", "/events/sync").write_to(&mut v1_headers);
    assert_eq!(bob.sync(&v1_headers).status, 200);

    let mut events = bob.registry.subscribe();
    assert_eq!(bob.sync(&sync_headers(|_| {})).status, 200);
    assert!(matches!(events.try_recv(), Ok(PeerEvent::ProtocolLearned(peer)) if peer.protocol.v2));

    let mut stripped = http::HeaderMap::new();
    let later = UnixMillis::new(NOW.get() + 1);
    RequestAuth::sign(alice.keypair(), alice.name(), later, "POST", "/events/sync").write_to(&mut stripped);
    assert_refused(&bob.sync(&stripped), 401, "signed with RFC 9421 before");
    let downgrade = events.try_recv().unwrap();
    assert!(
        matches!(&downgrade, PeerEvent::Downgrade { peer, .. } if peer.name.as_ref() == Some(alice.name())),
        "{downgrade:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unverified_v2_request_proves_no_protocol() {
    let bob = Bob::start(|builder| builder).await;
    let mut events = bob.registry.subscribe();
    let impostor = nara_with_seed("alice", 99);
    let headers = headers(&signed_by(&impostor, SYNC_LINE, SYNC, |_| {}));
    assert_eq!(bob.sync(&headers).status, 401);
    assert!(!bob.registry.by_name("alice").unwrap().protocol().v2);
    assert!(events.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_v2_accepts_v1_signatures_only() {
    let bob = Bob::start(|builder| builder.signatures(Signatures::V1Only)).await;
    let alice = nara("alice");
    let mut both = sync_headers(|_| {});
    assert_refused(&bob.sync(&both), 401, "missing auth headers");
    RequestAuth::sign(alice.keypair(), alice.name(), NOW, "POST", "/events/sync").write_to(&mut both);
    let answer = bob.sync(&both);
    assert_eq!(answer.status, 200);
    assert!(answer.header("signature").is_none() && answer.header("x-nara-signature").is_some());
    let ping = bob.send("GET", "/ping", &http::HeaderMap::new(), b"");
    assert_eq!(ping.header("x-nara-capability"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_announces_capabilities_without_changing_its_body() {
    let bob = Bob::start(|builder| builder.tls(TlsPolicy::Plain)).await;
    let ping = bob.send("GET", "/ping", &http::HeaderMap::new(), b"");
    let field = ping.header("x-nara-capability").unwrap();
    let id: NaraId = nara("bob").id().clone();
    let port = bob.running.local_addr().port();
    assert!(
        field.starts_with(&format!(
            "id=\"{id}\", signatures=(v2), tls=(), at={NOW}, port={port}, proof=:"
        )),
        "{field}"
    );
    assert!(
        ping.text()
            .starts_with("{\"from\":\"bob\",\"mesh_ip\":\"\",\"public_key\":")
    );
    assert!(ping.text().ends_with(&format!("\"t\":{}}}\n", NOW.to_nanos())));
}
