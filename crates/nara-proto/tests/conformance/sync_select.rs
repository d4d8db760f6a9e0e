//! `sync_select.json`, as far as possible without a ledger: parsing of the request, its mode and filter, and the
//! spelling and signature of the response. A plain scan selects the events here; `nara-mesh` checks its ledgers against
//! the same file.

use std::collections::BTreeSet;

use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::PublicKey;
use nara_proto::sync::{Cursor, SyncMode, SyncRequest, SyncResponse, is_critical};
use nara_proto::time::UnixNanos;

use crate::harness::{Case, Unreadable};

pub(crate) fn sync_select(case: &Case<'_>) -> Result<(), Unreadable> {
    let mut ledger = Vec::new();
    for text in case.texts("ledger")? {
        let event = go_json::from_slice::<SyncEvent>(text.as_bytes())
            .map_err(|error| case.fail("ledger", text, error.to_string()))?;
        case.claim(
            "ledger",
            "is spelled as we spell it",
            go_json::to_string(&event) == text,
        );
        ledger.push(event);
    }
    let ties = ties(&ledger);
    let tied = ledger
        .iter()
        .filter(|event| ties.contains(&event.ts))
        .map(|event| event.id.as_str());
    let tied: BTreeSet<&str> = tied.collect();
    case.claim(
        "tied_ids",
        "the events that share a time",
        tied == case.texts("tied_ids")?.into_iter().collect(),
    );

    let key = case.text("responder_public_key_b64")?;
    let key = PublicKey::from_base64(key).map_err(|_| case.fail("responder_public_key_b64", "a key", key))?;

    let request = go_json::from_slice::<SyncRequest>(case.text("request_json")?.as_bytes());
    let refusal = match &request {
        Err(_) => Some("Invalid JSON\n"),
        Ok(request) if request.from.is_empty() => Some("from is required\n"),
        Ok(_) => None,
    };
    case.check("expect", if refusal.is_none() { "ok" } else { "error" });
    case.check("status", if refusal.is_none() { 200 } else { 400 });
    let content_type = if refusal.is_none() {
        "application/json; charset=utf-8"
    } else {
        "text/plain; charset=utf-8"
    };
    case.check("content_type", content_type);
    let request = match (request, refusal) {
        (Ok(request), None) => request,
        (_, refusal) => {
            case.check_optional("response_body", refusal);
            return Ok(());
        }
    };

    let body = case.text("response_body")?;
    let response = go_json::from_slice::<SyncResponse>(body.as_bytes())
        .map_err(|error| case.fail("response_body", body, error.to_string()))?;
    case.check(
        "response_body",
        String::from_utf8_lossy(&go_json::to_body(&response)),
    );
    case.claim(
        "response_body",
        "is signed by the responder",
        response.verify(&key).is_ok(),
    );
    case.claim(
        "response_body",
        "holds events of the ledger, unchanged",
        response.events().iter().all(|event| ledger.contains(event)),
    );
    case.check_texts(
        "event_ids",
        response.events().iter().map(|event| event.id.as_str()),
    );
    case.check("events_is_null", response.events.is_none());
    case.check("next_cursor", response.next_cursor.as_str());

    let wanted: Vec<&SyncEvent> = ledger
        .iter()
        .filter(|event| request.filter().matches(event))
        .collect();
    let selection = select(&request.mode(), wanted);
    let got: Vec<&SyncEvent> = response.events().iter().collect();
    let distinct: BTreeSet<&str> = got.iter().map(|event| event.id.as_str()).collect();
    let holds = distinct.len() == got.len()
        && match &selection {
            Selection::Exactly(events) => same_but_for_ties(events, &got, &ties),
            Selection::Sample { critical, size } => {
                got.len() == *size
                    && got.is_sorted_by_key(|event| event.ts)
                    && critical.iter().all(|event| distinct.contains(event.id.as_str()))
            }
        };
    case.claim("event_ids", "what the mode selects", holds);

    let next = match request.mode() {
        SyncMode::Page { size, .. } if got.len() == size => got.last().map(|event| event.ts.to_string()),
        _ => None,
    };
    case.check("next_cursor", next.unwrap_or_default());
    case.check("events_is_null", got.is_empty());
    Ok(())
}

/// The selection of a mode.
enum Selection<'a> {
    Exactly(Vec<&'a SyncEvent>),
    /// `size` events, the critical ones among them, oldest first.
    Sample {
        critical: Vec<&'a SyncEvent>,
        size: usize,
    },
}

fn select<'a>(mode: &SyncMode, mut events: Vec<&'a SyncEvent>) -> Selection<'a> {
    events.sort_by_key(|event| event.ts);
    match mode {
        SyncMode::Page { after, size, .. } => {
            events.retain(|event| Cursor::behind(event) > *after);
            events.truncate(*size);
        }
        SyncMode::Recent { limit } => {
            events.reverse();
            events.truncate(*limit);
        }
        SyncMode::Sample { size } if events.len() > *size => {
            let mut critical: Vec<_> = events.into_iter().filter(|event| is_critical(event)).collect();
            if critical.len() < *size {
                return Selection::Sample {
                    critical,
                    size: *size,
                };
            }
            critical.truncate(*size);
            return Selection::Exactly(critical);
        }
        SyncMode::Legacy {
            since,
            slice_index,
            slice_total,
            max_events,
        } => {
            if since.get() > 0 {
                events.retain(|event| event.ts > *since);
            }
            let slice = events.into_iter().skip(*slice_index).step_by(*slice_total);
            events = slice.collect();
            events.drain(..events.len().saturating_sub(*max_events));
        }
        _ => {}
    }
    Selection::Exactly(events)
}

/// Returns the times that several events share: their relative order is unspecified.
fn ties(ledger: &[SyncEvent]) -> BTreeSet<UnixNanos> {
    let mut seen = BTreeSet::new();
    ledger
        .iter()
        .map(|event| event.ts)
        .filter(|ts| !seen.insert(*ts))
        .collect()
}

fn same_but_for_ties(ours: &[&SyncEvent], theirs: &[&SyncEvent], ties: &BTreeSet<UnixNanos>) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| ours.ts == theirs.ts && (ours.id == theirs.id || ties.contains(&ours.ts)))
}
