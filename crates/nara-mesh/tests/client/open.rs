//! Calls to user-defined services: `request`, and the proof of its answers.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use nara_mesh::Coverage;
use nara_mesh::client::{BodyProof, ClientErrorKind, MeshClient};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::v2::{ContentDigest, RequestSignature, ResponseToSign, SignedBody};
use tokio::time::timeout;

use crate::support::{
    Answer, FakePeer, Mesh, Received, address, event, introduce, nara, ping_answer, plain, signed,
};

/// Returns a v2 answer of `nara`; `None` if the request has no v2 signature.
pub(crate) fn signed_v2(
    nara: &LocalNara,
    clock: &ManualClock,
    request: &HeaderMap,
    body: SignedBody,
    mut response: Response<Bytes>,
) -> Response<Bytes> {
    let request = RequestSignature::from_headers(request).unwrap();
    let signed = nara.signer().sign_response(&ResponseToSign {
        status: response.status(),
        body,
        request: request.signature(),
        now: clock.now_millis(),
    });
    signed.write_to(response.headers_mut());
    response
}

fn with_status(status: u16, body: &'static [u8]) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Starts a v2 peer that gives every request this answer.
async fn v2_peer(mesh: &Mesh, status: u16, body: &'static [u8]) -> (MeshClient, NaraId, FakePeer) {
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let client = mesh.client();
    let id = introduce(&client, &bob, address(2));
    let peer = mesh
        .peer(2, move |request| {
            let digest = SignedBody::Digest(ContentDigest::of(body));
            let answer = with_status(status, body);
            Answer::With(signed_v2(&bob, &clock, &request.headers, digest, answer))
        })
        .await;
    (client, id, peer)
}

fn delete_note() -> Request<Empty<Bytes>> {
    Request::delete("/notes/7?why=old")
        .header("x-own", "1")
        .body(Empty::new())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_404_of_a_v1_peer_is_an_answer_with_its_coverage() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    introduce(&client, &bob, address(2));
    let peer = mesh
        .peer(2, move |_| signed(&bob, &clock, 404, "no such note"))
        .await;
    let answer = client.request("bob", delete_note()).await.unwrap();
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.body(), "no such note");
    assert!(answer.is_verified());
    assert!(
        answer
            .headers()
            .keys()
            .all(|name| !name.as_str().starts_with("x-nara-"))
    );
    let verification = answer.verification();
    assert_eq!(verification.request, Some(Coverage::MethodAndPath));
    assert_eq!(verification.body, BodyProof::Whole);
    assert!(!verification.bound, "a v1 signature belongs to no request");

    let received = peer.last();
    assert_eq!(
        (received.method, &*received.target),
        (Method::DELETE, "/notes/7?why=old")
    );
    assert_eq!(received.headers["x-own"], "1");
    assert!(received.headers.contains_key("x-nara-signature"));
}

#[tokio::test(start_paused = true)]
async fn a_v2_peer_can_verify_all_of_a_request_and_its_answer_belongs_to_it() {
    let mesh = Mesh::new();
    let (client, id, peer) = v2_peer(&mesh, 201, b"made").await;
    let request = Request::put("/notes/7")
        .header("content-type", "text/plain")
        .body("milk".to_owned())
        .unwrap();
    let answer = client.request(&id, request).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.body()[..]),
        (StatusCode::CREATED, &b"made"[..])
    );
    assert_eq!(answer.verification().request, Some(Coverage::Whole));
    assert!(answer.verification().bound);
    let received = peer.last();
    assert_eq!(
        (&received.body[..], &received.headers["content-type"]),
        (&b"milk"[..], &"text/plain".parse().unwrap())
    );
    let signature = RequestSignature::from_headers(&received.headers).unwrap();
    signature.digest().unwrap().check(&received.body).unwrap();
}

#[tokio::test(start_paused = true)]
async fn header_and_request_smuggling_is_refused_before_anything_is_sent() {
    let mesh = Mesh::new();
    let (client, id, peer) = v2_peer(&mesh, 200, b"").await;
    let refused = async |request: Request<String>| {
        let error = client.request(&id, request).await.unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::InvalidRequest, "{error}");
        assert!(std::error::Error::source(&error).is_some());
    };
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "host",
        "signature",
        "signature-input",
        "content-digest",
        "accept-signature",
        "x-nara-name",
        "x-nara-signature",
        "x-nara-anything",
    ] {
        refused(
            Request::post("/notes")
                .header(name, "x")
                .body("x".to_owned())
                .unwrap(),
        )
        .await;
    }
    for length in ["0", "2", "1, 1", "x"] {
        let request = Request::post("/notes").header("content-length", length);
        refused(request.body("x".to_owned()).unwrap()).await;
    }
    refused(
        Request::get("http://100.64.0.3:9632/notes")
            .body(String::new())
            .unwrap(),
    )
    .await;
    refused(Request::options("*").body(String::new()).unwrap()).await;
    let connect = Request::builder().method(Method::CONNECT).uri("bob:80");
    refused(connect.body(String::new()).unwrap()).await;
    assert!(peer.received().is_empty());

    let right = Request::post("/notes").header("content-length", "1");
    client
        .request(&id, right.body("x".to_owned()).unwrap())
        .await
        .unwrap();
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn bodies_beyond_their_limits_are_errors() {
    let mesh = Mesh::new();
    let (client, id, peer) = v2_peer(&mesh, 404, b"12345").await;
    let bob = client.peer(&id).with_body_limits(4, 4);
    for body in [
        Full::new(Bytes::from_static(b"12345")).boxed_unsync(),
        StreamBody::new(stream::iter([Ok::<_, Infallible>(Frame::data(
            Bytes::from_static(b"12345"),
        ))]))
        .boxed_unsync(),
    ] {
        let request = Request::post("/notes").body(body).unwrap();
        let error = bob.request(request).await.unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::InvalidRequest, "{error}");
    }
    assert!(peer.received().is_empty());
    let request = || Request::post("/notes").body("1234".to_owned()).unwrap();
    let error = bob.request(request()).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::TooLarge, "{error}");
    let answer = bob.with_body_limits(4, 5).request(request()).await.unwrap();
    assert_eq!(answer.body(), "12345");
}

#[tokio::test(start_paused = true)]
async fn an_unproven_answer_is_an_error_with_any_status() {
    type Lie = fn(&LocalNara, &ManualClock, &Received) -> Answer;
    let lies: [(Lie, ClientErrorKind); 6] = [
        (|_, _, _| plain(200, "trust me"), ClientErrorKind::Unauthenticated),
        (|_, _, _| plain(404, "trust me"), ClientErrorKind::Status),
        (|_, _, _| plain(401, "who are you?"), ClientErrorKind::Status),
        (
            |_, clock, _| signed(&nara("mallory"), clock, 404, "x"),
            ClientErrorKind::Unauthenticated,
        ),
        (
            |bob, clock, request| {
                let digest = SignedBody::Digest(ContentDigest::of(b"other"));
                let answer = with_status(404, b"x");
                Answer::With(signed_v2(bob, clock, &request.headers, digest, answer))
            },
            ClientErrorKind::Signature,
        ),
        (
            |bob, clock, request| {
                let digest = SignedBody::Digest(ContentDigest::of(b"x"));
                let answer = with_status(200, b"x");
                let mut answer = signed_v2(bob, clock, &request.headers, digest, answer);
                *answer.status_mut() = StatusCode::NOT_FOUND;
                Answer::With(answer)
            },
            ClientErrorKind::Signature,
        ),
    ];
    for (lie, kind) in lies {
        let mesh = Mesh::new();
        let client = mesh.client();
        let (bob, clock) = (nara("bob"), mesh.clock.clone());
        let id = introduce(&client, &bob, address(2));
        let _peer = mesh
            .peer(2, move |request| match request.target.as_str() {
                "/ping" => ping_answer(&bob),
                _ => lie(&bob, &clock, request),
            })
            .await;
        let error = client.request(&id, delete_note()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.is_status_verified());
    }
}

#[tokio::test(start_paused = true)]
async fn request_refuses_an_answer_that_is_proven_at_its_head_only() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let id = introduce(&client, &bob, address(2));
    let _peer = mesh
        .peer(2, move |request| {
            let answer = with_status(200, b"x");
            Answer::With(signed_v2(
                &bob,
                &clock,
                &request.headers,
                SignedBody::Streamed,
                answer,
            ))
        })
        .await;
    let error = client.request(&id, delete_note()).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::Signature, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_a_service_asks_for_is_its_own_and_not_one_of_the_peer() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let id = introduce(&client, &bob, address(2));
    let peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/busy" => {
                let Answer::With(mut answer) = signed(&bob, &clock, 503, "busy") else {
                    unreachable!()
                };
                answer.headers_mut().insert("retry-after", "60".parse().unwrap());
                Answer::With(answer)
            }
            // Before it has authenticated the sender, a nara signs nothing.
            "/flood" => {
                let mut answer = with_status(429, b"slow down");
                answer.headers_mut().insert("retry-after", "60".parse().unwrap());
                Answer::With(answer)
            }
            _ => signed(&bob, &clock, 200, "here"),
        })
        .await;
    let get = |path| Request::get(path).body(String::new()).unwrap();
    let busy = client.request(&id, get("/busy")).await.unwrap();
    assert_eq!(
        (busy.status(), &busy.headers()["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"60".parse().unwrap())
    );
    assert_eq!(client.request(&id, get("/other")).await.unwrap().body(), "here");
    let error = client.request(&id, get("/flood")).await.unwrap_err();
    assert!(error.is_rate_limited(), "{error}");
    let error = client.request(&id, get("/other")).await.unwrap_err();
    assert!(error.is_rate_limited() && error.status().is_none(), "{error}");
    assert_eq!(peer.received().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_its_place_to_others() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let id = introduce(&client, &bob, address(2));
    let peer = mesh
        .peer(2, move |request| match request.target.as_str() {
            "/never" => Answer::Nothing,
            _ => signed(&bob, &clock, 200, "here"),
        })
        .await;
    for _ in 0..40 {
        let request = Request::get("/never").body(String::new()).unwrap();
        let given_up = timeout(Duration::from_millis(10), client.request(&id, request));
        given_up.await.unwrap_err();
    }
    assert_eq!(peer.connections(), 40, "none is used again");
    let request = Request::get("/here").body(String::new()).unwrap();
    assert_eq!(client.request(&id, request).await.unwrap().body(), "here");
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_named_by_a_text_and_an_invalid_text_is_a_distinct_error() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    introduce(&client, &bob, address(2));
    let _peer = mesh.honest(2, &bob, Bytes::new()).await;
    client.ping("bob").await.unwrap();
    client.ping("100.64.0.2:9632".to_owned()).await.unwrap();
    client.ping(bob.id().as_str()).await.unwrap();
    let error = client.ping("carol").await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::UnknownPeer);
    let error = client
        .send_dm("\u{1b}[2J", event(&mesh.alice, 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::InvalidPeer);
    assert!(!error.to_string().contains('\u{1b}'), "{error}");
}
