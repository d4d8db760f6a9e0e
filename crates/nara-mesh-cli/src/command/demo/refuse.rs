use std::io;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::auth::{NAME_HEADER, RequestAuth, TIMESTAMP_HEADER};
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::go_json;
use nara_proto::time::UnixMillis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::harmless;

pub(super) const STEP: Step = Step {
    name: "refuse",
    title: "bob refuses what is not what alice signed, not fresh, or not the first time",
};

/// How old the stale request is: well past the window of 30 s.
const STALE: Duration = Duration::from_secs(90);

/// How long ago the others were captured.
const CAPTURED_BEFORE_MS: i64 = 500;

/// The most bytes of an answer that are read.
const MAX_ANSWER: u64 = 64 << 10;

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, carol] = mesh.trio();
    let body = go_json::to_vec(&alice.event(Payload::Social(SocialPayload {
        kind: "gossip".to_owned(),
        actor: alice.name().to_owned(),
        target: bob.name().to_owned(),
        reason: "captured on its way".to_owned(),
        ..SocialPayload::default()
    })));
    let now = SystemClock.now_millis();
    let signed = |at| {
        let mut headers = HeaderMap::new();
        RequestAuth::sign(alice.local.keypair(), alice.local.name(), at, "POST", "/dm")
            .write_to(&mut headers);
        headers
    };
    // Each has a time of its own, and all lie before anything that the client of alice signs from now on, so
    // that none is a replay of another.
    let at = |number: i64| UnixMillis::new(now.get() - CAPTURED_BEFORE_MS + number);
    let mut tampered_name = signed(at(1));
    tampered_name.insert(NAME_HEADER, HeaderValue::from_str(carol.name())?);
    let mut tampered_time = signed(at(2));
    tampered_time.insert(TIMESTAMP_HEADER, HeaderValue::from(at(3).get()));
    let genuine = signed(at(4));
    let cases = [
        ("tampered_name", "X-Nara-Name: carol", tampered_name, 401),
        (
            "tampered_timestamp",
            "X-Nara-Timestamp + 1 ms",
            tampered_time,
            401,
        ),
        ("stale", "signed 90 s ago", signed(now.saturating_sub(STALE)), 401),
        ("genuine", "as alice signed it", genuine.clone(), 200),
        ("replayed", "the same once more", genuine, 401),
    ];
    let mut lines = Vec::new();
    let mut answers: Vec<Value> = Vec::new();
    let mut as_expected = 0;
    let count = cases.len();
    for (name, what, headers, expected) in cases {
        let (status, text) = post(bob, &headers, &body).await?;
        as_expected += usize::from(status == expected);
        lines.push(format!("{what:<24} {status}  {}", harmless(text.trim())));
        answers.push(json!({ "request": name, "status": status, "expected_status": expected, "text": text }));
    }
    let ok = as_expected == count;
    let summary = if ok {
        "4 bad requests refused with 401, the genuine one accepted once".to_owned()
    } else {
        format!("{as_expected} of {count} requests were answered as they should be")
    };
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("requests", count)
        .figure("as_expected", as_expected)
        .figure("answers", answers))
}

/// Sends the bytes of a request, as somebody would who captured them, and reads status and text of the answer.
async fn post(to: &DemoNara, headers: &HeaderMap, body: &[u8]) -> io::Result<(u16, String)> {
    let mut request = format!("POST /dm HTTP/1.1\r\nHost: {}\r\n", to.address).into_bytes();
    for (name, value) in headers {
        request.extend_from_slice(name.as_str().as_bytes());
        request.extend_from_slice(b": ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    let rest = format!(
        "Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request.extend_from_slice(rest.as_bytes());
    request.extend_from_slice(body);
    let mut stream = TcpStream::connect(to.address).await?;
    stream.write_all(&request).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let text = answer.split_once("\r\n\r\n").map(|(_, text)| text.to_owned());
    status
        .zip(text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}
