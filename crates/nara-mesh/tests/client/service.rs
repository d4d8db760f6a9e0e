//! A peer as a tower service, with streamed bodies.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::Coverage;
use nara_mesh::client::{AnswerBody, BodyProof, ClientError, ClientErrorKind, MeshClient, Verification};
use nara_mesh::clock::Clock as _;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::v1::ResponseAuth;
use nara_mesh::proto::v2::{AcceptSignature, ContentDigest, SignedBody};
use nara_mesh::transport::Transport as _;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt as _};

use crate::open::signed_v2;
use crate::support::{Mesh, address, introduce, nara};

type PeerBody = BoxBody<Bytes, std::io::Error>;

/// Starts a peer that answers each request with a body in pieces, whose head `sign` signs.
async fn peer(
    mesh: &Mesh,
    pieces: &'static [&'static str],
    broken: bool,
    sign: impl Fn(&HeaderMap, Response<Bytes>) -> Response<Bytes> + Send + Sync + Clone + 'static,
) -> (MeshClient, NaraId) {
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let mut listener = mesh
        .network
        .host(address(2).ip())
        .listen(address(2))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let sign = sign.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sign = sign.clone();
                async move {
                    let (head, body) = request.into_parts();
                    body.collect().await.unwrap();
                    let head = sign(&head.headers, Response::new(Bytes::new()));
                    let end = stream::once(async {
                        // So that the previous pieces are sent.
                        sleep(Duration::from_secs(1)).await;
                        Err(std::io::Error::other("gone"))
                    });
                    let end = end.take(usize::from(broken));
                    let pieces = pieces
                        .iter()
                        .map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
                    let pieces = stream::iter(pieces).chain(end);
                    let body: PeerBody = BodyExt::boxed(StreamBody::new(Box::pin(pieces)));
                    Ok::<_, Infallible>(head.map(|_| body))
                }
            });
            let serving =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
            tokio::spawn(serving);
        }
    });
    (client, id)
}

fn request() -> Request<Full<Bytes>> {
    Request::post("/notes")
        .body(Full::new(Bytes::from_static(b"milk")))
        .unwrap()
}

async fn answer(client: &MeshClient, id: &NaraId) -> Response<AnswerBody> {
    client.service(id).oneshot(request()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_tower_works_on_top_and_a_streamed_answer_on_a_plain_connection_says_so() {
    let mesh = Mesh::new();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let (client, id) = peer(&mesh, &["one", "two"], false, move |request, answer| {
        assert_eq!(
            AcceptSignature::from_headers(request),
            Some(AcceptSignature::Streamed)
        );
        signed_v2(&bob, &clock, request, SignedBody::Streamed, answer)
    })
    .await;
    let stack = ServiceBuilder::new()
        .map_err(|error: ClientError| error.kind())
        .map_request(|path: &str| Request::get(path).body(String::new()).unwrap())
        .service(client.service(&id));
    for _ in 0..2 {
        let answer = stack.clone().oneshot("/notes").await.unwrap();
        let verification = answer.extensions().get::<Verification>().unwrap();
        assert_eq!(verification.body, BodyProof::HeadOnly);
        assert!(verification.bound && !verification.header && !verification.channel);
        assert_eq!(verification.request, Some(Coverage::Whole));
        assert_eq!(answer.body().proof(), BodyProof::HeadOnly);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "onetwo");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_digest_is_signed_ends_with_an_error_unless_it_is_that_body() {
    for (signed, right) in [("onetwo", true), ("other", false)] {
        let mesh = Mesh::new();
        let (bob, clock) = (nara("bob"), mesh.clock.clone());
        let (client, id) = peer(&mesh, &["one", "two"], false, move |request, answer| {
            let digest = SignedBody::Digest(ContentDigest::of(signed.as_bytes()));
            signed_v2(&bob, &clock, request, digest, answer)
        })
        .await;
        let answer = answer(&client, &id).await;
        assert_eq!(answer.body().proof(), BodyProof::AtEnd);
        let read = answer.into_body().collect().await;
        match right {
            true => assert_eq!(read.unwrap().to_bytes(), "onetwo"),
            false => assert_eq!(read.unwrap_err().kind(), ClientErrorKind::Signature),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_cut_off_is_an_error_at_the_cut() {
    let mesh = Mesh::new();
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    let (client, id) = peer(&mesh, &["one"], true, move |request, answer| {
        signed_v2(&bob, &clock, request, SignedBody::Streamed, answer)
    })
    .await;
    let frames = answer(&client, &id).await.into_body().into_data_stream();
    let frames: Vec<_> = frames.collect().await;
    assert_eq!(frames[0].as_ref().unwrap(), "one");
    assert_eq!(frames[1].as_ref().unwrap_err().kind(), ClientErrorKind::Broken);
    assert_eq!(frames.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_answer_of_a_v1_peer_is_proven_before_any_of_it_is_given_out() {
    for (signed, right) in [("onetwo", true), ("other", false)] {
        let mesh = Mesh::new();
        let (bob, clock) = (nara("bob"), mesh.clock.clone());
        let (client, id) = peer(&mesh, &["one", "two"], false, move |_, mut answer| {
            let now = clock.now_millis();
            ResponseAuth::sign(bob.keypair(), bob.name(), now, signed.as_bytes())
                .write_to(answer.headers_mut());
            answer
        })
        .await;
        let answer = client.service(&id).oneshot(request()).await;
        match right {
            true => {
                let answer = answer.unwrap();
                let verification = answer.extensions().get::<Verification>().unwrap();
                assert_eq!(verification.request, Some(Coverage::MethodAndPath));
                assert_eq!(answer.body().proof(), BodyProof::Whole);
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "onetwo");
            }
            false => assert!(answer.unwrap_err().is_unauthenticated()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_refuses_the_same_requests_as_request() {
    let mesh = Mesh::new();
    let (client, id) = peer(&mesh, &["trust me"], false, |_, answer| answer).await;
    let error = client.service(&id).oneshot(request()).await.unwrap_err();
    assert!(error.is_unauthenticated(), "{error}");
    let smuggled = Request::get("/")
        .header("connection", "x-own")
        .body(String::new())
        .unwrap();
    let error = client.service(&id).oneshot(smuggled).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::InvalidRequest);
    let error = client.service("nobody").oneshot(request()).await.unwrap_err();
    assert_eq!(error.kind(), ClientErrorKind::UnknownPeer);
}
