//! The client's verdicts on answers.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::{PeerEvent, PeerProtocol};
use nara_mesh::transport::TcpTransport;
use nara_proto::endpoint::EventsSync;
use nara_proto::go_json;
use nara_proto::peer::PingResponse;
use nara_proto::sync::{SyncRequest, SyncResponse};
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuth;
use nara_proto::v2::{
    CAPABILITY_HEADER, Capability, ContentDigest, RequestSignature, ResponseToSign, SIGNATURE_HEADER,
    SIGNATURE_INPUT_HEADER, SignedBody,
};

use crate::fake_peer::{Answer, FakePeer, Received};
use crate::support::{NOW, client, client_of_bob, free_port, nara};

/// A change that a peer makes to its valid answer.
type Change = fn(&mut Response<Bytes>, &Received);

fn body() -> Bytes {
    go_json::to_body(&SyncResponse {
        from: "bob".to_owned(),
        ..SyncResponse::default()
    })
    .into()
}

/// Signs an answer as bob.
pub(crate) fn sign(response: &mut Response<Bytes>, request: &Received) {
    let request = RequestSignature::from_headers(&request.headers).unwrap();
    sign_for(&nara("bob"), response, &request);
}

fn sign_for(bob: &LocalNara, response: &mut Response<Bytes>, request: &RequestSignature) {
    let signed = bob.signer().sign_response(&ResponseToSign {
        status: response.status(),
        body: SignedBody::Digest(ContentDigest::of(response.body())),
        request: request.signature(),
        now: NOW,
    });
    signed.write_to(response.headers_mut());
}

pub(crate) fn sign_v1(response: &mut Response<Bytes>) {
    let bob = nara("bob");
    let auth = ResponseAuth::sign(bob.keypair(), bob.name(), NOW, response.body());
    auth.write_to(response.headers_mut());
}

/// Starts a peer at bob's address that answers as bob and then changes the answer.
async fn peer(change: Change) -> FakePeer {
    FakePeer::start(TcpTransport, free_port(), move |request| {
        let mut response = Response::new(body());
        change(&mut response, request);
        Answer::With(response)
    })
    .await
}

async fn call(client: &MeshClient) -> Result<bool, ClientError> {
    let request = SyncRequest::recent(10);
    let bob = nara("bob");
    let answer = client.peer(bob.id()).call::<EventsSync>(&request).await?;
    assert!(answer.is_verified());
    Ok(answer.verification().bound)
}

fn speaks_v2(client: &MeshClient) -> bool {
    client.registry().by_name("bob").unwrap().protocol().v2
}

#[tokio::test]
async fn an_answer_for_this_question_is_accepted_and_remembered() {
    let peer = peer(sign).await;
    let client = client_of_bob(peer.address);
    assert!(!speaks_v2(&client));
    assert!(call(&client).await.unwrap(), "bound to the question");
    assert!(speaks_v2(&client));
    assert!(call(&client).await.unwrap());
    let [first, second] = &*peer.received() else {
        panic!("two requests")
    };
    assert!(
        first.headers.contains_key("x-nara-signature"),
        "bob might not know better"
    );
    assert!(
        !second.headers.contains_key("x-nara-signature"),
        "bob accepts nothing less"
    );
    assert!(second.headers.contains_key("x-nara-timestamp"));
}

#[tokio::test]
async fn an_answer_that_was_changed_is_refused() {
    let other_question = |response: &mut Response<Bytes>, request: &Received| {
        let mut other = request.clone();
        let signed = RequestSignature::from_headers(&other.headers).unwrap();
        let again = crate::support::signed_by(&nara("alice"), crate::support::SYNC_LINE, b"", |_| {});
        assert_ne!(signed, again);
        again.write_to(&mut other.headers);
        sign(response, &other);
    };
    let other_body = |response: &mut Response<Bytes>, request: &Received| {
        sign(response, request);
        *response.body_mut() = "{}".into();
    };
    let other_status = |response: &mut Response<Bytes>, request: &Received| {
        *response.status_mut() = StatusCode::ACCEPTED;
        sign(response, request);
        *response.status_mut() = StatusCode::OK;
    };
    let other_nara = |response: &mut Response<Bytes>, request: &Received| {
        let request = RequestSignature::from_headers(&request.headers).unwrap();
        sign_for(&nara("carol"), response, &request);
    };
    let other_key = |response: &mut Response<Bytes>, request: &Received| {
        let request = RequestSignature::from_headers(&request.headers).unwrap();
        sign_for(&crate::naras::nara_with_seed("bob", 99), response, &request);
    };
    let half = |response: &mut Response<Bytes>, request: &Received| {
        sign_v1(response);
        sign(response, request);
        response.headers_mut().remove(SIGNATURE_HEADER);
    };
    let other_half = |response: &mut Response<Bytes>, request: &Received| {
        sign_v1(response);
        sign(response, request);
        response.headers_mut().remove(SIGNATURE_INPUT_HEADER);
    };
    let changes: [Change; 7] = [
        other_question,
        other_body,
        other_status,
        other_nara,
        other_key,
        half,
        other_half,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let peer = peer(change).await;
        let client = client_of_bob(peer.address);
        let error = call(&client).await.unwrap_err();
        assert!(
            error.is_unauthenticated() && !error.is_downgrade(),
            "change {index}: {error}"
        );
        assert!(!speaks_v2(&client), "change {index}");
    }
}

#[tokio::test]
async fn an_answer_with_less_than_was_proven_is_refused() {
    let peer = peer(|response, request| {
        sign_v1(response);
        // First as an honest bob; then a man in the middle removes the stronger signature.
        if request.headers.contains_key("x-nara-signature") {
            sign(response, request);
        }
    })
    .await;
    let client = client_of_bob(peer.address);
    let mut events = client.registry().subscribe();
    call(&client).await.unwrap();
    assert!(matches!(events.try_recv(), Ok(PeerEvent::ProtocolLearned(_))));
    let error = call(&client).await.unwrap_err();
    assert!(error.is_downgrade() && error.is_unauthenticated(), "{error}");
    assert!(matches!(events.try_recv(), Ok(PeerEvent::Downgrade { .. })));
}

#[tokio::test]
async fn a_v1_only_nara_is_still_served() {
    let peer = peer(|response, _| sign_v1(response)).await;
    let client = client_of_bob(peer.address);
    for _ in 0..2 {
        assert!(!call(&client).await.unwrap(), "it is not bound to the question");
        assert!(!speaks_v2(&client));
        assert!(peer.last().headers.contains_key("x-nara-signature"));
    }
}

/// Returns a nara's announcement of its capabilities at `at`.
fn capability(nara: &LocalNara, at: UnixMillis) -> HeaderMap {
    let capability = Capability {
        streams: false,
        id: nara.id().clone(),
        v2: true,
        tls: false,
        raw_public_key: false,
        handshake: false,
        port: None,
        at,
    };
    let signed = nara.signer().sign_capability(&capability);
    HeaderMap::from_iter([(CAPABILITY_HEADER, signed.to_field())])
}

/// Returns the protocols learned from a ping answer of bob with these headers.
async fn pinged(headers: HeaderMap) -> PeerProtocol {
    let bob = nara("bob");
    let answer = PingResponse {
        from: "bob".to_owned(),
        public_key: bob.public_key().to_base64(),
        t: NOW.to_nanos(),
        ..PingResponse::default()
    };
    let answer = Bytes::from(go_json::to_body(&answer));
    let peer = FakePeer::start(TcpTransport, free_port(), move |_| {
        let mut response = Response::new(answer.clone());
        *response.headers_mut() = headers.clone();
        Answer::With(response)
    })
    .await;
    let client = client_of_bob(peer.address);
    let report = client.ping(bob.id()).await.unwrap();
    let protocol = client.registry().by_name("bob").unwrap().protocol();
    assert_eq!(report.capability.is_some(), protocol.v2);
    let found = self::client(|builder| builder)
        .discover_key(peer.address, None)
        .await
        .unwrap();
    assert_eq!(found.capability.is_some(), protocol.v2);
    protocol
}

#[tokio::test]
async fn a_capability_is_believed_if_the_pinned_key_signed_it_now() {
    let bob = nara("bob");
    assert!(pinned_v2(capability(&bob, NOW)).await);
    assert!(!pinned_v2(HeaderMap::new()).await);
    assert!(!pinned_v2(capability(&nara("mallory"), NOW)).await);
    assert!(!pinned_v2(capability(&bob, UnixMillis::new(NOW.get() - 30_001))).await);
    let garbage = HeaderMap::from_iter([(CAPABILITY_HEADER, "v2".parse().unwrap())]);
    assert!(!pinned_v2(garbage).await);
}

async fn pinned_v2(headers: HeaderMap) -> bool {
    pinged(headers).await.v2
}

const LOOKS_FOR_V1: &str = "Authentication failed: missing auth headers\n";

/// Returns the client's error for a refusal by a peer that is known to support v2, or not.
async fn refusal(speaks_v2: bool, status: u16, text: &'static str) -> (ClientError, usize) {
    let peer = FakePeer::start(TcpTransport, free_port(), move |_| {
        crate::fake_peer::plain(status, text)
    })
    .await;
    let client = client_of_bob(peer.address);
    let bob = client.registry().by_name("bob").unwrap();
    if speaks_v2 {
        let mut protocol = PeerProtocol::default();
        protocol.v2 = true;
        client.registry().learn_protocol(&bob, protocol);
    }
    let mut events = client.registry().subscribe();
    let error = call(&client).await.unwrap_err();
    let mut downgrades = 0;
    while let Ok(event) = events.try_recv() {
        downgrades += usize::from(matches!(event, PeerEvent::Downgrade { .. }));
    }
    (error, downgrades)
}

#[tokio::test]
async fn only_a_proven_v2_peer_that_looks_for_v1_headers_has_gone_back() {
    let (error, downgrades) = refusal(true, 401, LOOKS_FOR_V1).await;
    assert!(error.is_downgrade() && downgrades == 1, "{error}");
    for (speaks_v2, status, text) in [
        (false, 401, LOOKS_FOR_V1),
        (true, 401, "Authentication failed: replayed request\n"),
        (true, 400, LOOKS_FOR_V1),
        (true, 503, "try again later\n"),
    ] {
        let (error, downgrades) = refusal(speaks_v2, status, text).await;
        assert!(
            !error.is_downgrade() && downgrades == 0,
            "{status} {text}: {error}"
        );
        assert_eq!(error.status().map(|status| status.as_u16()), Some(status));
    }
}

#[tokio::test]
async fn a_nara_that_introduced_itself_is_not_asked_for_its_key() {
    let peer = FakePeer::start(TcpTransport, free_port(), |request| {
        let bob = nara("bob");
        let mut response = Response::new(match request.target.as_str() {
            "/ping" => go_json::to_body(&PingResponse {
                from: "bob".to_owned(),
                public_key: bob.public_key().to_base64(),
                ..PingResponse::default()
            })
            .into(),
            _ => body(),
        });
        if request.target != "/ping" {
            sign(&mut response, request);
        }
        Answer::With(response)
    })
    .await;
    let client = client(|builder| builder);
    let request = SyncRequest::recent(10);
    let answer = client
        .peer(peer.address)
        .call::<EventsSync>(&request)
        .await
        .unwrap();
    assert!(answer.is_verified());
    let targets: Vec<_> = peer
        .received()
        .into_iter()
        .map(|request| request.target)
        .collect();
    assert_eq!(targets, ["/ping", "/events/sync"]);
}
