//! Shared limits: a caller that holds its permits for long leaves others theirs.

use http::Method;
use nara_local_api::model::Rights;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::loopback::Loopback;
use crate::transfers::silent_carol;

#[tokio::test]
async fn callers_without_all_rights_leave_the_operator_a_place_for_a_transfer() {
    let local = Loopback::new().await;
    let silent = silent_carol(&local.scene).await;
    let tokens = [
        local.token(Rights::Messages).await,
        local.token(Rights::Messages).await,
        local.token(Rights::Messages).await,
    ];
    let what = "/v1/peers/carol/sync?timeout_ms=600000";
    let begin = async |token: &str| {
        let mut stream = TcpStream::connect(local.address).await.unwrap();
        let head = format!("POST {what} HTTP/1.1\r\nhost: {}\r\n{token}", local.address);
        let request = format!("{head}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        (stream, String::from_utf8_lossy(&status).into_owned())
    };
    let mut held = Vec::new();
    for token in &tokens[..2] {
        for _ in 0..6 {
            let (stream, status) = begin(token).await;
            assert_eq!(status, "HTTP/1.1 200");
            held.push(stream);
        }
        // No caller takes the permits of all others.
        assert_eq!(begin(token).await.1, "HTTP/1.1 503");
    }
    assert_eq!(begin(&tokens[2]).await.1, "HTTP/1.1 503");
    let client = &local.scene.client;
    let own = client.events(Method::POST, what).await;
    assert!(own.is_ok());
    drop((own, held, silent));
    local.scene.end().await;
}

#[tokio::test]
async fn a_caller_without_all_rights_does_not_keep_others_from_streaming_to_peers() {
    let local = Loopback::new().await;
    let (one, other) = (
        local.token(Rights::Messages).await,
        local.token(Rights::Messages).await,
    );
    let begin = async |token: &str| {
        let mut stream = TcpStream::connect(local.address).await.unwrap();
        let head = format!(
            "POST /v1/peers/bob/http/ HTTP/1.1\r\nhost: {}\r\n{token}",
            local.address
        );
        let request = format!(
            "{head}\r\ntransfer-encoding: chunked\r\nx-nara-stream: ?1\r\nx-nara-timeout-ms: 600000\r\n\r\n3\r\nabc\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let used = async || {
        let limits = local.scene.client.status().await.unwrap().limits;
        limits.iter().find(|limit| limit.name == "uploads").unwrap().used
    };
    // They wait for a permit.
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(begin(&one).await);
    }
    while used().await < 6 {
        tokio::task::yield_now().await;
    }
    for token in [&other, &local.bearer()] {
        let mut stream = begin(token).await;
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 418");
        assert_eq!(used().await, 6);
    }
    drop(held);
    local.scene.end().await;
}
