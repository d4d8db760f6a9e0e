//! `sync_select.json`: the server's selection, requested over its socket.

use std::collections::BTreeSet;

use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::{KeyPair, NaraName, Soul};
use nara_proto::sync::{SyncRequest, SyncResponse, is_critical};
use nara_proto::time::UnixMillis;
use nara_proto::v1::RequestAuth;
use serde_json::Value;

use crate::harness::{Case, Unreadable};
use crate::raw_http::{self, RawResponse};
use crate::server::{Presence, Server};

pub(crate) fn sync_select(case: &Case<'_>) -> Result<(), Unreadable> {
    let fixture = case.fixture()?;
    let now = UnixMillis::new(fixture.int("now_ms")?);
    let body = case.text("request_json")?;
    let request = go_json::from_slice::<SyncRequest>(body.as_bytes()).unwrap_or_default();

    // The requests were recorded without a sender; ours signs as the nara in the body.
    let name: NaraName = request
        .from
        .parse()
        .unwrap_or_else(|_| "x".parse().expect("a name"));
    let keypair = KeyPair::from_soul(&Soul::bond([7; 32], name.as_str()));
    let sender = Some((name.clone(), keypair.public_key()));
    let server = Server::start(&fixture, &case.texts("ledger")?, now, Presence::AllOnline, sender)?;
    case.check("responder_public_key_b64", server.key.to_base64());

    let auth = RequestAuth::sign(&keypair, &name, now, "POST", "/events/sync");
    let mut headers = http::HeaderMap::new();
    auth.write_to(&mut headers);
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let answer = server.send(&raw_http::request(
        "POST",
        "/events/sync",
        &headers,
        body.as_bytes(),
    ));
    let answer = answer.ok_or_else(|| case.fail("status", case.peek("status").cloned(), "aborted"))?;

    case.check("status", answer.status);
    case.check("expect", if answer.status == 200 { "ok" } else { "error" });
    case.check_optional("content_type", answer.header("Content-Type"));
    if answer.status != 200 {
        case.check_optional("response_body", Some(answer.text()));
        case.prose(&["ledger", "tied_ids", "event_ids", "events_is_null", "next_cursor"]);
        return Ok(());
    }
    check_selection(case, &request, &answer)
}

fn check_selection(case: &Case<'_>, request: &SyncRequest, answer: &RawResponse) -> Result<(), Unreadable> {
    let response: SyncResponse = go_json::from_slice(&answer.body)
        .map_err(|error| case.fail("response_body", "a sync response", error.to_string()))?;
    case.check("events_is_null", response.events.is_none());
    case.check("next_cursor", response.next_cursor.as_str());

    let tied: BTreeSet<&str> = case.texts("tied_ids")?.into_iter().collect();
    let expected = case.texts("event_ids")?;
    let ours: Vec<&str> = response.events().iter().map(|event| event.id.as_str()).collect();
    let same_but_for_ties = ours.len() == expected.len()
        && ours
            .iter()
            .zip(&expected)
            .all(|(ours, theirs)| ours == theirs || (tied.contains(ours) && tied.contains(theirs)));
    let distinct: BTreeSet<&str> = ours.iter().copied().collect();
    case.claim("event_ids", "are distinct", distinct.len() == ours.len());

    if ours == expected {
        case.check("response_body", answer.text());
    } else if same_but_for_ties {
        case.prose(&["response_body"]);
    } else if request.mode == "sample" && is_possible_sample(case, &response, expected.len())? {
        // A random choice differs from theirs.
        case.prose(&["response_body"]);
    } else {
        let ours: Vec<Value> = ours.into_iter().map(Value::from).collect();
        case.check("event_ids", ours);
        case.prose(&["response_body"]);
    }
    Ok(())
}

/// Checks for as many events as theirs, oldest first, with all critical ones that fit.
fn is_possible_sample(case: &Case<'_>, response: &SyncResponse, len: usize) -> Result<bool, Unreadable> {
    let ledger = case.texts("ledger")?;
    let ledger: Vec<SyncEvent> = ledger
        .iter()
        .filter_map(|text| go_json::from_slice(text.as_bytes()).ok())
        .collect();
    let critical: Vec<_> = ledger.iter().filter(|event| is_critical(event)).collect();
    let events = response.events();
    Ok(events.len() == len
        && critical.len() < len
        && events.is_sorted_by_key(|event| event.ts)
        && critical.into_iter().all(|event| events.contains(event)))
}
