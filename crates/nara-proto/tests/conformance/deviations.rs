//! The table of deliberate deviations: where we are stricter than v1 peers.
//!
//! A rule is matched by what a case does, never by its name. Where a rule applies, only the fields that it lists
//! may differ, and at least one must; where none applies, nothing may.

use std::collections::{BTreeMap, BTreeSet};

use nara_proto::encoding::{base64_decode_canonical, base64_decode_lenient};
use nara_proto::endpoint::{DirectMessage, Endpoint, EventsImport, EventsSync, GossipZine, Ping, WorldRelay};
use nara_proto::event::{EventProblem, EventReception, KeyLookup, KeyStanding, SyncEvent, verify_events};
use nara_proto::go_json::{self, Merge};
use nara_proto::identity::PublicKey;
use nara_proto::import::ImportRequest;
use nara_proto::sync::SyncRequest;
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::world::{MIN_ID_LEN, WorldMessage};
use nara_proto::zine::Zine;
use serde_json::{Map, Value};

use crate::harness::Case;

/// Deviations that are visible without a server or client.
const PROTO: &str = "nara-proto";
/// Deviations that are visible only with a server or client.
const MESH: &str = "nara-mesh";

/// One deliberate deviation.
pub(crate) struct Rule {
    /// A short name for reports.
    pub(crate) id: &'static str,
    /// The reason for the deviation.
    pub(crate) reason: &'static str,
    /// The crates whose runners see the deviation.
    pub(crate) seen_by: &'static [&'static str],
    /// Returns whether the rule applies to a case.
    pub(crate) applies: fn(&Case<'_>) -> bool,
    /// The fields that may differ, each with our value, if it is always the same.
    pub(crate) differs: &'static [(&'static str, Option<&'static str>)],
}

impl Rule {
    /// Returns whether the rule allows `field` to be `got`.
    pub(crate) fn explains(&self, field: &str, got: &Value) -> bool {
        let got = got.as_str().map_or_else(|| got.to_string(), str::to_owned);
        let mut fields = self.differs.iter();
        fields.any(|&(name, ours)| name == field && ours.is_none_or(|ours| ours == got))
    }
}

/// The differences of a request whose headers we refuse: the verdict, and the reason for the peer.
const REFUSED: &[(&str, Option<&str>)] = &[
    ("expect", Some("invalid")),
    ("sender", Some("null")),
    ("status", Some("401")),
    ("error", None),
    ("body", None),
    ("response_body", None),
    ("expect", Some("401")),
    ("response_headers", None),
    ("response_signed", Some("false")),
    ("response_signature_valid", Some("false")),
    ("ledger_growth", Some("0")),
];

/// The differences of a request that we answer with 403 and v1 peers do not.
const FORBIDDEN: &[(&str, Option<&str>)] = &[
    ("expect", Some("403")),
    ("status", Some("403")),
    ("response_headers", None),
    ("response_body", None),
    ("ledger_growth", Some("0")),
];

/// The differences of a request that we answer with 400 and v1 peers do not.
const BAD_REQUEST: &[(&str, Option<&str>)] = &[
    ("expect", Some("400")),
    ("status", Some("400")),
    ("response_headers", None),
    ("response_body", None),
    ("ledger_growth", Some("0")),
];

/// All rules.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "page-before-equal-times",
        reason: "a page for a v1 client ends before a group of equal times, which its cursor would skip",
        seen_by: &[MESH],
        applies: cuts_equal_times,
        differs: &[
            ("event_ids", None),
            ("next_cursor", None),
            ("response_body", None),
        ],
    },
    Rule {
        id: "repeated-header",
        reason: "of two values one reader believes the first and another the last",
        seen_by: &[PROTO, MESH],
        applies: |case| is_header_verdict(case) && has_repeated_header(case),
        differs: REFUSED,
    },
    Rule {
        id: "second-spelling-of-time",
        reason: "with `+5` or `005` beside `5`, one signature would be several requests for a replay cache",
        seen_by: &[PROTO, MESH],
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
        seen_by: &[PROTO, MESH],
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
        reason: "v1 peers crash on an event without the payload of its service; we refuse it as invalid",
        seen_by: &[PROTO],
        applies: |case| case.file() == "event_decode.json" && lacks_payload(case),
        differs: &[("content_panics", Some("false"))],
    },
    Rule {
        id: "from-is-the-sender",
        reason: "v1 peers let a peer ask, and forward a zine, in the name of any other peer",
        seen_by: &[MESH],
        applies: |case| Exchange::of(case).is_some_and(|exchange| exchange.speaks_for_another()),
        differs: FORBIDDEN,
    },
    Rule {
        id: "emitter-is-the-sender",
        reason: "a direct message that another nara signed is a replay of an earlier message to another nara",
        seen_by: &[MESH],
        applies: |case| {
            Exchange::of(case).is_some_and(|exchange| {
                exchange
                    .signed_message()
                    .is_some_and(|event| event.emitter != exchange.sender && !is_payload_missing(&event))
            })
        },
        differs: FORBIDDEN,
    },
    Rule {
        id: "message-without-payload",
        reason: "v1 peers crash on a direct message without the payload of its service",
        seen_by: &[MESH],
        applies: |case| {
            Exchange::of(case).is_some_and(|exchange| {
                exchange
                    .addressed_message()
                    .is_some_and(|event| is_payload_missing(&event))
            })
        },
        differs: BAD_REQUEST,
    },
    Rule {
        id: "message-with-forged-id",
        reason: "an event under the id of another keeps that event out of every ledger",
        seen_by: &[MESH],
        applies: |case| {
            Exchange::of(case).is_some_and(|exchange| {
                exchange.signed_message().is_some_and(|event| {
                    event.emitter == exchange.sender && event.validate().is_ok() && !event.has_genuine_id()
                })
            })
        },
        differs: BAD_REQUEST,
    },
    Rule {
        id: "short-world-id",
        reason: "v1 peers crash when they forward a world message with an id shorter than 8 bytes",
        seen_by: &[MESH],
        applies: |case| Exchange::of(case).is_some_and(|exchange| exchange.relays_short_id()),
        differs: BAD_REQUEST,
    },
    Rule {
        id: "message-of-its-originator",
        reason: "a world message without hops is proven by its sender alone, but v1 peers let it name any originator",
        seen_by: &[MESH],
        applies: |case| Exchange::of(case).is_some_and(|exchange| exchange.sends_off_for_another()),
        differs: FORBIDDEN,
    },
    Rule {
        id: "crash-on-batch",
        reason: "v1 peers crash on a zine or import with an event without payload or with a short id; we refuse the event",
        seen_by: &[MESH],
        applies: |case| {
            case.peek("expect").is_some_and(|expect| expect == "aborted")
                && Exchange::of(case)
                    .is_some_and(|exchange| !exchange.speaks_for_another() && exchange.batch().is_some())
        },
        differs: &[("expect", Some("200"))],
    },
    Rule {
        id: "event-of-batch-refused",
        reason: "v1 peers store events of zines and imports without checking ids and signatures",
        seen_by: &[MESH],
        applies: |case| {
            is_answered_with_200(case)
                && Exchange::of(case).is_some_and(|exchange| exchange.has_event_that_only_we_refuse())
        },
        differs: &[
            ("ledger_growth", None),
            ("response_headers", None),
            ("response_body", None),
        ],
    },
    Rule {
        id: "own-observations",
        reason: "v1 peers store an unsigned event for each new nara they see; here the application does",
        seen_by: &[MESH],
        applies: |case| {
            is_answered_with_200(case)
                && Exchange::of(case).is_some_and(|exchange| {
                    let batch = exchange.batch().map(|events| events.len());
                    let events = batch.or_else(|| exchange.kept_message().map(|_| 1));
                    let growth = case.peek("ledger_growth").and_then(Value::as_u64).unwrap_or(0);
                    !exchange.speaks_for_another()
                        && !exchange.has_event_that_only_we_refuse()
                        && events.is_some_and(|events| growth > events as u64)
                })
        },
        differs: &[
            ("ledger_growth", None),
            ("response_headers", None),
            ("response_body", None),
        ],
    },
    Rule {
        id: "unsigned-answer",
        reason: "v1 peers trust any responder; by default we require the signature of the peer",
        seen_by: &[MESH],
        applies: |case| {
            case.file() == "client_wire.json"
                && header(case, "X-Nara-Signature").is_some()
                && case.peek("expect").is_some_and(|expect| expect == "ok")
        },
        differs: &[("expect_by_default", Some("unauthenticated"))],
    },
    Rule {
        id: "answer-not-decodable",
        reason: "v1 peers ignore the body of an answer to a ping, a direct or a world message; we decode it",
        seen_by: &[MESH],
        applies: |case| case.file() == "client_wire.json" && has_unread_nonsense(case),
        differs: &[("expect", Some("error")), ("expect_by_default", Some("error"))],
    },
];

/// Returns whether a call that only needs the status got a body that its endpoint never returns.
fn has_unread_nonsense(case: &Case<'_>) -> bool {
    let text = |field: &str| case.peek(field).and_then(Value::as_str).unwrap_or_default();
    let body = text("server_body").as_bytes();
    case.peek("server_status").is_some_and(|status| status == 200)
        && match text("request_target") {
            Ping::PATH => Ping::decode(body).is_err(),
            DirectMessage::PATH => DirectMessage::decode(body).is_err(),
            WorldRelay::PATH => WorldRelay::decode(body).is_err(),
            _ => false,
        }
}

fn is_answered_with_200(case: &Case<'_>) -> bool {
    case.peek("status").is_some_and(|status| status == 200)
}

/// An authenticated request of `http.json` with the right method.
struct Exchange {
    path: String,
    sender: String,
    body: Vec<u8>,
    keys: Keys,
    now: UnixNanos,
    known_ids: BTreeSet<String>,
}

/// The keys that the server of the fixture knows.
#[derive(Default)]
struct Keys {
    by_name: BTreeMap<String, PublicKey>,
    by_id: BTreeMap<String, PublicKey>,
}

impl KeyLookup for Keys {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        self.by_name.get(name).copied().into()
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        self.by_id.get(id).copied().into()
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        match (self.by_id.get(id), self.by_name.get(name)) {
            (None, None) => None,
            (of_id, of_name) => Some(of_id == of_name),
        }
    }
}

impl Exchange {
    fn of(case: &Case<'_>) -> Option<Self> {
        if case.file() != "http.json" || case.peek("status").is_some_and(|status| status == 401) {
            return None;
        }
        if case.peek("method")? != "POST" {
            return None;
        }
        let fixture = case.fixture().ok()?;
        let mut keys = Keys::default();
        let peers = fixture.peek("known_peers")?.as_array()?.iter();
        for nara in peers.chain([fixture.peek("server")?]) {
            let text = |field: &str| nara.get(field)?.as_str();
            let key = PublicKey::from_base64(text("public_key_b64")?).ok()?;
            keys.by_name.insert(text("name")?.to_owned(), key);
            keys.by_id.insert(text("nara_id")?.to_owned(), key);
        }
        let ledger = fixture.peek("ledger")?.as_array()?.iter();
        let known_ids = ledger
            .filter_map(|event| {
                let event: SyncEvent = go_json::from_slice(event.as_str()?.as_bytes()).ok()?;
                Some(event.id)
            })
            .collect();
        let target = case.peek("request_target")?.as_str()?;
        Some(Self {
            path: target.split('?').next().unwrap_or_default().to_owned(),
            sender: header(case, "X-Nara-Name").unwrap_or_default().to_owned(),
            body: case.peek("request_body")?.as_str()?.as_bytes().to_vec(),
            keys,
            now: UnixMillis::new(case.peek("server_now_ms")?.as_i64()?).to_nanos(),
            known_ids,
        })
    }

    fn body<T: Merge, E: Endpoint>(&self) -> Option<T> {
        if self.path == E::PATH {
            go_json::from_slice(&self.body).ok()
        } else {
            None
        }
    }

    /// Returns whether a zine or sync request claims another nara than the sender.
    fn speaks_for_another(&self) -> bool {
        let zine = self.body::<Zine, GossipZine>().map(|zine| zine.from);
        let from = zine.or_else(|| self.body::<SyncRequest, EventsSync>().map(|request| request.from));
        from.is_some_and(|from| !from.is_empty() && from != self.sender)
    }

    /// Returns a direct message that names an emitter with a known key and has some signature.
    fn addressed_message(&self) -> Option<SyncEvent> {
        let event = self.body::<SyncEvent, DirectMessage>()?;
        (event.is_signed() && self.keys.key_of_name(&event.emitter).is_some()).then_some(event)
    }

    /// Returns a direct message whose signature is valid under its emitter's key.
    fn signed_message(&self) -> Option<SyncEvent> {
        let event = self.addressed_message()?;
        let key = self.keys.key_of_name(&event.emitter)?;
        event.verify(&key).ok()?;
        Some(event)
    }

    /// Returns a direct message that we store, too.
    fn kept_message(&self) -> Option<SyncEvent> {
        let event = self.signed_message()?;
        let kept = event.emitter == self.sender && event.validate().is_ok() && event.has_genuine_id();
        kept.then_some(event)
    }

    fn relays_short_id(&self) -> bool {
        self.body::<WorldMessage, WorldRelay>().is_some_and(|message| {
            message.id.len() < MIN_ID_LEN && message.verify_chain(|name| self.keys.key_of_name(name)).is_ok()
        })
    }

    /// Returns whether a world message without hops names another originator than the sender.
    fn sends_off_for_another(&self) -> bool {
        self.body::<WorldMessage, WorldRelay>().is_some_and(|message| {
            message.id.len() >= MIN_ID_LEN && message.hops().is_empty() && message.originator != self.sender
        })
    }

    /// Returns the events of a zine or import.
    fn batch(&self) -> Option<Vec<SyncEvent>> {
        let zine = self.body::<Zine, GossipZine>().map(|zine| zine.events);
        let events = zine.or_else(|| {
            self.body::<ImportRequest, EventsImport>()
                .map(|request| request.events)
        });
        events.map(Option::unwrap_or_default)
    }

    /// Returns whether a batch has an event that v1 peers store and we refuse: well formed and new, but with a forged
    /// id, a bad signature, or none although it must be signed.
    fn has_event_that_only_we_refuse(&self) -> bool {
        if self.speaks_for_another() {
            return false;
        }
        let mut events = self.batch().unwrap_or_default();
        let reception = EventReception {
            now: self.now,
            random: [7; 32],
        };
        let verdicts = verify_events(&mut events, &self.keys, reception);
        events.iter().zip(verdicts).any(|(event, verdict)| {
            !self.known_ids.contains(&event.id)
                && verdict.is_err_and(|problem| !matches!(problem, EventProblem::Invalid(_)))
        })
    }
}

/// Every payload has some content, so an event with empty content lacks its payload.
fn is_payload_missing(event: &SyncEvent) -> bool {
    event.service().is_some() && event.content().is_empty()
}

/// Returns whether the case tests the verdict on authentication headers with all three present. For responses only the
/// verdict is compared, not the reason, so a response that is refused anyway shows no difference.
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

/// Returns the first value of a header.
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

/// Returns whether the event of a case names a known service but lacks its payload.
fn lacks_payload(case: &Case<'_>) -> bool {
    let json = case.peek("json").and_then(Value::as_str);
    json.and_then(|json| go_json::from_slice::<SyncEvent>(json.as_bytes()).ok())
        .is_some_and(|event| is_payload_missing(&event))
}

/// Returns whether a page ends between two events of one time, and has an earlier position to end at.
fn cuts_equal_times(case: &Case<'_>) -> bool {
    let is_page = case
        .peek("request_json")
        .and_then(Value::as_str)
        .and_then(|json| go_json::from_slice::<SyncRequest>(json.as_bytes()).ok())
        .is_some_and(|request| request.mode == "page");
    let texts = |field: &str| -> Vec<String> {
        let list = case.peek(field).and_then(Value::as_array);
        let texts = list.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    };
    let page = texts("event_ids");
    let times: BTreeMap<String, UnixNanos> = texts("ledger")
        .iter()
        .filter_map(|json| go_json::from_slice::<SyncEvent>(json.as_bytes()).ok())
        .map(|event| (event.id, event.ts))
        .collect();
    let Some(last) = page.last().and_then(|id| times.get(id)) else {
        return false;
    };
    let more_of_it = times.iter().any(|(id, time)| time == last && !page.contains(id));
    let some_before = page.iter().any(|id| times.get(id) != Some(last));
    is_page && more_of_it && some_before
}
