//! The one table of where we are stricter than the naras already out there, on purpose.
//!
//! A rule is matched by what a case does, never by its name. Where a rule applies, only the fields that it lists
//! may differ, and at least one must; where none applies, nothing may.

use nara_proto::encoding::{base64_decode_canonical, base64_decode_lenient};
use nara_proto::event::Service;
use nara_proto::go_json;
use serde_json::{Map, Value};

use crate::harness::Case;

/// Deviations that show without a server or client.
const PROTO: &str = "nara-proto";

/// One deliberate deviation.
pub(crate) struct Rule {
    /// A short name for reports.
    pub(crate) id: &'static str,
    /// Why we deviate.
    pub(crate) reason: &'static str,
    /// The crate whose runner sees the deviation.
    pub(crate) seen_by: &'static str,
    /// Whether a case does the thing.
    pub(crate) applies: fn(&Case<'_>) -> bool,
    /// The fields that may differ, each with the value that we must give instead, if it is always the same.
    pub(crate) differs: &'static [(&'static str, Option<&'static str>)],
}

impl Rule {
    /// Whether the rule allows `field` to be `got`.
    pub(crate) fn explains(&self, field: &str, got: &Value) -> bool {
        let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
        let mut fields = self.differs.iter();
        fields.any(|&(name, ours)| name == field && ours.is_none_or(|ours| ours == got))
    }
}

/// What a request shows when its headers are refused: the verdict, and the reason that the peer is told.
const REFUSED: &[(&str, Option<&str>)] = &[
    ("expect", Some("invalid")),
    ("sender", Some("null")),
    ("status", Some("401")),
    ("error", None),
    ("body", None),
    ("response_body", None),
];

/// All rules.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "repeated-header",
        reason: "of two values one reader believes the first and another the last",
        seen_by: PROTO,
        applies: |case| is_header_verdict(case) && has_repeated_header(case),
        differs: REFUSED,
    },
    Rule {
        id: "second-spelling-of-time",
        reason: "with `+5` or `005` beside `5`, one signature would be several requests for a replay cache",
        seen_by: PROTO,
        applies: |case| {
            is_header_verdict(case)
                && !has_repeated_header(case)
                && header(case, "X-Nara-Timestamp").is_some_and(is_second_spelling_of_number)
        },
        differs: REFUSED,
    },
    Rule {
        id: "second-spelling-of-signature",
        reason: "with non-canonical base64, one signature would be several requests for a replay cache",
        seen_by: PROTO,
        applies: |case| {
            is_header_verdict(case)
                && !has_repeated_header(case)
                && header(case, "X-Nara-Timestamp").is_some_and(|text| text.parse::<i64>().is_ok())
                && header(case, "X-Nara-Signature").is_some_and(is_second_spelling_of_base64)
        },
        differs: REFUSED,
    },
    Rule {
        id: "payload-missing",
        reason: "others crash on an event without the payload of its service; to us it is an invalid event",
        seen_by: PROTO,
        applies: |case| case.file() == "event_decode.json" && lacks_payload(case),
        differs: &[("content_panics", Some("false"))],
    },
];

/// Whether the case is about the verdict on authentication headers, and all three are there. Of responses only
/// the verdict is compared, not the reason, so one that is refused anyway shows no difference.
fn is_header_verdict(case: &Case<'_>) -> bool {
    let verdict = match case.file() {
        "request_auth.json" => true,
        "http.json" => case.peek("status").is_some(),
        "response_auth.json" => case.peek("expect").is_some_and(|expect| expect == "valid"),
        _ => false,
    };
    verdict
        && ["X-Nara-Name", "X-Nara-Timestamp", "X-Nara-Signature"]
            .iter()
            .all(|name| header(case, name).is_some_and(|value| !value.is_empty()))
}

fn headers<'a>(case: &Case<'a>) -> Option<&'a Map<String, Value>> {
    ["headers", "received_headers", "request_headers"]
        .iter()
        .find_map(|field| case.peek(field))?
        .as_object()
}

/// The first value of a header.
fn header<'a>(case: &Case<'a>, name: &str) -> Option<&'a str> {
    match headers(case)?.get(name)? {
        Value::Array(values) => values.first()?.as_str(),
        value => value.as_str(),
    }
}

fn has_repeated_header(case: &Case<'_>) -> bool {
    headers(case).is_some_and(|headers| {
        headers
            .values()
            .any(|value| value.as_array().is_some_and(|values| values.len() > 1))
    })
}

fn is_second_spelling_of_number(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|value| value.to_string() != text)
}

fn is_second_spelling_of_base64(text: &str) -> bool {
    base64_decode_lenient(text.as_bytes()).is_ok() && base64_decode_canonical(text.as_bytes()).is_err()
}

/// Whether the event names a service that is known and does not carry its payload.
fn lacks_payload(case: &Case<'_>) -> bool {
    let Some(json) = case.peek("json").and_then(Value::as_str) else {
        return false;
    };
    let Ok(event) = go_json::from_slice::<nara_proto::event::SyncEvent>(json.as_bytes()) else {
        return false;
    };
    match event.service() {
        Some(Service::Chau) => event.chau.is_none(),
        Some(Service::Checkpoint) => event.checkpoint.is_none(),
        Some(Service::HeyThere) => event.hey_there.is_none(),
        Some(Service::Observation) => event.observation.is_none(),
        Some(Service::Ping) => event.ping.is_none(),
        Some(Service::Seen) => event.seen.is_none(),
        Some(Service::Social) => event.social.is_none(),
        _ => false,
    }
}
