//! The signature inside an answer, which is only needed if nothing else binds the answer to its request.

use http::{HeaderMap, Response};
use nara_mesh::client::{ClientError, Verification};
use nara_mesh::identity::LocalNara;
use nara_mesh::transport::TcpTransport;
use nara_proto::go_json;
use nara_proto::sync::{SyncRequest, SyncResponse};
use nara_proto::v1::RequestAuth;

use crate::answers::{sign, sign_v1};
use crate::fake_peer::{Answer, FakePeer, Received};
use crate::support::{Bob, NOW, client_of_bob, free_port, nara, sync_headers};

/// Returns bob's answer to a request with these headers.
async fn answer_of_bob(headers: &HeaderMap) -> SyncResponse {
    let bob = Bob::start(|builder| builder).await;
    let answer = bob.sync(headers);
    assert_eq!(answer.status, 200, "{}", answer.text());
    go_json::from_slice(&answer.body).unwrap()
}

/// Returns the verdict of alice's client on this answer of a peer that it believes to be bob.
async fn verdict(
    answer: SyncResponse,
    sign: fn(&mut Response<bytes::Bytes>, &Received),
) -> Result<Verification, ClientError> {
    let peer = FakePeer::start(TcpTransport, free_port(), move |request| {
        let mut response = Response::new(go_json::to_body(&answer).into());
        sign(&mut response, request);
        Answer::With(response)
    })
    .await;
    let (client, bob) = (client_of_bob(peer.address), nara("bob"));
    let fetched = client
        .fetch_sync_events(bob.id(), SyncRequest::recent(10))
        .await?;
    Ok(fetched.verification().clone())
}

fn v1_signed(response: &mut Response<bytes::Bytes>, _: &Received) {
    sign_v1(response);
}

fn unsigned(from: &str) -> SyncResponse {
    SyncResponse::unsigned(from, Vec::new(), NOW.to_seconds())
}

fn signed(by: &LocalNara) -> SyncResponse {
    SyncResponse::signed("bob", Vec::new(), NOW.to_seconds(), by.keypair())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_only_request_gets_no_inner_signature() {
    let answer = answer_of_bob(&sync_headers(|_| {})).await;
    assert_eq!((answer.from.as_str(), answer.sig.as_str()), ("bob", ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_v1_signature_gets_an_inner_signature() {
    let alice = nara("alice");
    let v1_signed = RequestAuth::sign(alice.keypair(), alice.name(), NOW, "POST", "/events/sync");
    let mut both = sync_headers(|_| {});
    v1_signed.write_to(&mut both);
    let mut alone = HeaderMap::new();
    v1_signed.write_to(&mut alone);
    for headers in [alone, both] {
        let answer = answer_of_bob(&headers).await;
        answer.verify(&nara("bob").public_key()).unwrap();
    }
}

#[tokio::test]
async fn a_bound_answer_needs_no_inner_signature() {
    let proof = verdict(unsigned("bob"), sign).await.unwrap();
    assert!(proof.header && proof.bound && !proof.inner);
}

#[tokio::test]
async fn an_unbound_answer_needs_an_inner_signature() {
    let error = verdict(unsigned("bob"), v1_signed).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    let proof = verdict(signed(&nara("bob")), v1_signed).await.unwrap();
    assert!(proof.header && !proof.bound && proof.inner);
}

#[tokio::test]
async fn an_inner_signature_must_be_valid_if_present() {
    let error = verdict(signed(&nara("carol")), sign).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    let proof = verdict(signed(&nara("bob")), sign).await.unwrap();
    assert!(proof.header && proof.bound && proof.inner);
}

#[tokio::test]
async fn an_answer_in_the_name_of_another_is_refused_without_an_inner_signature() {
    let error = verdict(unsigned("carol"), sign).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
}
