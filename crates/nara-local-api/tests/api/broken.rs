//! Naras that stop in the middle of an answer.

use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::{CallError, LocalClient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// Returns the result of a client if the server answers these bytes and closes.
fn answering(socket: &std::path::Path, answer: &'static str) -> LocalClient {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    LocalClient::new(socket)
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let streamed = answering(
        &folder.path().join("streamed"),
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         1c\r\nevent: state\ndata: {\"x\":1}\n\n\r\n",
    );
    let mut events = streamed.events(Method::GET, "/v1/events/live").await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().data, "{\"x\":1}");
    let broken = events.next().await.unwrap().unwrap_err();
    assert!(matches!(broken, CallError::BrokenOff { .. }), "{broken:?}");
    assert!(
        broken.is_gone() && broken.to_string().contains("broke off"),
        "{broken}"
    );

    let whole = answering(
        &folder.path().join("whole"),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"name",
    );
    let broken = whole.status().await.unwrap_err();
    assert!(matches!(broken, CallError::BrokenOff { .. }), "{broken:?}");

    // An answer of an unknown form is a different error.
    let other = answering(
        &folder.path().join("other"),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
    );
    let malformed = other.status().await.unwrap_err();
    assert!(matches!(malformed, CallError::Malformed { .. }), "{malformed:?}");
    assert!(!malformed.is_gone());
}
