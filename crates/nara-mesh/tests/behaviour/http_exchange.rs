//! `http.json`: whole exchanges with the server of the fixture.

use nara_proto::endpoint::{Endpoint as _, GossipZine, PeerQuery};
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuth;
use serde_json::{Map, Value};

use crate::harness::{Case, Unreadable};
use crate::raw_http::{self, RawResponse};
use crate::server::{Presence, Server};

pub(crate) fn exchange(case: &Case<'_>) -> Result<(), Unreadable> {
    let fixture = case.fixture()?;
    let now = UnixMillis::new(case.int("server_now_ms")?);
    let mut ledger = fixture.texts("ledger")?;
    if has_empty_ledger(case, &ledger) {
        ledger.clear();
    }
    let presence = if was_recorded_alone(case) {
        Presence::NobodyOnline
    } else {
        Presence::AllOnline
    };
    let server = Server::start(&fixture, &ledger, now, presence, None)?;
    let before = server.count();
    let answer = server.send(&request(case)?);
    let growth = server.count() - before;

    if case.text("expect")? == "aborted" {
        // There is no answer to compare with; a rule must allow ours.
        case.prose(&[
            "status",
            "response_headers",
            "response_body",
            "response_body_exact",
        ]);
        case.prose(&["response_signed", "response_signature_valid", "ledger_growth"]);
        let ours = answer.map_or_else(|| "aborted".to_owned(), |answer| answer.status.to_string());
        case.check("expect", ours);
        return Ok(());
    }
    let answer = answer.ok_or_else(|| case.fail("expect", case.peek("expect").cloned(), "aborted"))?;
    case.check("expect", answer.status.to_string());
    case.check("status", answer.status);
    case.check("ledger_growth", growth);
    check_answer(case, &server, &answer)
}

/// The exchanges were recorded with the events of the fixture, except for those whose answer shows that there were
/// none: no checkpoints, or a zine without them.
fn has_empty_ledger(case: &Case<'_>, ledger: &[&str]) -> bool {
    let Some(body) = case.peek("response_body").and_then(Value::as_str) else {
        return false;
    };
    let is_zine = case
        .peek("request_target")
        .is_some_and(|target| target == GossipZine::PATH);
    let is_answered = case.peek("status").is_some_and(|status| status == 200);
    body.starts_with("{\"checkpoints\":null,")
        || (is_zine && is_answered && !ledger.iter().any(|event| body.contains(event)))
}

/// The exchanges were recorded with all naras of the fixture online, except for a query that found no next nara
/// although it had asked none.
fn was_recorded_alone(case: &Case<'_>) -> bool {
    let target = case.peek("request_target").and_then(Value::as_str);
    let query = target.and_then(|target| target.strip_prefix(PeerQuery::PATH)?.strip_prefix('?'));
    query.is_some_and(|query| {
        let mut fields = form_urlencoded::parse(query.as_bytes());
        fields.all(|(name, value)| name != "asked" || value.is_empty())
    }) && case.peek("status").is_some_and(|status| status == 404)
}

fn request(case: &Case<'_>) -> Result<Vec<u8>, Unreadable> {
    let mut headers = Vec::new();
    for (name, value) in case.entries("request_headers")? {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            value => std::slice::from_ref(value),
        };
        for value in values {
            let value = value
                .as_str()
                .ok_or_else(|| case.fail("request_headers", "texts", value.clone()))?;
            headers.push((name, value.as_bytes()));
        }
    }
    Ok(raw_http::request(
        case.text("method")?,
        case.text("request_target")?,
        &headers,
        case.text("request_body")?.as_bytes(),
    ))
}

fn check_answer(case: &Case<'_>, server: &Server, answer: &RawResponse) -> Result<(), Unreadable> {
    let signed = answer.header("X-Nara-Signature").is_some();
    case.check("response_signed", signed);
    if !case.flag("response_body_exact")? {
        case.prose(&["response_headers", "response_body"]);
        let valid = is_signed_by(server, answer, &answer.body);
        case.check("response_signature_valid", valid);
        return Ok(());
    }

    // An answer to HEAD was recorded with its body, which is not sent.
    let expected = case.text("response_body")?;
    let is_head = case.text("method")? == "HEAD";
    if is_head {
        let length = answer.header("Content-Length");
        case.claim(
            "response_body",
            "has the length of the body that is not sent",
            length.is_none_or(|length| length == expected.len().to_string()),
        );
    } else {
        case.check("response_body", answer.text());
    }
    let body = if is_head {
        expected.as_bytes()
    } else {
        &answer.body
    };
    case.check("response_signature_valid", is_signed_by(server, answer, body));
    check_headers(case, server, answer)
}

fn is_signed_by(server: &Server, answer: &RawResponse, body: &[u8]) -> bool {
    ResponseAuth::from_headers(&answer.header_map())
        .is_ok_and(|auth| auth.verify_signature(&server.key, body).is_ok())
}

/// All recorded headers are equal: the clock stands still, so the signature is equal, too.
fn check_headers(case: &Case<'_>, server: &Server, answer: &RawResponse) -> Result<(), Unreadable> {
    let mut ours = Map::new();
    for (name, expected) in case.entries("response_headers")? {
        let got = answer.header(name);
        let equivalent = name == "X-Nara-Redirect-To" && is_possible_redirect(case, server, got.as_deref())?;
        let got = if equivalent { expected.clone() } else { got.into() };
        ours.insert(name.to_owned(), got);
    }
    case.check("response_headers", ours);
    Ok(())
}

/// Which of several neighbours is named next is unspecified: any that was not asked yet is allowed.
fn is_possible_redirect(case: &Case<'_>, server: &Server, got: Option<&str>) -> Result<bool, Unreadable> {
    let target = case.text("request_target")?;
    let (_, query) = target.split_once('?').unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "asked")
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default();
    Ok(server
        .peers
        .iter()
        .any(|peer| Some(peer.as_str()) == got && !asked.split(',').any(|name| name == peer.as_str())))
}
