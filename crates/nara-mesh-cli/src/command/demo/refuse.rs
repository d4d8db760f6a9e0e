use std::io;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::event::{Payload, SocialPayload};
use nara_proto::go_json;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, RequestAuth};
use nara_proto::v2::{
    ContentDigest, Nonce, Recipient, RequestLine, RequestSignature, RequestToSign, SignedBody,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::nara::{DemoNara, Mesh};
use super::step::{Report, Step, StepResult, or_failed};
use crate::printer::harmless;

pub(super) const STEP: Step = Step {
    name: "refuse",
    title: "bob refuses altered, stale, replayed and downgraded requests, and one signed for carol",
};

/// Age of the stale request: well beyond the window of 30 s.
const STALE: Duration = Duration::from_secs(90);

/// Width of the shown answer texts, in columns.
const TOLD_COLUMNS: usize = 64;

/// The most bytes of an answer that are read.
const MAX_ANSWER: u64 = 64 << 10;

pub(super) async fn run(mesh: &Mesh) -> Report {
    or_failed(try_run(mesh).await)
}

/// A captured request, to be sent by an attacker.
struct Captured {
    name: &'static str,
    what: &'static str,
    target: &'static str,
    headers: HeaderMap,
    body: Vec<u8>,
    expected: u16,
}

async fn try_run(mesh: &Mesh) -> StepResult {
    let [alice, bob, carol] = mesh.trio();
    let gossip = |reason: &str| {
        go_json::to_vec(&alice.event(Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: alice.name().to_owned(),
            target: bob.name().to_owned(),
            reason: reason.to_owned(),
            ..SocialPayload::default()
        })))
    };
    let body = gossip("captured in transit");
    let now = SystemClock.now_millis();
    let signed = |to: &DemoNara, at| {
        let mut headers = HeaderMap::new();
        sign(alice, to, at, &body)?.write_to(&mut headers);
        Ok::<_, getrandom::Error>(headers)
    };
    let genuine = signed(bob, now)?;
    let mut tampered_name = signed(bob, now)?;
    tampered_name.insert(NAME_HEADER, HeaderValue::from_str(carol.name())?);
    let mut downgraded = HeaderMap::new();
    RequestAuth::sign(alice.local.keypair(), alice.local.name(), now, "POST", "/dm")
        .write_to(&mut downgraded);
    let case = |name, what, headers, expected| Captured {
        name,
        what,
        target: "/dm",
        headers,
        body: body.clone(),
        expected,
    };
    let cases = [
        Captured {
            body: gossip("swapped"),
            ..case("tampered_body", "altered body", signed(bob, now)?, 400)
        },
        Captured {
            target: "/dm?mode=page",
            ..case("tampered_query", "altered query", signed(bob, now)?, 401)
        },
        case("tampered_name", "X-Nara-Name: carol", tampered_name, 401),
        case("sent_on", "signed for carol", signed(carol, now)?, 401),
        case(
            "stale",
            "signed 90 s ago",
            signed(bob, now.saturating_sub(STALE))?,
            401,
        ),
        case("genuine", "the genuine request", genuine.clone(), 200),
        case("replayed", "the same again", genuine, 401),
        case("downgraded", "the v1 signature", downgraded, 401),
    ];
    let mut lines = Vec::new();
    let mut answers: Vec<Value> = Vec::new();
    let mut as_expected = 0;
    let count = cases.len();
    for case in cases {
        let (status, text) = post(bob, &case).await?;
        as_expected += usize::from(status == case.expected);
        let told = harmless(text.trim());
        let mut told = textwrap::wrap(&told, TOLD_COLUMNS).into_iter();
        lines.push(format!(
            "{:<24} {status}  {}",
            case.what,
            told.next().unwrap_or_default()
        ));
        lines.extend(told.map(|line| format!("{:30}{line}", "")));
        answers.push(json!({
            "request": case.name,
            "status": status,
            "expected_status": case.expected,
            "text": text,
        }));
    }
    let ok = as_expected == count;
    let summary = if ok {
        format!(
            "{} bad requests refused, the genuine one accepted once",
            count - 1
        )
    } else {
        format!("{as_expected} of {count} requests were answered as expected")
    };
    Ok(Report::new(ok, summary)
        .lines(lines)
        .figure("requests", count)
        .figure("as_expected", as_expected)
        .figure("answers", answers))
}

/// Signs a request for another nara as the client of alice does.
fn sign(
    alice: &DemoNara,
    to: &DemoNara,
    at: UnixMillis,
    body: &[u8],
) -> Result<RequestSignature, getrandom::Error> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    Ok(alice.local.signer().sign_request(&RequestToSign {
        line: RequestLine {
            method: "POST",
            path: "/dm",
            query: None,
        },
        to: &Recipient::Id(to.local.id().clone()),
        body: SignedBody::Digest(ContentDigest::of(body)),
        now: at,
        nonce: Nonce::new(at, random),
        channel: None,
    }))
}

/// Sends the bytes of a captured request, and reads status and text of the answer.
async fn post(to: &DemoNara, case: &Captured) -> io::Result<(u16, String)> {
    let Captured {
        target,
        headers,
        body,
        ..
    } = case;
    let mut request = format!("POST {target} HTTP/1.1\r\nHost: {}\r\n", to.address).into_bytes();
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
