use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use http::Method;
use nara_local_api::client::CallError;
use nara_local_api::model::{Lease, Service, ServiceList};
use nara_mesh::server::VerifiedSender;
use tokio::net::UnixListener;

use crate::scene::Scene;

/// Returns the request in its answer.
pub(crate) async fn echo(sender: VerifiedSender, request: Request) -> (StatusCode, HeaderMap, String) {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let headers: Vec<String> = head.headers.keys().map(ToString::to_string).collect();
    let body = String::from_utf8_lossy(&body);
    let text = format!(
        "{} {} from {} {body} \n{}",
        head.method,
        head.uri,
        sender.name(),
        headers.join(" ")
    );
    let mut answer = HeaderMap::new();
    if head.uri.path() == "/hostile" {
        for (name, value) in [
            ("access-control-allow-origin", "*"),
            ("content-security-policy", "default-src *"),
            ("content-type", "text/html"),
            ("set-cookie", "a=b"),
        ] {
            answer.insert(name, HeaderValue::from_static(value));
        }
    }
    (StatusCode::IM_A_TEAPOT, answer, text)
}

/// Starts a program that returns the headers of its requests.
fn program(path: &std::path::Path) {
    let listener = UnixListener::bind(path).unwrap();
    let router = axum::Router::new().fallback(async |request: Request| {
        let header = |name: &str| {
            let values = request.headers().get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
                .join(",")
        };
        format!(
            "{} {} {}",
            request.uri(),
            header("x-nara-sender"),
            header("x_nara_sender")
        )
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
}

fn lease(backend: &str) -> Lease {
    Lease {
        backend: backend.to_owned(),
        lease_s: 60,
    }
}

fn name_of(error: CallError) -> String {
    match error {
        CallError::Problem(problem) => problem.name().to_owned(),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_program_is_exposed_until_its_lease_is_ended() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("program.sock");
    program(&socket);
    let backend = format!("unix:{}", socket.display());
    let put = |prefix: &'static str, lease: Lease| {
        let client = scene.client.clone();
        async move {
            let path = format!("/v1/services/{prefix}");
            client.send::<Service>(Method::PUT, &path, &lease).await
        }
    };
    let ask = || async {
        let request = http::Request::get("/team/notes/1?x").header("x_nara_sender", "root");
        let request = request.body(String::new()).unwrap();
        scene.bob.peer("alice").request(request).await
    };
    assert!(ask().await.is_err());
    let service = put("team%2Fnotes", lease(&backend)).await.unwrap();
    assert_eq!(service.prefix, "/team/notes");
    put("team%2Fnotes", lease(&backend)).await.unwrap();
    let answer = ask().await.unwrap();
    assert_eq!(answer.body(), "/1?x bob ");
    // Not our own paths, not another program, not another machine.
    for (prefix, lease, name) in [
        ("dm", lease(&backend), "prefix_taken"),
        ("team%2Fnotes", lease("http://127.0.0.1:1"), "prefix_taken"),
        ("team", lease(&backend), "prefix_taken"),
        ("a%2F..%2Fb", lease(&backend), "prefix_taken"),
        ("other", lease("http://10.0.0.1"), "invalid_request"),
        (
            "other",
            Lease {
                backend: backend.clone(),
                lease_s: 0,
            },
            "invalid_request",
        ),
    ] {
        assert_eq!(name_of(put(prefix, lease).await.unwrap_err()), name, "{prefix}");
    }
    let list: ServiceList = scene.client.get("/v1/services").await.unwrap();
    let listed = &list.services[..];
    assert!(
        matches!(listed, [service] if service.requests == 1 && service.last_sender.as_deref() == Some("bob")),
        "{listed:?}"
    );
    let delete = || {
        scene
            .client
            .request_bytes(Method::DELETE, "/v1/services/team%2Fnotes")
    };
    delete().await.unwrap();
    assert_eq!(name_of(delete().await.unwrap_err()), "no_such_service");
    assert!(ask().await.is_err());
    scene.end().await;
}

#[tokio::test]
async fn a_program_that_answers_with_more_than_the_limit_is_cut_off() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("program.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let router = axum::Router::new().fallback(async || {
        let gigabytes = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![0; 64 << 10]));
        axum::body::Body::from_stream(gigabytes)
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    let lease = lease(&format!("unix:{}", socket.display()));
    let put = scene
        .client
        .send::<Service>(Method::PUT, "/v1/services/large", &lease);
    put.await.unwrap();
    let request = http::Request::get("/large").body(String::new()).unwrap();
    let answer = scene.bob.peer("alice").request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.body().len() < 1000);
    assert!(scene.client.status().await.is_ok());
    scene.end().await;
}
