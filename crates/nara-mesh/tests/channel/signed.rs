//! Every request is verified before a handler sees it, and every answer is proven.

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use http::StatusCode;
use nara_mesh::server::{MeshServerBuilder, RouteError, ServeError, VerifiedSender};

use crate::support::{Connection, Profile, SIGNED, bob, call, insert, serve};

async fn greet(sender: VerifiedSender, body: String) -> String {
    format!("hello {}: {body}", sender.name())
}

fn notes() -> Router {
    Router::new()
        .route("/greeting", post(greet))
        .route("/at/{place}", get(async |Path(place): Path<String>| place))
        .route(
            "/panic",
            get(async || -> StatusCode { panic!("a defect of the application") }),
        )
        .route(
            "/headers",
            get(async |headers: HeaderMap| {
                let names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
                names.join(" ")
            }),
        )
}

#[tokio::test]
async fn merged_and_nested_routes_know_their_sender_and_answer_with_proof() {
    let server = serve(bob().routes(notes()).nest_routes("/notes", notes())).await;
    for profile in SIGNED {
        for path in ["/greeting", "/notes/greeting"] {
            let answer = call(&server, profile, "POST", path, "it's me").await;
            assert_eq!(
                answer.status,
                StatusCode::OK,
                "{profile:?} {path}: {}",
                answer.text()
            );
            assert_eq!(answer.text(), "hello alice: it's me");
            assert!(answer.is_proven(), "{profile:?} {path}");
        }
        let answer = call(&server, profile, "GET", "/notes/at/home%20sweet?x=1", "").await;
        assert_eq!(answer.text(), "home sweet");
    }
}

#[tokio::test]
async fn errors_of_the_router_and_of_handlers_are_proven_too() {
    let server = serve(bob().routes(notes()).nest_routes("/notes", notes())).await;
    for profile in SIGNED {
        for (method, path, status) in [
            ("GET", "/nowhere", StatusCode::NOT_FOUND),
            ("GET", "/notes", StatusCode::NOT_FOUND),
            ("GET", "/notes/nowhere", StatusCode::NOT_FOUND),
            ("GET", "/greeting", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/notes/greeting", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/notes/panic", StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            let answer = call(&server, profile, method, path, "").await;
            assert_eq!(answer.status, status, "{profile:?} {path}");
            assert!(answer.is_proven(), "{profile:?} {method} {path}");
        }
    }
    let answer = call(&server, Profile::V2, "POST", "/greeting", "still there").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn nobody_reaches_a_handler_without_a_signature() {
    let fallback = async || -> StatusCode { panic!("reached without a signature") };
    let router = Router::new().route("/x", get(fallback)).fallback(fallback);
    let server = serve(bob().routes(router.clone()).nest_routes("/notes", router)).await;
    for path in ["/x", "/y", "/notes", "/notes/", "/notes/x", "/notes/y"] {
        let answer = call(&server, Profile::Unsigned, "GET", path, "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
    }
}

#[tokio::test]
async fn a_signature_for_another_path_method_query_or_body_is_refused() {
    let server = serve(bob().nest_routes("/notes", notes())).await;
    let mut connection = Connection::open(server.local_addr(), Profile::V2).await;
    for (method, target, body) in [
        ("POST", "/notes/greeting?x=1", "a"),
        ("PUT", "/notes/greeting", "a"),
        ("POST", "/notes/at/greeting", "a"),
    ] {
        let (headers, signature) = connection.sign("POST", "/notes/greeting", Some(b"a"), |_| {});
        let head = connection
            .send(method, target, headers, signature, body.into())
            .await
            .unwrap();
        assert_eq!(
            head.response.status(),
            StatusCode::UNAUTHORIZED,
            "{method} {target}"
        );
        head.read().await.unwrap();
    }
    let (headers, signature) = connection.sign("POST", "/notes/greeting", Some(b"a"), |_| {});
    let head = connection
        .send("POST", "/notes/greeting", headers, signature, "b".into())
        .await
        .unwrap();
    let answer = head.read().await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("Content-Digest"), "{}", answer.text());
}

#[tokio::test]
async fn a_request_is_not_served_twice() {
    let server = serve(bob().nest_routes("/notes", notes())).await;
    for profile in [Profile::V1, Profile::V2] {
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let (headers, signature) = connection.sign("POST", "/notes/greeting", Some(b"a"), |_| {});
        for (body, status) in [
            ("a", StatusCode::OK),
            ("a", StatusCode::UNAUTHORIZED),
            ("b", StatusCode::UNAUTHORIZED),
        ] {
            let sent = connection.send("POST", "/notes/greeting", headers.clone(), signature, body.into());
            let answer = sent.await.unwrap().read().await.unwrap();
            assert_eq!(answer.status, status, "{profile:?} {body}");
        }
    }
}

#[tokio::test]
async fn forged_identity_headers_do_not_reach_a_handler() {
    let server = serve(bob().nest_routes("/notes", notes())).await;
    for profile in SIGNED {
        let mut connection = Connection::open(server.local_addr(), profile).await;
        let (headers, signature) = connection.sign("GET", "/notes/headers", Some(b""), |headers| {
            insert(headers, "x-nara-verified", "root");
            insert(headers, "x-nara-sender", "root");
            insert(headers, "x-other", "kept");
        });
        let head = connection
            .send("GET", "/notes/headers", headers, signature, "".into())
            .await
            .unwrap();
        let answer = head.read().await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{profile:?}: {}", answer.text());
        assert!(
            !answer.text().contains("x-nara-"),
            "{profile:?}: {}",
            answer.text()
        );
        assert!(
            answer.text().contains("x-other"),
            "{profile:?}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn unsigned_routes_accept_any_caller_and_prove_nothing() {
    let open = Router::new()
        .route("/x", get(async || "open"))
        .route("/who", get(greet));
    let server = serve(bob().danger_unsigned_routes("/open", open)).await;
    let answer = call(&server, Profile::Unsigned, "GET", "/open/x", "").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::OK, "open".to_owned())
    );
    let answer = call(&server, Profile::V2, "GET", "/open/x", "").await;
    assert!(!answer.is_proven());
    let answer = call(&server, Profile::V2, "GET", "/open/who", "").await;
    assert_eq!(
        answer.status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "no sender is verified there"
    );
    let answer = call(&server, Profile::V2, "GET", "/elsewhere", "").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_own_endpoints_are_there_beside_routes_of_the_application() {
    let fallback = async || -> StatusCode { panic!("in the way of an endpoint") };
    let server = serve(bob().routes(Router::new().fallback(fallback))).await;
    let answer = call(&server, Profile::Unsigned, "GET", "/ping", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = call(
        &server,
        Profile::V2,
        "POST",
        "/events/sync",
        r#"{"from":"alice","mode":"recent"}"#,
    )
    .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test]
async fn routes_that_collide_are_an_error_when_the_server_is_built() {
    let collision = |builder: MeshServerBuilder| match builder.build() {
        Err(ServeError::Routes(error)) => error,
        other => panic!("{other:?}"),
    };
    let error = collision(bob().routes(Router::new().route("/dm", post(greet))));
    assert!(
        matches!(&error, RouteError::RouteTaken { path, .. } if path == "/dm"),
        "{error}"
    );
    let error = collision(bob().nest_routes("/events", notes()));
    assert!(matches!(error, RouteError::PrefixTaken { .. }), "{error}");
    let twice = bob()
        .nest_routes("/notes", notes())
        .danger_unsigned_routes("/notes/open", notes());
    let error = collision(twice);
    assert!(matches!(error, RouteError::OverlappingPrefixes { .. }), "{error}");
}
