//! Calls to user-defined services over TLS: streams in both directions.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use nara_mesh::Coverage;
use nara_mesh::client::{AnswerBody, BodyProof, ClientError, ClientErrorKind, MeshClient, Verification};
use nara_mesh::registry::PeerInfo;
use nara_mesh::server::{RunningServer, VerifiedSender};
use nara_mesh::tls::TlsPolicy;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::{ServiceBuilder, ServiceExt as _};

use crate::naras::{known, nara};
use crate::support::{BOB, Mesh, address, speaks_tls};

/// Starts bob's server, which echoes a body while it arrives.
async fn echo(mesh: &Mesh) -> RunningServer {
    let routes = Router::new()
        .route("/echo", post(async |body: Body| body))
        .route(
            "/who",
            post(async |sender: VerifiedSender, _: Bytes| {
                let coverage = sender.coverage();
                (StatusCode::CREATED, format!("{} {coverage}", sender.name()))
            }),
        )
        .route(
            "/endless",
            post(async |_: Bytes| {
                let pieces = futures_util::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(b"x")));
                Body::from_stream(pieces)
            }),
        )
        .route(
            "/silent",
            post(async |_: Bytes| {
                let once = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
                Body::from_stream(once.chain(futures_util::stream::pending()))
            }),
        );
    mesh.server()
        .nest_routes("/notes", routes)
        .serve(address(BOB))
        .await
        .unwrap()
}

type Pieces = StreamBody<
    futures_util::stream::Map<
        ReceiverStream<&'static str>,
        fn(&'static str) -> Result<Frame<Bytes>, Infallible>,
    >,
>;

/// Returns a body that is produced piece by piece.
fn pieces() -> (mpsc::Sender<&'static str>, Pieces) {
    let (sender, pieces) = mpsc::channel(1);
    let frame: fn(&'static str) -> Result<Frame<Bytes>, Infallible> =
        |piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())));
    (sender, StreamBody::new(ReceiverStream::new(pieces).map(frame)))
}

async fn next(body: &mut AnswerBody) -> Bytes {
    body.frame().await.unwrap().unwrap().into_data().unwrap()
}

fn client(mesh: &Mesh) -> MeshClient {
    mesh.client(BOB, speaks_tls())
}

#[tokio::test(start_paused = true)]
async fn bodies_stream_in_both_directions_while_they_are_made() {
    let mesh = Mesh::new();
    let _server = echo(&mesh).await;
    let client = client(&mesh);
    let (told, body) = pieces();
    let service = ServiceBuilder::new()
        .map_err(|error: ClientError| error.kind())
        .service(client.service("bob"));
    let request = Request::post("/notes/echo").body(body).unwrap();
    told.send("one").await.unwrap();
    let answer = service.oneshot(request).await.unwrap();
    let verification = answer.extensions().get::<Verification>().unwrap();
    assert!(verification.channel && verification.bound);
    assert_eq!(verification.request, Some(Coverage::Channel));
    let mut body = answer.into_body();
    assert_eq!(body.proof(), BodyProof::Channel);
    assert_eq!(next(&mut body).await, "one");
    told.send("two").await.unwrap();
    assert_eq!(next(&mut body).await, "two");
    drop(told);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_request_over_a_trusted_connection_is_covered_as_a_whole() {
    let mesh = Mesh::new();
    let _server = echo(&mesh).await;
    let client = client(&mesh);
    // Bob's capabilities beyond TLS are learned from his answers.
    client.ping("bob").await.unwrap();
    let request = || Request::post("/notes/who").body("hello".to_owned()).unwrap();
    let answer = client.request("bob", request()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.body(), "alice everything");
    assert!(answer.verification().channel);
}

#[tokio::test(start_paused = true)]
async fn an_endless_answer_can_be_left_and_ends_with_the_key_on_which_it_was_opened() {
    let mesh = Mesh::new();
    let _server = echo(&mesh).await;
    let client = client(&mesh);
    client.ping("bob").await.unwrap();
    let request = || Request::post("/notes/endless").body(String::new()).unwrap();
    let mut left = client
        .service("bob")
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    next(&mut left).await;
    drop(left);

    let mut body = client
        .service("bob")
        .oneshot(request())
        .await
        .unwrap()
        .into_body();
    next(&mut body).await;
    let other = PeerInfo::configured("bob".parse().unwrap(), nara("mallory").public_key());
    client.registry().reconfigure(other).unwrap();
    let error = loop {
        if let Err(error) = body.frame().await.unwrap() {
            break error;
        }
    };
    assert_eq!(error.kind(), ClientErrorKind::KeyReplaced);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_peer_is_silent_ends_with_the_key_as_well() {
    let mesh = Mesh::new();
    let _server = echo(&mesh).await;
    let client = client(&mesh);
    client.ping("bob").await.unwrap();
    let request = Request::post("/notes/silent").body(String::new()).unwrap();
    let mut body = client.service("bob").oneshot(request).await.unwrap().into_body();
    next(&mut body).await;
    let registry = client.registry().clone();
    let replacing = async move {
        tokio::task::yield_now().await;
        let other = PeerInfo::configured("bob".parse().unwrap(), nara("mallory").public_key());
        registry.reconfigure(other).unwrap();
    };
    let (frame, ()) = tokio::join!(body.frame(), replacing);
    assert_eq!(frame.unwrap().unwrap_err().kind(), ClientErrorKind::KeyReplaced);
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_sent_to_a_key_that_was_replaced_while_a_request_is_made() {
    let mesh = Mesh::new();
    let (took, mut taken) = mpsc::channel(1);
    // It accepts everything that is sent, and does not answer.
    let routes = Router::new().route(
        "/sink",
        post(async move |body: Body| {
            let mut pieces = body.into_data_stream();
            while let Some(Ok(piece)) = pieces.next().await {
                took.send(piece).await.unwrap();
            }
        }),
    );
    let server = mesh.server().nest_routes("/notes", routes);
    let _server = server.serve(address(BOB)).await.unwrap();
    let client = client(&mesh);
    client.ping("bob").await.unwrap();
    for silent in [false, true] {
        let (told, body) = pieces();
        let request = Request::post("/notes/sink").body(body).unwrap();
        let calling = tokio::spawn(client.service("bob").oneshot(request));
        told.send("one").await.unwrap();
        assert_eq!(taken.recv().await.unwrap(), "one");
        let key = client.peer("bob").known().unwrap().key().unwrap();
        let configured = |key| PeerInfo::configured("bob".parse().unwrap(), key);
        client
            .registry()
            .reconfigure(configured(nara("mallory").public_key()))
            .unwrap();
        if !silent {
            // It may be taken from the channel, but is not sent.
            let _ = told.send("two").await;
        }
        let error = calling.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::KeyReplaced);
        assert!(taken.try_recv().is_err());
        client.registry().reconfigure(configured(key)).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn without_tls_a_streamed_request_is_held_in_memory_and_signed_as_a_whole() {
    let mesh = Mesh::new();
    let _server = echo(&mesh).await;
    let client = mesh.stranger().tls(TlsPolicy::Plain).build();
    let bob = known(&mesh.bob, Some(address(BOB)));
    client.registry().register(bob).unwrap();
    let (told, body) = pieces();
    tokio::spawn(async move {
        for piece in ["one", "two"] {
            told.send(piece).await.unwrap();
        }
    });
    let request = Request::post("/notes/echo").body(body).unwrap();
    let answer = client.service("bob").oneshot(request).await.unwrap();
    assert_eq!(
        answer.extensions().get::<Verification>().unwrap().request,
        Some(Coverage::Whole)
    );
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "onetwo");
}
