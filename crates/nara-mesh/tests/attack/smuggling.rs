//! Requests that two readers could parse differently. No proxy here could disagree with the server; it must still never
//! parse two requests from one, nor one request in two ways.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use crate::raw_http;
use crate::support::{NOW, Target, nara, seen, signed};

/// Sends bytes, closes the sending side, and returns everything that is received.
fn converse(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = raw_http::connect(address).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes);
    // If the end arrived with the request, the server would drop the request, so an answer is read first.
    let mut answer = vec![0; 64 << 10];
    let read = stream.read(&mut answer).unwrap_or_default();
    answer.truncate(read);
    let _ = stream.shutdown(Shutdown::Write);
    // A reset instead of an end keeps the received bytes.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answers: &str) -> Vec<&str> {
    let lines = answers.lines().filter(|line| line.starts_with("HTTP/1.1 "));
    lines.map(|line| &line[9..12]).collect()
}

/// Returns a signed `POST /dm` of alice with additional header lines, as raw text.
fn head(lines: &str) -> String {
    let mut head = "POST /dm HTTP/1.1\r\nHost: nara\r\n".to_owned();
    for (name, value) in signed(&nara("alice"), NOW, "POST", "/dm") {
        head.push_str(&format!("{name}: {}\r\n", String::from_utf8(value).unwrap()));
    }
    head + lines + "\r\n"
}

fn direct_message() -> String {
    let event = seen(&nara("alice"), "bob", "mesh", NOW.to_nanos());
    String::from_utf8(nara_proto::go_json::to_vec(&event)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_two_kinds_of_length_is_one_request_and_the_last_of_its_connection() {
    let hidden = "GET /ping HTTP/1.1\r\nHost: nara\r\n\r\n";
    let body = format!("0\r\n\r\n{hidden}");
    for lines in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len()),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", body.len()),
    ] {
        let target = Target::start().await;
        let answers = converse(target.address(), format!("{}{body}", head(&lines)).as_bytes());
        // Chunked takes precedence, so the body is empty; the bytes after it are not answered.
        assert_eq!(statuses(&answers), ["400"], "{answers}");
        assert!(answers.contains("Invalid JSON"), "{answers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_disagree_or_are_no_numbers_are_refused() {
    let target = Target::start().await;
    let message = direct_message();
    for lines in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 2\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 0x10\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
    ] {
        let answers = converse(target.address(), format!("{}{message}", head(lines)).as_bytes());
        assert_eq!(statuses(&answers), ["400"], "{lines:?}: {answers}");
    }
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_that_does_not_end_in_chunked_is_refused() {
    let target = Target::start().await;
    let message = direct_message();
    let chunk = format!("{:x}\r\n{message}\r\n0\r\n\r\n", message.len());
    for encoding in [
        "identity",
        "chunked, identity",
        "xchunked",
        "gzip",
        "chunked\u{b}",
    ] {
        let lines = format!("Transfer-Encoding: {encoding}\r\n");
        let answers = converse(target.address(), format!("{}{chunk}", head(&lines)).as_bytes());
        assert_eq!(statuses(&answers), ["400"], "{encoding:?}: {answers}");
    }
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_none_bring_no_message() {
    let target = Target::start().await;
    let message = direct_message();
    let length = message.len();
    for chunks in [
        format!("fffffffffffffffff\r\n{message}\r\n0\r\n\r\n"),
        format!("-1\r\n{message}\r\n0\r\n\r\n"),
        format!("0x{length:x}\r\n{message}\r\n0\r\n\r\n"),
        format!("{length:x}\n{message}\n0\n\n"),
        format!("{length:x}\r\n{message}0\r\n\r\n"),
        format!("{length:x}\r\n{message}\r\n"),
        format!("{length:x};{}\r\n{message}\r\n0\r\n\r\n", "x".repeat(1 << 20)),
    ] {
        let lines = "Transfer-Encoding: chunked\r\n";
        let answers = converse(target.address(), format!("{}{chunks}", head(lines)).as_bytes());
        let shown: String = chunks.chars().take(30).collect();
        assert!(!statuses(&answers).contains(&"200"), "{shown:?}: {answers}");
    }
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_folded_or_crooked_is_refused() {
    let target = Target::start().await;
    let message = direct_message();
    for crooked in [
        "X-Nara-To: bob\r\n carol\r\n",
        "X-Nara-To: bob\r\n\tcarol\r\n",
        " X-Nara-To: bob\r\n",
        "X-Nara-To : bob\r\n",
        "X-Nara-To\r\n",
        ": bob\r\n",
        "X-Nara-To: bob\0carol\r\n",
        "X-Nara-To: bob\rX-Nara-Name: carol\r\n",
        "X Nara: bob\r\n",
    ] {
        let lines = format!("{crooked}Content-Length: {}\r\n", message.len());
        let answers = converse(target.address(), format!("{}{message}", head(&lines)).as_bytes());
        assert_eq!(statuses(&answers), ["400"], "{crooked:?}: {answers}");
    }
    assert_eq!(target.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_a_refused_request_on_its_connection_is_judged_by_itself() {
    // The body of a stranger's request is not read: it must not become the next request.
    let target = Target::start().await;
    let hidden = "GET /ping HTTP/1.1\r\nHost: nara\r\n\r\n";
    let bytes = format!(
        "POST /dm HTTP/1.1\r\nHost: nara\r\nContent-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let answers = converse(target.address(), bytes.as_bytes());
    assert_eq!(statuses(&answers), ["401"], "{answers}");
}
