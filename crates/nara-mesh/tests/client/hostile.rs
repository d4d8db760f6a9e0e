//! Peers that do not speak HTTP, or send too much. Each must end in an error, in time and within bounds.

use std::time::Duration;

use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::transport::Transport as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Mesh, address, introduce, nara, timed};

/// Starts a peer that writes `head`, then `tail` for ever, whatever the request.
async fn raw_peer(mesh: &Mesh, last: u8, head: Vec<u8>, tail: &'static [u8]) {
    let mut listener = mesh
        .network
        .host(address(last).ip())
        .listen(address(last))
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = head.clone();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let mut written = stream.write_all(&head).await;
                while written.is_ok() && !tail.is_empty() {
                    written = stream.write_all(tail).await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn invalid_http_is_an_error_and_no_panic() {
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(100));
    let long_header = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    let answers: [&[u8]; 14] = [
        b"",
        b"\0\xff\xfe",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        many_headers.as_bytes(),
        long_header.as_bytes(),
    ];
    for answer in answers {
        let mesh = Mesh::new();
        let client = mesh.client();
        raw_peer(&mesh, 2, answer.to_vec(), b"").await;
        let id = introduce(&client, &nara("bob"), address(2));
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let call = client.fetch_sync_events(&id, SyncRequest::recent(1));
        let (outcome, took) = timed(call).await;
        assert!(outcome.is_err(), "{shown}");
        assert!(took <= Duration::from_secs(5), "{shown}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_end_ends_at_its_limit_or_at_the_deadline() {
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let heads: [(&[u8], &[u8]); 4] = [
        // An endless body, endless headers, endless interim answers, endless trailers.
        (chunked, b"4\r\nabcd\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
            b"a: b\r\n",
        ),
    ];
    for (head, tail) in heads {
        let mesh = Mesh::new();
        let client = mesh.client();
        raw_peer(&mesh, 2, head.to_vec(), tail).await;
        let (outcome, took) = timed(client.ping(address(2))).await;
        assert!(outcome.is_err());
        assert!(took <= Duration::from_secs(5), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_an_answer_do_not_answer_the_next_request() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let body = r#"{"from":"bob"}"#;
    let one = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let smuggled = one.replace("bob", "eve");
    raw_peer(&mesh, 2, format!("{one}{smuggled}").into_bytes(), b"").await;
    for _ in 0..3 {
        let report = client.ping(address(2)).await.unwrap();
        assert_eq!(report.response.from, "bob");
    }
}
