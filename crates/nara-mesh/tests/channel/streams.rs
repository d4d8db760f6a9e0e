//! Bodies that are sent while they are produced.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::StatusCode;
use http_body_util::BodyExt as _;
use nara_mesh::registry::PeerInfo;
use nara_mesh::server::{ServerLimits, Shutdown, StreamedAnswer};
use nara_proto::v2::SignedBody;
use tokio::sync::mpsc;

use crate::naras::{nara_with_seed, registry};
use crate::support::{Connection, Profile, SIGNED, bob, nara, serve};

/// Returns each piece of the request as it arrives.
fn echo(body: Body) -> Body {
    let pieces: BodyDataStream = body.into_data_stream();
    Body::from_stream(pieces)
}

fn endless() -> impl Stream<Item = Result<&'static str, Infallible>> {
    stream::repeat(Ok("tick\n"))
}

fn routes() -> Router {
    Router::new()
        .route(
            "/echo",
            post(async |request: Request| StreamedAnswer(echo(request.into_body()))),
        )
        .route(
            "/endless",
            get(async || StreamedAnswer(Body::from_stream(endless()))),
        )
        .route(
            "/finite",
            get(async || {
                let pieces = stream::iter(["a", "b", "c"].map(Ok::<_, Infallible>));
                StreamedAnswer(Body::from_stream(pieces))
            }),
        )
        .route("/unmarked", get(async || Body::from_stream(endless())))
        .route(
            "/silent",
            get(async || {
                let once = stream::iter([Ok::<_, Infallible>("tick\n")]);
                Body::from_stream(once.chain(stream::pending()))
            }),
        )
}

#[tokio::test]
async fn on_a_secure_connection_bodies_stream_in_both_directions() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    let mut connection = Connection::open(server.local_addr(), Profile::Tls).await;
    let (pieces, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let pieces_out = stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    });
    let (headers, signature) = connection.sign("POST", "/s/echo", None, |_| {});
    let sent = connection.send(
        "POST",
        "/s/echo",
        headers,
        signature,
        Body::from_stream(pieces_out),
    );
    let head = sent.await.unwrap();
    assert_eq!(head.response.status(), StatusCode::OK);
    let mut body = head.response.into_body();
    for piece in ["one", "two", "three"] {
        // The next piece is sent when the last one came back, so neither side waits for the end.
        pieces.send(Ok(Bytes::from(piece))).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(pieces);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_streamed_request_is_taken_only_where_the_connection_proves_it() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    let mut connection = Connection::open(server.local_addr(), Profile::V2).await;
    let (headers, signature) = connection.sign("POST", "/s/echo", None, |_| {});
    let sent = connection.send("POST", "/s/echo", headers, signature, Body::from("anything"));
    let answer = sent.await.unwrap().read().await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert!(answer.is_proven());
    assert!(answer.text().contains("TLS"), "{}", answer.text());
}

#[tokio::test]
async fn on_plain_http_a_streamed_answer_is_signed_at_its_head_if_it_is_asked_for() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    let mut connection = Connection::open(server.local_addr(), Profile::V2).await;
    let head = connection.ask_for_stream("/s/endless").await;
    assert_eq!(head.signed_body(), Some(SignedBody::Streamed));
    let mut body = head.response.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"tick\n"));
}

#[tokio::test]
async fn a_streamed_answer_is_collected_and_signed_for_a_caller_that_did_not_ask_for_a_stream() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    for profile in [Profile::V1, Profile::V2] {
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let answer = connection.call("GET", "/s/finite", "").await;
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "abc".to_owned()));
        assert!(answer.is_proven(), "{profile:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_refused_where_it_would_be_collected() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    for (profile, path) in [
        (Profile::V1, "/s/endless"),
        (Profile::V2, "/s/endless"),
        (Profile::V2, "/s/unmarked"),
    ] {
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let answer = connection.call("GET", path, "").await;
        assert_eq!(
            answer.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{profile:?} {path}"
        );
        assert!(answer.text().contains("larger than"), "{}", answer.text());
        assert!(answer.is_proven());
    }
}

#[tokio::test]
async fn an_unmarked_answer_streams_on_a_secure_connection() {
    let server = serve(bob().nest_routes("/s", routes())).await;
    let mut connection = Connection::open(server.local_addr(), Profile::Tls).await;
    let head = connection.ask_for_stream("/s/unmarked").await;
    let mut body = head.response.into_body().into_data_stream();
    assert!(body.next().await.unwrap().unwrap().starts_with(b"tick\n"));
}

#[tokio::test]
async fn streams_end_when_the_server_shuts_down_and_their_reader_sees_it() {
    for profile in [Profile::V2, Profile::Tls] {
        let server = serve(bob().nest_routes("/s", routes())).await;
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let head = connection.ask_for_stream("/s/endless").await;
        let mut body = head.response.into_body();
        body.frame().await.unwrap().unwrap();
        let reading = tokio::spawn(async move {
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    end => return end,
                }
            }
        });
        let ended = server.shutdown(Duration::from_secs(20)).await;
        assert_eq!(ended, Shutdown::Graceful, "{profile:?}");
        let end = reading.await.unwrap();
        assert!(matches!(end, Some(Err(_))), "{profile:?}: {end:?}");
    }
}

#[tokio::test]
async fn bodies_end_with_the_key_on_which_they_were_opened() {
    for (profile, path) in [
        (Profile::V2, "/s/endless"),
        (Profile::Tls, "/s/endless"),
        (Profile::Tls, "/s/unmarked"),
        (Profile::Tls, "/s/silent"),
    ] {
        let naras = registry(&[&nara("alice")]);
        let server = serve(bob().registry(naras.clone()).nest_routes("/s", routes())).await;
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let mut body = connection.ask_for_stream(path).await.response.into_body();
        body.frame().await.unwrap().unwrap();
        let other = nara_with_seed("alice", 99).public_key();
        naras
            .reconfigure(PeerInfo::configured("alice".parse().unwrap(), other))
            .unwrap();
        let end = loop {
            match body.frame().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Some(Err(_))), "{profile:?} {path}: {end:?}");
    }
}

#[tokio::test]
async fn a_streamed_request_ends_with_the_key_on_which_it_was_opened() {
    let naras = registry(&[&nara("alice")]);
    let (told, mut ended) = mpsc::channel(1);
    let read = move |body: Body| {
        let told = told.clone();
        async move {
            // No byte arrives; the first frame is the error.
            let frame = body.into_data_stream().next().await;
            told.send(matches!(frame, Some(Err(_)))).await.unwrap();
        }
    };
    let routes = Router::new().route("/read", post(read));
    let server = serve(bob().registry(naras.clone()).nest_routes("/s", routes)).await;
    let mut connection = Connection::open(server.local_addr(), Profile::Tls).await;
    let (headers, signature) = connection.sign("POST", "/s/read", None, |_| {});
    let silent = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let sending = connection.send("POST", "/s/read", headers, signature, silent);
    let replacing = async {
        // This request arrives after the head of the other one.
        let mut other = Connection::open(server.local_addr(), Profile::Tls).await;
        other.call("GET", "/s/unknown", "").await;
        let other = nara_with_seed("alice", 99).public_key();
        naras
            .reconfigure(PeerInfo::configured("alice".parse().unwrap(), other))
            .unwrap();
        ended.recv().await
    };
    let (_, ended) = tokio::join!(sending, replacing);
    assert_eq!(ended, Some(true));
}

#[tokio::test]
async fn a_handler_ends_with_the_key_of_its_sender() {
    for profile in SIGNED {
        let naras = registry(&[&nara("alice")]);
        let (begun, mut begins) = mpsc::channel(1);
        let wait = move || {
            let begun = begun.clone();
            async move {
                begun.send(()).await.unwrap();
                std::future::pending::<()>().await;
            }
        };
        let routes = Router::new().route("/wait", get(wait));
        let server = serve(bob().registry(naras.clone()).nest_routes("/s", routes)).await;
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let (headers, signature) = connection.sign("GET", "/s/wait", Some(b""), |_| {});
        let asking = connection.send("GET", "/s/wait", headers, signature, Body::empty());
        let replacing = async {
            begins.recv().await.unwrap();
            let other = nara_with_seed("alice", 99).public_key();
            let other = PeerInfo::configured("alice".parse().unwrap(), other);
            naras.reconfigure(other).unwrap();
        };
        let (answer, ()) = tokio::join!(asking, replacing);
        assert_eq!(answer.unwrap().response.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn one_peer_has_so_many_streams() {
    let mut granted = ServerLimits::default();
    granted.streams_per_peer = 1;
    let server = serve(bob().limits(granted).nest_routes("/s", routes())).await;
    let mut first = Connection::open(server.local_addr(), Profile::Tls).await;
    let open = first.ask_for_stream("/s/endless").await;
    let mut second = Connection::open(server.local_addr(), Profile::Tls).await;
    let refused = second.ask_for_stream("/s/endless").await;
    assert_eq!(refused.response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(open.response.status(), StatusCode::OK);
}
